"""The k largest positive scores of each row, exactly, in two stages that read the scores once.

A group of columns can only hold one of the k largest if its maximum is among the k largest maxima (ties: the group
further left). So one pass finds the groups' maxima, and only k groups a row are looked at again. Positive bfloat16
numbers order as their bit patterns do; a threshold is found bit by bit in 15 rounds of counting. Everything at or below
zero, and NaN, counts as absent, because ReLU would make it zero.
"""

# mypy: ignore-errors

from __future__ import annotations

import torch
from torch import Tensor

from auditor.sae.kernels.cuda.language import blocks, jit, padded, tl

# The most keys that one program holds: group maxima of a row, and columns of its k groups.
_MOST_GROUPS, _MOST_COLUMNS = 8192, 16384


@jit
def _group_maxima(scores, maxima, width, n_groups, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    column = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    key = tl.load(scores + row * width + column, mask=column < width, other=0)
    key = tl.where((key < 0) | (key > 0x7F80), 0, key)  # 0x7F80 is infinity; beyond it lies NaN
    tl.store(maxima + row * n_groups + group, tl.max(key, 1), mask=group < n_groups)


@jit
def _largest(key, k):
    """Mask of the k largest positive keys, ties to the left, and the place of each among those chosen."""
    bound = 0
    for bit in tl.static_range(15):
        trial = bound + (1 << (14 - bit))
        bound = tl.where(tl.sum((key >= trial).to(tl.int32), 0) >= k, trial, bound)
    above = (key > bound).to(tl.int32)
    level = ((key == bound) & (key > 0)).to(tl.int32)
    room = k - tl.sum(above, 0)
    seen = tl.cumsum(above + (level << 16), 0)
    nth = seen >> 16
    chosen = (above > 0) | ((level > 0) & (nth <= room))
    return chosen, (seen & 0xFFFF) + tl.minimum(nth, room) - 1


@jit
def _choose_groups(maxima, groups, n_groups, k, PADDED: tl.constexpr, SLOTS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, PADDED)
    key = tl.load(maxima + row * n_groups + group, mask=group < n_groups, other=0).to(tl.int32)
    chosen, place = _largest(key, k)
    tl.store(groups + row * k + place, group, mask=chosen)
    slot = tl.arange(0, SLOTS)
    tl.store(groups + row * k + slot, n_groups, mask=(slot >= tl.sum(chosen.to(tl.int32), 0)) & (slot < k))


@jit
def _choose_columns(
    scores, groups, values, ids, width, n_groups, k, GROUP: tl.constexpr, PADDED: tl.constexpr, SLOTS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, PADDED)
    group = tl.load(groups + row * k + i // GROUP, mask=i // GROUP < k, other=n_groups)
    column = group * GROUP + i % GROUP
    key = tl.load(scores + row * width + column, mask=column < width, other=0).to(tl.int32)
    key = tl.where((key < 0) | (key > 0x7F80), 0, key)
    chosen, place = _largest(key, k)
    tl.store(ids + row * k + place, column.to(ids.dtype.element_ty), mask=chosen)
    tl.store(values + row * k + place, key.to(tl.int16), mask=chosen)
    slot = tl.arange(0, SLOTS)
    empty = (slot >= tl.sum(chosen.to(tl.int32), 0)) & (slot < k)
    tl.store(ids + row * k + slot, (slot * 0 + width).to(ids.dtype.element_ty), mask=empty)
    tl.store(values + row * k + slot, (slot * 0).to(tl.int16), mask=empty)


def group_of(width: int, k: int) -> int:
    """Columns per group for rows of `width` scores; 0 where the two stages would not fit a program."""
    group = 16
    while padded(blocks(width, group)) > _MOST_GROUPS:
        group *= 2
    return group if padded(k) * group <= _MOST_COLUMNS else 0


def select(
    scores: Tensor, k: int, values: Tensor, ids: Tensor, maxima: Tensor, groups: Tensor, group: int, block: int,
    warps: tuple[int, int, int],
) -> None:
    """The k largest positive entries of scores bfloat16 [R, M] into `values` bfloat16 and `ids` [R, k], ids rising.

    Ties go to the lower id. Places left over, where fewer than k are positive, get value 0 and id M. `maxima` int16
    [R, M / group] and `groups` int32 [R, k] are scratch.
    """
    rows, width = scores.shape
    n_groups, slots = maxima.shape[1], padded(k)
    keys = scores.view(torch.int16)
    block = min(block, padded(n_groups))
    _group_maxima[(rows, blocks(n_groups, block))](
        keys, maxima, width, n_groups, GROUP=group, BLOCK=block, num_warps=warps[0]
    )
    _choose_groups[(rows,)](
        maxima, groups, n_groups, k, PADDED=padded(n_groups, slots), SLOTS=slots, num_warps=warps[1]
    )
    _choose_columns[(rows,)](
        keys, groups, values.view(torch.int16), ids, width, n_groups, k,
        GROUP=group, PADDED=slots * group, SLOTS=slots, num_warps=warps[2],
    )
