"""What the store pane reads off the GUI thread: the figures of a hook point, what stands at its rows, and one row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditor.store.facts import Contents, Facts
    from auditor.store.reader import Store
    from auditor.store.row import Row


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
class Looked:
    """The figures of one hook point."""

    facts: Facts
    contents: Contents


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

    return Looked(look(store, hook), contents(store, hook))


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
