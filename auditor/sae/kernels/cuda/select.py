"""The k largest positive scores of each row, exactly, reading the scores once.

A group of 16 columns can only hold one of the k largest if its maximum is among the k largest maxima (ties: the group
further left), and so for 16 groups in turn. One pass finds the maxima of both sizes; then k of the large groups, k of
the small ones within these, and k columns within those are chosen, a few hundred keys each time. Positive bfloat16
numbers order as their bit patterns do, so thresholds are found by halving integers. Everything at or below zero, and
NaN, counts as absent, because ReLU would make it zero.
"""

# mypy: ignore-errors

from __future__ import annotations

import torch
from torch import Tensor

from auditor.sae.kernels.cuda.language import blocks, jit, padded, tl

# Columns in a group and groups in a large group; and the most keys that one program holds.
_GROUP, _MOST_KEYS = 16, 16384


@jit
def _group_maxima(
    scores, maxima, large, width, n_groups, n_large, parts, GROUP: tl.constexpr, BLOCK: tl.constexpr
):
    row, part = (tl.program_id(0) // parts).to(tl.int64), tl.program_id(0) % parts
    group = part * BLOCK + tl.arange(0, BLOCK)
    column = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    key = tl.load(scores + row * width + column, mask=column < width, other=0)
    key = tl.max(tl.where((key < 0) | (key > 0x7F80), 0, key), 1)  # 0x7F80 is infinity; beyond it lies NaN
    tl.store(maxima + row * n_groups + group, key, mask=group < n_groups)
    of = part * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
    tl.store(large + row * n_large + of, tl.max(tl.reshape(key, [BLOCK // GROUP, GROUP]), 1), mask=of < n_large)


@jit
def _largest(key, k):
    """Mask of the k largest positive keys, ties to the left, and the place of each among those chosen."""
    # The k-th largest mostly lies within a factor of four (two exponents, 256 keys) of the largest.
    low, high, step = 0, tl.max(key, 0) + 1, 256
    while high - low > 1:
        trial = (low + high) // 2
        if low == 0:
            trial = tl.maximum(trial, high - step)
            step = tl.minimum(step * 4, 1 << 16)
        if tl.sum((key >= trial).to(tl.int32), 0) >= k:
            low = trial
        else:
            high = trial
    above = (key > low).to(tl.int32)
    level = ((key == low) & (key > 0)).to(tl.int32)
    room = k - tl.sum(above, 0)
    seen = tl.cumsum(above + (level << 16), 0)
    nth = seen >> 16
    chosen = (above > 0) | ((level > 0) & (nth <= room))
    return chosen, (seen & 0xFFFF) + tl.minimum(nth, room) - 1


@jit
def _keep(what, chosen, place, out, rest, k, SLOTS: tl.constexpr):
    """Store what is chosen in its place, and `rest` in the places left over."""
    tl.store(out + place, what.to(out.dtype.element_ty), mask=chosen)
    slot = tl.arange(0, SLOTS)
    empty = (slot >= tl.sum(chosen.to(tl.int32), 0)) & (slot < k)
    tl.store(out + slot, (slot * 0 + rest).to(out.dtype.element_ty), mask=empty)


@jit
def _choose(
    scores, maxima, large, chosen_large, chosen_groups, values, ids, width, n_groups, n_large, k,
    GROUP: tl.constexpr, LARGE: tl.constexpr, SLOTS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    scores, maxima, large = scores + row * width, maxima + row * n_groups, large + row * n_large
    chosen_large, chosen_groups, values, ids = (
        chosen_large + row * k, chosen_groups + row * k, values + row * k, ids + row * k
    )
    at = tl.arange(0, LARGE)
    chosen, place = _largest(tl.load(large + at, at < n_large, 0).to(tl.int32), k)
    _keep(at, chosen, place, chosen_large, n_large, k, SLOTS)
    tl.debug_barrier()  # what one thread stored another one loads
    i = tl.arange(0, SLOTS * GROUP)
    at = tl.load(chosen_large + i // GROUP, i // GROUP < k, n_large) * GROUP + i % GROUP
    chosen, place = _largest(tl.load(maxima + at, at < n_groups, 0).to(tl.int32), k)
    _keep(at, chosen, place, chosen_groups, n_groups, k, SLOTS)
    tl.debug_barrier()
    at = tl.load(chosen_groups + i // GROUP, i // GROUP < k, n_groups) * GROUP + i % GROUP
    key = tl.load(scores + at, at < width, 0).to(tl.int32)
    key = tl.where((key < 0) | (key > 0x7F80), 0, key)
    chosen, place = _largest(key, k)
    _keep(at, chosen, place, ids, width, k, SLOTS)
    _keep(key, chosen, place, values, 0, k, SLOTS)


def fits(width: int, k: int) -> bool:
    """Whether the kernels select k of `width` scores."""
    return max(padded(blocks(width, _GROUP**2)), padded(k) * _GROUP) <= _MOST_KEYS


class Selection:
    """Selects k of `width` scores in up to `rows` rows; holds scratch."""

    def __init__(self, rows: int, width: int, k: int, block: int, warps: int, device: torch.device) -> None:
        self.k, self.width, self.warps, self.slots = k, width, warps, padded(k)
        self.n_groups, self.n_large = blocks(width, _GROUP), blocks(width, _GROUP**2)
        self.block = max(_GROUP, min(block, padded(self.n_groups)))
        if not fits(width, k):
            raise ValueError(f"{k} of {width} features are more than the kernels select")

        def of(size: int, kind: torch.dtype) -> Tensor:
            return torch.empty(rows, size, dtype=kind, device=device)

        self.maxima, self.large = of(self.n_groups, torch.int16), of(self.n_large, torch.int16)
        self.chosen_groups, self.chosen_large = of(k, torch.int32), of(k, torch.int32)

    def run(self, scores: Tensor, values: Tensor, ids: Tensor) -> None:
        """The k largest positive entries of scores bfloat16 [R, M] into `values` bfloat16 and `ids` [R, k], ids rising.

        Ties go to the lower id. Places left over, where fewer than k are positive, get value 0 and id M.
        """
        keys, rows = scores.view(torch.int16), len(scores)
        parts = blocks(self.n_groups, self.block)
        _group_maxima[(rows * parts,)](
            keys, self.maxima, self.large, self.width, self.n_groups, self.n_large, parts, GROUP=_GROUP,
            BLOCK=self.block, num_warps=4,
        )
        _choose[(rows,)](
            keys, self.maxima, self.large, self.chosen_large, self.chosen_groups, values.view(torch.int16), ids,
            self.width, self.n_groups, self.n_large, self.k, GROUP=_GROUP, LARGE=padded(self.n_large),
            SLOTS=self.slots, num_warps=self.warps,
        )
