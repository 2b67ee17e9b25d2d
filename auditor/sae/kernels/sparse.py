"""Products with a matrix that has K entries in each row, never made dense: decode, sampled scores, weight gradients."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def decode(values: Tensor, ids: Tensor, weight: Tensor) -> Tensor:
    """Σ_j values[b, j] · weight[ids[b, j]] as [B, D], from values and ids [B, K] and weight [M, D]."""
    return functional.embedding_bag(ids, weight, per_sample_weights=values, mode="sum")


def sampled(x: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    """x[b] · weight[ids[b, j]] as [B, K], from x [B, D], weight [M, D], ids [B, K]."""
    rows, width = ids.shape
    # The gradient of embedding_bag to its sample weights is this product, in one pass over cache-resident rows
    # (a gather and a batched product takes several times as long).
    offsets = torch.arange(0, rows * width, width)
    bags = torch.arange(rows).repeat_interleave(width)
    dots: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        x, weight, ids.flatten(), offsets, bags, 0, -1
    )
    return dots.view(rows, width)


@dataclass
class Columns:
    """The entries of `ids` [B, K] sorted by feature: what Zᵀ as a CSR matrix [M, B] needs."""

    starts: Tensor
    rows: Tensor
    order: Tensor
    size: tuple[int, int]

    @classmethod
    def of(cls, ids: Tensor, d_sae: int) -> Columns:
        batch, width = ids.shape
        flat = ids.flatten()
        # numpy sorts 16-bit keys stably by radix, several times faster than a 64-bit sort.
        keys = flat.numpy().astype(np.uint16 if d_sae <= 1 << 16 else np.int32)
        order = torch.from_numpy(np.argsort(keys, kind="stable"))
        starts = torch.zeros(d_sae + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(flat, minlength=d_sae), 0, out=starts[1:])
        return cls(starts, torch.div(order, width, rounding_mode="floor"), order, (d_sae, batch))

    def product(self, values: Tensor, dense: Tensor, out: Tensor) -> Tensor:
        """Zᵀ @ dense into `out` [M, D], where Z has `values` [B, K] at `ids`; dense [B, D]."""
        matrix = torch.sparse_csr_tensor(
            self.starts, self.rows, values.flatten().index_select(0, self.order), self.size, check_invariants=False
        )
        return torch.mm(matrix, dense, out=out)


def _silence_beta_notice() -> None:
    # torch says once per process that CSR is in beta; the product used here is tested against the naive formula.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1))


_silence_beta_notice()
