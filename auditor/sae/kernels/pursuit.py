"""Matching pursuit (Mallat & Zhang 1993): features chosen one after another, each the best for what is left."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def pursue(
    x: Tensor, decoder: Tensor, k: int, least: float = 0.0, stop_on_repeat: bool = False
) -> tuple[Tensor, Tensor]:
    """(values [B, k], ids int64 [B, k]) for rows x [B, D] less their centre and unit decoder rows [M, D].

    Round t takes, for each row, the feature with the largest inner product with the residual r_t, and
    r_{t+1} = r_t - <r_t, d_i> d_i. A row stops where that product is not positive or ‖r_t‖ is not above `least`:
    its further values are 0. A feature that is chosen again keeps one place, with the sum of its values; with
    `stop_on_repeat` the row stops after that.
    """
    left = x.clone()
    values = torch.zeros(len(x), k, dtype=x.dtype, device=x.device)
    ids = torch.zeros(len(x), k, dtype=torch.int64, device=x.device)
    done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for turn in range(k):
        best, chosen = (left @ decoder.T).max(1)
        best = torch.where((best > 0) & (left.norm(dim=1) > least) & ~done, best, 0)
        if stop_on_repeat:
            done |= ((ids[:, :turn] == chosen[:, None]) & (values[:, :turn] > 0)).any(1)
        values[:, turn], ids[:, turn] = best, chosen
        left -= best[:, None] * decoder[chosen]
    same = ids[:, :, None] == ids[:, None, :]
    first = ~same.tril(-1).any(2)
    return (same * values[:, None, :]).sum(2) * first, ids
