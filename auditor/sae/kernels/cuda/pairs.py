"""The (row, feature) pairs of a batch in the order of their features, so that one program meets all of a feature's."""

# mypy: ignore-errors

from __future__ import annotations

import torch
from torch import Tensor

from auditor.sae.kernels.cuda.language import blocks, jit, tl

_BLOCK = 256


@jit
def _index(
    keys, order, values, rows, sorted_values, starts, n, d_sae, rounds, K: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    which = tl.load(order + at, at < n, 0).to(tl.int32)
    tl.store(rows + at, which // K, at < n)
    tl.store(sorted_values + at, tl.load(values + which, at < n, 0), at < n)
    low, high = at * 0, at * 0 + n  # where feature `at` begins, by halving
    for _ in range(rounds):
        middle = (low + high) // 2
        more = low < high
        less = tl.load(keys + middle, more & (at <= d_sae), 0).to(tl.int32) < at
        low, high = tl.where(more & less, middle + 1, low), tl.where(more & (less == 0), middle, high)
    tl.store(starts + at, low, at <= d_sae)


def sort_pairs(
    ids: Tensor, values: Tensor, keys: Tensor, order: Tensor, rows: Tensor, sorted_values: Tensor, starts: Tensor
) -> None:
    """Sort the pairs ids, values [B, k] by feature, rows in order within one.

    Gives per pair its feature in `keys`, its row in `rows` int32 and its value in `sorted_values`, and in `starts`
    int32 [M + 1] where each feature's pairs begin. Ids of M are no pairs and come last. `order` int64 is scratch.
    """
    torch.sort(ids.flatten(), stable=True, out=(keys, order))
    n, d_sae = keys.shape[0], starts.shape[0] - 1
    _index[(blocks(max(n, d_sae + 1), _BLOCK),)](
        keys, order, values, rows, sorted_values, starts, n, d_sae, n.bit_length(), K=ids.shape[1], BLOCK=_BLOCK,
        num_warps=4,
    )
