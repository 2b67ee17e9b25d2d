"""What a recording was planned to take, and what each of its runs took, kept in the project until it is finished."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.base.errors import AuditorError
from auditor.tasks.task import Run

if TYPE_CHECKING:
    from auditor.store import Store

Part = dict[str, float | None]


class Spent:
    """Of the recording at `out`: what was `planned` before its first run (empty where nothing was), and its `parts`,
    one a run: the `positions` that it recorded and the `minutes` that it took, None where a kill left no word."""

    def __init__(self, run: Run, out: Path, base: Store | None) -> None:
        self.planned: dict[str, float] = {}
        self.parts: list[Part] = []
        self._catalogue, self._out = run.project.catalogue, out
        self._base = 0 if base is None else sum(group.n_rows for group in base.each_group())
        self._before = 0
        if out.exists():
            held = self._catalogue.spent(out)
            self.planned, self.parts = _numbers(held.get("planned")), _parts(held.get("parts"))
            self._before = self._positions()
            untold = self._before - sum(int(part["positions"] or 0) for part in self.parts)
            self.parts += [{"positions": untold, "minutes": None}] if untold > 0 else []
        self._keep()

    def plan(self, facts: Mapping[str, float]) -> None:
        """What is planned before the first run."""
        self.planned = dict(facts)
        self._keep()

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """The block is one run of the recording; if it ends early, what it took is kept."""
        begun = time.monotonic()
        try:
            yield
        except BaseException:
            with contextlib.suppress(AuditorError, OSError):  # what ended it is the one to tell
                self.parts.append(self._part(begun, self._positions()))
                self._keep()
            raise
        self._begun = begun

    def took(self, facts: Mapping[str, float]) -> dict[str, float]:
        """`facts` of the finished recording (`auditor.store.plan.took`) with the minutes of all its runs, or without
        any where those of one are not known."""
        self.parts.append(self._part(self._begun, int(facts["positions"])))
        known = [part["minutes"] for part in self.parts if part["minutes"] is not None]
        return dict(facts) | ({"minutes": sum(known)} if len(known) == len(self.parts) else {})

    def _part(self, begun: float, positions: int) -> Part:
        return {"positions": positions - self._before, "minutes": (time.monotonic() - begun) / 60}

    def _positions(self) -> int:
        """What is acknowledged, by several processes too."""
        from auditor.store import open_store
        from auditor.store.record import parts_of

        total = -self._base
        for folder in (self._out, *sorted(parts_of(self._out).glob("*.store"))):
            with contextlib.suppress(AuditorError):  # nothing was acknowledged there
                total += sum(group.n_rows for group in open_store(folder).each_group())
        return max(0, total)

    def _keep(self) -> None:
        self._catalogue.set_spent(self._out, {"planned": self.planned, "parts": self.parts})


def _numbers(held: Any) -> dict[str, float]:
    found = held.items() if isinstance(held, dict) else ()
    return {str(name): float(value) for name, value in found if isinstance(value, int | float)}


def _parts(held: Any) -> list[Part]:
    found = [_numbers(part) for part in held] if isinstance(held, list) else []
    return [{"positions": part["positions"], "minutes": part.get("minutes")} for part in found if "positions" in part]
