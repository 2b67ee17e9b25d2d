"""Attention sinks: the few positions whose residual stream is far longer than all others'.

In SmolLM2's middle layers the begin token has norm 25,000, ordinary tokens 160, and one text in forty has a second
token like the first (Sun et al. 2024, arXiv:2402.17762, call them massive activations). A dictionary that learns from
such rows learns little else, and a share of variance that counts them says nothing of the rest. They are treated as
special tokens are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.models.hook_points import RESIDUAL

RATIO = 10.0


def sinks(hook: str, x: Tensor, ordinary: Tensor) -> Tensor:
    """Which of the `ordinary` positions (bool [B, P]) are sinks: their row of x [B, P, width] is more than ten times as
    long as the median ordinary row of the batch. None at hook points outside the residual stream."""
    if hook.split(".")[-1] not in RESIDUAL or x.shape[:2] != ordinary.shape or not ordinary.numel():
        return torch.zeros_like(ordinary)
    length = x.detach().float().norm(dim=-1)
    # Without a look at the values from outside, which would wait for a GPU.
    typical = length.masked_fill(~ordinary, torch.nan).nanmedian()
    long: Tensor = length > RATIO * typical
    return ordinary & long
