"""Pooling by attention: one learnt query looks at all patches of a picture, and a small MLP follows.

Lee et al. 2019, arXiv:1810.00825, as SigLIP's tower ends (Zhai et al. 2023, arXiv:2303.15343). torch's own multi-head
attention computes inside one function, where no hook comes to: here it is computed step by step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from auditor.models.hook_points import PATTERN, TOKENS, HookPoint, Kind


class StepByStep(nn.MultiheadAttention):
    """As torch's own without weights given back, to rounding; what it projects comes by modules of its own."""

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, None]:
        """Batch first; `attn_mask` [B · heads, query, key] is added to the scores."""
        assert self.in_proj_weight is not None
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        places = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (
            place(linear(x, weight, bias)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # type: ignore[operator]
            for place, x, weight, bias in zip(places, (query, key, value), weights, biases, strict=True)
        )
        mask = None if attn_mask is None else attn_mask.reshape(-1, self.num_heads, *attn_mask.shape[1:])
        given = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(given.transpose(1, 2).flatten(2)), None


def take_apart(attention: nn.Module) -> None:
    """Let torch's attention compute step by step from now on; its weights stay as they are."""
    attention.__class__ = StepByStep
    for name in ("q_proj", "k_proj", "v_proj"):
        attention.add_module(name, nn.Identity())


def pool_points(head: str, config: Any) -> list[HookPoint]:
    """``vision.pool.…``, of the pooling at `head`, whose attention is taken apart: keys and values at the patches, all
    else one row a picture; ``attn_out`` and ``mlp_out`` add up to what the head gives."""
    width, count = int(config.hidden_size), int(config.num_attention_heads)
    inner = int(config.intermediate_size)

    def point(name: str, width: int, module: str, tensor: Kind = "output", heads: int = 0) -> HookPoint:
        axes = TOKENS if width else PATTERN
        cells = "patches" if name in ("k", "v") else "tokens"
        return HookPoint(
            f"vision.pool.{name}",
            width,
            axes,
            f"{head}.{module}",
            0,
            tensor,
            "vision",
            heads=heads,
            cells=cells,  # type: ignore[arg-type]
        )

    return [
        point("q", width, "attention.q_proj", heads=count),
        point("k", width, "attention.k_proj", heads=count),
        point("v", width, "attention.v_proj", heads=count),
        replace(point("pattern", 0, "attention", "inside", count), inside="dropout", keys="vision.pool.k"),
        point("z", width, "attention.out_proj", "input", count),
        point("attn_out", width, "attention"),
        point("mlp_pre", inner, "mlp.fc1"),
        point("mlp_hidden", inner, "mlp.fc2", "input"),
        point("mlp_out", width, "mlp"),
        HookPoint("image_embeds", width, TOKENS, head, 0, "output", "vision", cells="tokens"),
    ]
