"""The control of an edit: a change as long as its own, position by position, that means nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from auditor.models.edits.edit import Edit


class EqualChange(Edit):
    """At each position, a change of the length of `edit`'s own; another one for each of `seeds`, in its own row.

    Of an edit of one head or neuron (`columns`): the same edit of another head or neuron of that hook point, scaled to
    that length. Of any other: a random direction of that length.
    """

    def __init__(self, edit: Edit, seeds: Sequence[int]) -> None:
        super().__init__(edit.hook)
        self.edit, self.seeds = edit, list(seeds)

    def apply(self, x: Tensor) -> Tensor:
        # Row by row, as the edit itself runs: one that draws at random then draws alike, and the length is its own.
        change = torch.cat([self.edit.on_rows(x[row, None]) for row in range(len(x))]) - x
        return x + resized(self._elsewhere(x), change.norm(dim=-1, keepdim=True))

    def _elsewhere(self, x: Tensor) -> Tensor:
        """Shape of x, of any length."""
        columns, axis = self.edit.columns, 1 if x.ndim == 4 else x.ndim - 1
        drawn = [other_group(columns, x.shape[axis], seed) for seed in self.seeds]
        if any(other is None for other in drawn):
            return random_rows(x, self.seeds)
        whole = torch.cat([self.edit.apply(x[row, None]) for row in range(len(x))]) - x
        rows = [torch.where(self._chosen(other or [], x, axis, "channel"), row, torch.zeros_like(row))
                for other, row in zip(drawn, whole, strict=True)]  # fmt: skip
        return torch.stack(rows)


def other_group(columns: Sequence[int] | None, width: int, seed: int) -> list[int] | None:
    """The channels of another head or neuron than the one with `columns`; None where these are not one of several."""
    size = len(columns or ())
    if columns is None or size >= width or width % size or columns[0] % size:
        return None
    others = [at for at in range(width // size) if at != columns[0] // size]
    other = int(np.random.default_rng(seed).choice(others))
    return list(range(other * size, (other + 1) * size))


def random_rows(x: Tensor, seeds: Sequence[int]) -> Tensor:
    """One random direction for each row of the batch x [B, P, width], the same at all its positions."""
    drawn = [np.random.default_rng(seed).standard_normal(x.shape[-1]).astype(np.float32) for seed in seeds]
    rows = torch.from_numpy(np.stack(drawn)).to(x)
    return rows.view(len(seeds), *[1] * (x.ndim - 2), -1).expand_as(x)


def resized(change: Tensor, size: Tensor) -> Tensor:
    """`change` [B, P, width] made `size` [B, P, 1] long; zero where it has no length."""
    length = change.norm(dim=-1, keepdim=True)
    return change * torch.where(length > 0, size / length, torch.zeros_like(size))
