"""How long work tells what it does and hears that it should pause or stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from auditor.base.errors import Stop
from auditor.base.events import Event, Metric, Partial, Progress, Started


class Control:
    """The person's side of long work: cancel, pause, resume. Safe from any thread."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._running = threading.Event()
        self._running.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def paused(self) -> bool:
        return not self._running.is_set()

    def cancel(self) -> None:
        self._cancelled.set()
        self._running.set()

    def pause(self) -> None:
        if not self.cancelled:
            self._running.clear()

    def resume(self) -> None:
        self._running.set()

    def wait(self) -> None:
        """Block while paused."""
        self._running.wait()


class Reporter:
    """Takes what long work tells. This one drops it all, so it serves where nobody listens."""

    @property
    def rested(self) -> float:
        """Seconds for which work has been paused so far."""
        return 0.0

    def started(self, title: str, total: int = 0, unit: str = "") -> None:
        """Work begins: `total` units of `unit` lie ahead (0: unknown)."""

    def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
        """`done` of `total` units are finished. Raises Stop once cancelled; blocks while paused."""

    def metric(self, step: int, **values: float) -> None:
        """Figures measured at `step`."""

    def partial(self, kind: str, **data: Any) -> None:
        """Something to show before the end; plain values only."""

    def check(self) -> None:
        """Raises Stop once cancelled; blocks while paused."""


class EventReporter(Reporter):
    """Turns each call into an event for `put`, and obeys `control`."""

    def __init__(self, put: Callable[[Event], None], control: Control | None = None) -> None:
        self._put = put
        self.control = control or Control()
        self._rested = 0.0

    @property
    def rested(self) -> float:
        return self._rested

    def started(self, title: str, total: int = 0, unit: str = "") -> None:
        self._put(Started(title=title, total=total, unit=unit))

    def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
        self._put(Progress(done=done, total=total, note=note, unit=unit))
        self.check()

    def metric(self, step: int, **values: float) -> None:
        self._put(Metric(step=step, values=values))

    def partial(self, kind: str, **data: Any) -> None:
        self._put(Partial(kind=kind, data=data))

    def check(self) -> None:
        if self.control.paused:
            begun = time.monotonic()
            self.control.wait()
            self._rested += time.monotonic() - begun
        if self.control.cancelled:
            raise Stop


class Part(Reporter):
    """Tells the steps of one part of `whole` as steps of all of it: `size` of its `total` units, from `begun` on."""

    def __init__(self, whole: Reporter, begun: int, size: int, total: int) -> None:
        self._whole, self._begun, self._size, self._total = whole, begun, size, total

    @property
    def rested(self) -> float:
        return self._whole.rested

    def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
        reached = self._size * min(done, total) // total if total else 0
        self._whole.step(self._begun + reached, self._total, note, unit)

    def check(self) -> None:
        self._whole.check()
