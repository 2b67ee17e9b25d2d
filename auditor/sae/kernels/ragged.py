"""A matrix whose rows hold varying numbers of entries, and products with it that never make it dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn import functional

from auditor.sae.kernels.sparse import Columns

Array = np.ndarray


@dataclass
class Ragged:
    """Entries of [B, M], row by row: `values` float32 [n], `ids` int32 [n] rising within each row, `offsets` int32
    [B + 1] where rows start."""

    values: Tensor
    ids: Tensor
    offsets: Tensor
    width: int

    def __post_init__(self) -> None:
        counts = self.offsets.diff()
        self.rows = torch.repeat_interleave(torch.arange(len(counts), dtype=torch.int32), counts)

    @classmethod
    def of(cls, parts: Sequence[tuple[Array, Array, Array]], width: int) -> Ragged:
        """From (values, ids, entries per row) of consecutive blocks of rows."""
        values, ids, counts = (np.concatenate(of_blocks) for of_blocks in zip(*parts, strict=True))
        offsets = np.zeros(len(counts) + 1, dtype=np.int32)
        np.cumsum(counts, out=offsets[1:])
        return cls(torch.from_numpy(values), torch.from_numpy(ids), torch.from_numpy(offsets), width)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def kept(self, keep: Tensor) -> Ragged:
        """The entries where `keep` [n] is true."""
        before = functional.pad(keep.cumsum(0, dtype=torch.int32), (1, 0))
        offsets = before.index_select(0, self.offsets)
        return Ragged(self.values[keep], self.ids[keep], offsets, self.width)

    def of_each(self, feature: Tensor) -> Tensor:
        """The entries' [n] share of a tensor [M] with one number a feature."""
        return feature.index_select(0, self.ids)

    def decode(self, values: Tensor, weight: Tensor) -> Tensor:
        """Z @ weight [B, D], where Z has `values` [n] at these places; weight [M, D]."""
        return functional.embedding_bag(self.ids, weight, self.offsets[:-1], per_sample_weights=values, mode="sum")

    def sampled(self, x: Tensor, weight: Tensor) -> Tensor:
        """(x @ weightᵀ) at these places, [n]; x [B, D], weight [M, D]."""
        # The gradient of embedding_bag to its sample weights is this product, in one pass over cache-resident rows.
        dots: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            x, weight, self.ids, self.offsets[:-1], self.rows, 0, -1
        )
        return dots


def columns_of(entries: Ragged) -> Columns:
    """The same entries sorted by feature, for products with Zᵀ."""
    places, size = np.arange(len(entries.ids), dtype=np.int32), (len(entries), entries.width)
    # scipy's transposition counts and places in two passes; sorting by feature takes longer.
    by_feature = csr_matrix((places, entries.ids.numpy(), entries.offsets.numpy()), shape=size).tocsc()
    starts, rows, order = (torch.from_numpy(a) for a in (by_feature.indptr, by_feature.indices, by_feature.data))
    return Columns(starts, rows, order, size[::-1])


def sums(entries: Ragged, values: Tensor) -> Tensor:
    """Σ of `values` [n] over each feature's entries, [M]."""
    return torch.zeros(entries.width).index_add_(0, entries.ids, values)
