"""What the store pane reads off the GUI thread: the figures of a hook point, what stands at its rows, and one row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.ui.widgets import numbers

if TYPE_CHECKING:
    from auditor.store.facts import Contents, Facts
    from auditor.store.reader import Store
    from auditor.store.row import Row

_BINS = 60
_BEYOND = 0.999  # the few longest rows would press all others into one bin


@dataclass(frozen=True)
class Opened:
    """A store: its size on disk, whether it is finished, how its numbers are kept and what int8 cost, and how it was
    made as (group, name, text)."""

    store: Store
    bytes: int
    complete: bool
    numbers: str
    rounding: dict[str, float]
    hooks: dict[str, int]
    made: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Lengths:
    """How long rows are: how many of each kind are between which `edges`, and a line on each kind."""

    edges: np.ndarray
    counts: dict[str, list[int]]
    lines: list[str]


@dataclass(frozen=True)
class Looked:
    """The figures of one hook point."""

    facts: Facts
    contents: Contents
    lengths: Lengths


def opened(path: Path) -> Opened:
    """Open a store. AuditorError where it is damaged."""
    from auditor.store import open_store
    from auditor.store.facts import stored_bytes

    store = open_store(path)
    rounding = {hook: cost.fvu for hook, cost in store.quantisation().items()}
    return Opened(
        store, stored_bytes(store), store.complete, store.dtype, rounding, dict(store.hook_points),
        list(_lines(store.meta)),
    )  # fmt: skip


def looked(store: Store, hook: str) -> Looked:
    """Look at the rows of a hook point."""
    from auditor.store.facts import contents, look

    facts = look(store, hook)
    return Looked(facts, contents(store, hook), lengths_of(facts.norms))


def lengths_of(norms: dict[str, np.ndarray]) -> Lengths:
    """The distribution of the norms of rows by kind; millions take most of a second. The scale is that of ordinary
    rows."""
    usual = {kind: held for kind, held in norms.items() if kind != "special"} or norms
    every = np.concatenate(list(usual.values())) if usual else np.zeros(1)
    top, low = float(np.quantile(every, _BEYOND)) * 1.02 or 1.0, float(every.min())
    edges = np.linspace(low if low < top else 0.0, top, _BINS + 1)
    counts = {kind: np.histogram(held, edges)[0].tolist() for kind, held in usual.items()}
    return Lengths(edges, counts, [_line_of(kind, held, edges) for kind, held in norms.items()])


def _line_of(kind: str, norms: np.ndarray, edges: np.ndarray) -> str:
    """Median, spread and the longest of one kind, over how many rows; how many are beyond the plot."""
    low, middle, high = np.quantile(norms, (0.05, 0.5, 0.95))
    beyond = int((norms > edges[-1]).sum())
    some = "" if beyond == len(norms) else f"{numbers.count(beyond)} "
    where = f", {some}beyond the plot" if beyond else ""
    return (
        f"{kind.capitalize()}: median {numbers.figure(float(middle))}, 90 % between {numbers.figure(float(low))} and "
        f"{numbers.figure(float(high))}, longest {numbers.figure(float(norms.max()))} "
        f"(n = {numbers.count(len(norms))}{where})"
    )


def row(store: Store, hook: str, number: int) -> Row:
    """One row."""
    from auditor.store.row import row_of

    return row_of(store, hook, number)


def _lines(held: Any, above: str = "", depth: int = 0) -> list[tuple[str, str, str]]:
    """Nested facts as (group, name, text), in the order in which they are kept."""
    found = []
    for name, value in held.items():
        path = f"{above}, {name}" if above and depth > 1 else name
        if isinstance(value, dict) and value and depth < 3:
            found += _lines(value, above=name if not depth else path, depth=depth + 1)
        elif value not in (None, "", [], {}):
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            found.append((above.partition(",")[0] if depth else "", path, text))
    return found
