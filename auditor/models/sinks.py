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


def sinks(hook: str, x: Tensor, ordinary: Tensor, sample: Tensor | None = None) -> Tensor:
    """Which of the `ordinary` positions (bool [B, P]) are sinks: their row of x [B, P, width] is more than ten times as
    long as the median ordinary row of their own sample, so that the others of a batch have no say in it. `sample` int64
    [B, P] says whose a position is where samples share a row of the batch (−1: no one's); None: a row is a sample.

    None at hook points outside the residual stream. The only ordinary row of a sample is never one: there is nothing to
    compare it with.
    """
    if hook.split(".")[-1] not in RESIDUAL or x.shape[:2] != ordinary.shape or not ordinary.numel():
        return torch.zeros_like(ordinary)
    length = x.detach().float().norm(dim=-1)
    # Without a look at the values from outside, which would wait for a GPU.
    if sample is None:
        typical = length.masked_fill(~ordinary, torch.nan).nanmedian(dim=1, keepdim=True).values
    else:
        typical = _median_of_own(length, ordinary, sample)
    long: Tensor = length > RATIO * typical
    return ordinary & long


def _median_of_own(length: Tensor, ordinary: Tensor, sample: Tensor) -> Tensor:
    """[B, P]: the median length of the ordinary rows of each position's sample; of two middle ones the lower."""
    lengths, group = length.masked_fill(~ordinary, torch.inf).flatten(), sample.flatten() + 1
    order = lengths.argsort()
    order = order[group[order].argsort(stable=True)]
    none = group.new_zeros(len(group) + 1)
    held = none.scatter_add(0, group, torch.ones_like(group))
    plain = none.scatter_add(0, group, ordinary.flatten().to(group.dtype))
    middle = held.cumsum(0) - held + (plain - 1).clamp(min=0) // 2
    return lengths[order][middle[group]].view_as(length)
