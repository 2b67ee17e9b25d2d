"""The k largest entries of each row, exactly, faster than one pass of torch.topk over wide rows on a CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_GROUPS = (16, 8, 4)
_MOST_KEYS = 1 << 12


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values [B, k], ids int64 [B, k]), unordered, of the k largest in each row of scores [B, M].

    Columns are split into strided groups. The k largest entries lie in the k groups with the largest maxima, because a
    group outside them has k entries above it; so only those groups are looked at. Ties are broken arbitrarily, as
    torch.topk does.
    """
    groups = _group_size(scores, k)
    if groups == 1 or not scores.is_contiguous():
        return scores.topk(k, dim=1, sorted=False)
    stride = scores.shape[1] // groups
    best = scores.view(-1, groups, stride).amax(1).topk(k, dim=1, sorted=False)[1]
    columns = (best[:, None, :] + torch.arange(0, scores.shape[1], stride, device=best.device)[:, None]).flatten(1)
    values, places = scores.gather(1, columns).topk(k, dim=1, sorted=False)
    return values, columns.gather(1, places)


def group_max(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values [B, k], ids int64 [B, k]) of the largest of each of k groups of neighbours of scores [B, M], k | M."""
    size = scores.shape[1] // k
    values, places = scores.reshape(len(scores), k, size).max(2)
    return values, places + torch.arange(0, scores.shape[1], size, device=scores.device)


def nearly_top_k(scores: Tensor, k: int) -> Tensor:
    """ids int64 [B, k] of the k largest positive entries in each row of scores float32 [B, M], M ≤ 2²⁰, to 2⁻¹¹ or so.

    Entries that differ by less than their lowest mantissa bits may change places, since these bits carry the column:
    numpy then selects on whole 32-bit keys with vector instructions, several times faster than value-index pairs.
    Where fewer than k entries are positive, some ids point at entries that are not.
    """
    groups = _group_size(scores, k)
    stride = scores.shape[1] // groups
    if groups == 1 or not scores.is_contiguous() or stride > _MOST_KEYS:
        return top_k(scores, k)[1]
    best = _largest_keys(scores.view(-1, groups, stride).amax(1), k)
    columns = (best[:, None, :] + torch.arange(0, scores.shape[1], stride)[:, None]).flatten(1)
    return columns.gather(1, _largest_keys(scores.gather(1, columns), k))


def _largest_keys(scores: Tensor, k: int) -> Tensor:
    """Columns of the k largest; negative scores count as 0. Writes into `scores`."""
    width = scores.shape[1]
    bits = (1 << (width - 1).bit_length()) - 1
    plain = scores.numpy()
    np.maximum(plain, 0, out=plain)
    keys = plain.view(np.int32)  # positive floats order as their bit patterns do
    keys &= ~bits
    keys |= np.arange(width, dtype=np.int32)
    keys.partition(width - k, axis=1)
    return torch.from_numpy((keys[:, width - k :] & bits).astype(np.int64))


def _group_size(scores: Tensor, k: int) -> int:
    """Entries per group: the most that leaves groups enough for the first pass to throw most of the row away."""
    if scores.is_cuda or scores.dtype != torch.float32:
        return 1
    width = scores.shape[1]
    return next((g for g in _GROUPS if width % g == 0 and width // g >= 6 * k), 1)
