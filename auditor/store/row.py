"""One row of a store and where it comes from: its sample, its place in it, its numbers, and those beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from auditor.base.errors import AuditorError
from auditor.store.layout import KINDS
from auditor.store.reader import Store
from auditor.store.samples import StoredSample

# Of a sample with more numbers only the rows around the one that is looked at are read.
MOST_NUMBERS = 16 << 20
_NAMES = {code: kind for kind, code in KINDS.items()}


@dataclass(frozen=True)
class Row:
    """Row `number` of a hook point. `kind`, `unit` and `token` (id, −1: none) as stored; `values` float32 [width].

    `sample` is the one it comes from; `beside` float32 [m, width] are the rows of it from `first` on, `units` and
    `kinds` [m] theirs, and `beside[here]` is the row itself. `tokens` has a string for each of them, or is empty.
    """

    number: int
    hook: str
    kind: str
    unit: int
    token: int
    values: np.ndarray
    sample: StoredSample
    first: int
    here: int
    beside: np.ndarray
    units: np.ndarray
    kinds: np.ndarray
    tokens: tuple[str, ...]

    @property
    def norm(self) -> float:
        return float(np.linalg.norm(self.values))

    def told(self, n: int = 8) -> dict[str, Any]:
        """As plain values, with the `n` largest numbers."""
        around = self.tokens[max(0, self.here - n) : self.here + n + 1]
        largest = ", ".join(f"{at}: {self.values[at]:.4g}" for at in self.largest(n))
        return {
            "hook": self.hook, "row": self.number, "sample": self.sample.id, "group": self.sample.group,
            "labels": ", ".join(f"{name} {value}" for name, value in self.sample.labels.items()),
            "kind": self.kind, "unit": self.unit, "token": self.token, **self._in_picture(),
            "text": self.tokens[self.here] if self.tokens else "", "around": "".join(around), "norm": self.norm,
            "largest": largest,
        }  # fmt: skip

    def _in_picture(self) -> dict[str, int]:
        """Of a patch which picture of the sample it is of, and where it is there, counted from 1."""
        place = self.sample.place(self.unit) if self.kind == "image" else None
        if place is None:
            return {}
        picture, row, column = place
        return {"picture": picture + 1, "patch_row": row + 1, "patch_column": column + 1}

    def largest(self, n: int = 24) -> np.ndarray:
        """The dimensions of the largest magnitude, largest first."""
        return np.argsort(-np.abs(self.values), kind="stable")[:n]

    def patches(self, of: np.ndarray) -> np.ndarray | None:
        """`of` [m], one value for each row of `beside`, laid over the picture's grid [rows, columns]; NaN where no row
        is. None without a grid."""
        if self.sample.grid is None or _NAMES.get(int(self.kinds[self.here])) not in ("image", "special"):
            return None
        rows, columns = self.sample.grid
        found = np.full(rows * columns, np.nan)
        seen = (self.kinds == KINDS["image"]) & (self.units >= 0) & (self.units < len(found))
        found[self.units[seen]] = of[seen]
        return found.reshape(rows, columns) if seen.any() else None


def row_of(store: Store, hook: str | None, number: int) -> Row:
    """Row `number` of a hook point. AuditorError where the store has no such row."""
    name = store.hook(hook)
    held = store.at(name)
    if not held.n_rows:
        raise AuditorError(f"The store “{store.name}” has no rows at {name}.", "Choose another hook point.")
    if not 0 <= number < held.n_rows:
        raise AuditorError(f"The store “{store.name}” has no row {number:,}.", f"Rows are 0 to {held.n_rows - 1:,}.")
    sample = held.sample_of(number)
    width = held.hook_points[name]
    most = max(1, MOST_NUMBERS // width)
    start = sample.first_row
    if sample.n_rows > most:
        start = min(max(start, number - most // 2), sample.first_row + sample.n_rows - most)
    stop = min(start + most, sample.first_row + sample.n_rows)
    beside, at = held.rows(slice(start, stop), name), held.positions(slice(start, stop))
    here = number - start
    tokens: tuple[str, ...] = ()
    if sample.tokens is not None and len(sample.tokens) == sample.n_rows:
        tokens = tuple(sample.tokens[start - sample.first_row : stop - sample.first_row])
    return Row(
        number, name, _NAMES.get(int(at.kind[here]), "other"), int(at.unit[here]), int(at.token[here]), beside[here],
        sample, start, here, beside, at.unit, at.kind, tokens,
    )  # fmt: skip
