"""Attention patterns in runs whose attention is one fused kernel, which itself never holds a pattern."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

KERNEL = "scaled_dot_product_attention"


def with_pattern(
    kernel: Callable[..., Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    visit: Callable[[Tensor], Tensor | None],
    *,
    through: bool,
) -> Tensor:
    """The kernel's result [B, head, query, size], its pattern [B, head, query, key] shown to `visit`.

    Rows of the pattern that come back changed are multiplied with the values; all others keep the kernel's bits. With
    `through`, all are, so that gradients run through the pattern.
    """
    fast = kernel(*args, **kwargs)
    own, value = _pattern(*args, **kwargs)
    new = visit(own)
    if new is None and not through:
        return fast
    pattern = own if new is None else new
    plain = torch.matmul(pattern, value)
    return plain if through else torch.where((pattern != own).any(-1, keepdim=True), plain, fast)


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
