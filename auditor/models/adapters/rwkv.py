"""RWKV-4: a recurrence over time in the place of attention, and an MLP with a gate.

Peng et al. 2023, arXiv:2305.13048.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import TextAdapter, head_weight
from auditor.models.hook_points import Blocks, Heads, HookPoint, Site


class RwkvAdapter(TextAdapter):
    """`attn_out` is what time mixing writes; `k` and `v` are its keys and values, `z` what its recurrence gives times
    the receptance, all of one head as wide as the network. `mlp_out` is what channel mixing writes. The first block
    norms the embeddings before anything else; its `resid_pre` is taken after that.

    The library halves the residual stream every few blocks, and weights with it, against overflow in half precision;
    here it does not, which changes no result.
    """

    family = "rwkv"
    config_class = "RwkvConfig"
    architectures = ("RwkvForCausalLM", "RwkvModel")

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        self.config.rescale_every = 0

    @property
    def prefix(self) -> str:
        return "rwkv." if hasattr(self.network, "rwkv") else ""

    def longest(self) -> None:
        return None

    def heads(self) -> Heads:
        return Heads(1, 1, int(self.config.attention_hidden_size))

    def table(self) -> Blocks:
        return Blocks(
            stack=f"{self.prefix}blocks",
            embed=Site(f"{self.prefix}embeddings"),
            attn_out=Site("attention"),
            resid_mid=Site("ln2", "input", shared=True),
            mlp_hidden=Site("feed_forward.value", "input"),
            mlp_out=Site("feed_forward"),
            final_norm=Site(f"{self.prefix}ln_out"),
            k=Site("attention.key"),
            v=Site("attention.value"),
            z=Site("attention.output", "input"),
            mlp_pre=Site("feed_forward.key"),
        )

    def hook_points(self) -> list[HookPoint]:
        first = f"{self.prefix}blocks.0.ln1"
        return [
            replace(point, module=first, shared=True) if point.name == "blocks.0.resid_pre" else point
            for point in super().hook_points()
        ]

    def unembed(self) -> Tensor | None:
        return head_weight(self.network, "head") if self.prefix else None

    def final_norm(self) -> nn.Module:
        return self.network.get_submodule(f"{self.prefix}ln_out")
