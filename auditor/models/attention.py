"""Attention patterns in runs whose attention is one fused kernel, which itself never holds a pattern."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

KERNEL = "scaled_dot_product_attention"


@dataclass(frozen=True)
class Look:
    """What one call of the kernel gave [B, head, query, size], its pattern [B, head, query, key], and each head's
    values."""

    given: Tensor
    pattern: Tensor
    value: Tensor


def look(kernel: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Look:
    return Look(kernel(*args, **kwargs), *_pattern(*args, **kwargs))


def placed(seen: Look, new: Tensor | None, *, through: bool) -> Tensor:
    """What the call gives with the pattern `new` in the place of its own; None: its own.

    Rows of the pattern that are changed are multiplied with the values; all others keep the kernel's bits. With
    `through`, all are, so that gradients run through the pattern.
    """
    if new is None and not through:
        return seen.given
    pattern = seen.pattern if new is None else new
    plain = torch.matmul(pattern, seen.value)
    return plain if through else torch.where((pattern != seen.pattern).any(-1, keepdim=True), plain, seen.given)


def _pattern(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """The pattern and each head's values; the order of operations is that of transformers' plain attention."""
    groups = query.shape[-3] // key.shape[-3]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=-3) for x in (key, value))
    scores = torch.matmul(query, key.transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    lowest = torch.finfo(scores.dtype).min
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, lowest)
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, lowest) if masked else scores + attn_mask
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype), value


def stacked(patterns: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """Patterns [1, head, n, n] of several n as one [calls, head, N, N], 0 where one is smaller, and their n."""
    sizes = [pattern.shape[-1] for pattern in patterns]
    largest = max(sizes)
    gaps = [(0, largest - size, 0, largest - size) for size in sizes]
    return torch.cat([pad(one, gap) for one, gap in zip(patterns, gaps, strict=True)]), sizes


def among_stacked(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Numbers of rows that stand one call's after another's, as numbers where each call has as many; −1 stays."""
    ends = torch.tensor(sizes, device=rows.device).cumsum(0)
    call = torch.searchsorted(ends, rows.clamp(min=0), right=True)
    before = torch.cat([ends.new_zeros(1), ends[:-1]])[call]
    return torch.where(rows < 0, rows, call * max(sizes) + rows - before)
