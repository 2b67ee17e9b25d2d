"""RecurrentGemma (Griffin: De et al. 2024, arXiv:2402.19427): two of three blocks mix positions by a gated linear
recurrence, the third attends within a window."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from auditor.models.adapters.hybrid import HybridAdapter
from auditor.models.adapters.llama import llama_blocks
from auditor.models.hook_points import HookPoint, Site

MIXER = "temporal_block"


class RecurrentGemmaAdapter(HybridAdapter):
    """Attention and recurrence are called by one name, and told by what they hold."""

    family = "recurrent_gemma"
    config_class = "RecurrentGemmaConfig"
    architectures = ("RecurrentGemmaForCausalLM",)
    mixer, last = MIXER, "linear_out"
    gain_offset = 1.0
    blocks = replace(
        llama_blocks(),
        # Embeddings are multiplied before they enter the first block.
        embed=Site("model.layers.0", "input"),
        attn_out=Site(f"{MIXER}.o_proj"),
        resid_mid=Site("channel_pre_norm", "input", shared=True),
        mlp_hidden=Site("mlp_block.down_proj", "input"),
        mlp_out=Site("mlp_block"),
        final_norm=Site("model.final_norm"),
        q=Site(f"{MIXER}.q_proj"),
        k=Site(f"{MIXER}.k_proj"),
        v=Site(f"{MIXER}.v_proj"),
        pattern=Site(MIXER, "inside", inside="dropout"),
        z=Site(f"{MIXER}.o_proj", "input"),
        mlp_pre=Site("mlp_block.gate_proj"),
        mlp_linear=Site("mlp_block.up_proj"),
    )

    def mlp_width(self) -> int:
        return int(self.config.intermediate_size) // 2

    def hook_points(self) -> list[HookPoint]:
        points = super().hook_points()
        attends = {point.name.removesuffix("q") for point in points if point.name.endswith(".q")}
        return [p for p in points if not p.name.endswith(".pattern") or p.name.removesuffix("pattern") in attends]

    def readout(self, normed: Tensor) -> Tensor:
        cap = float(self.config.logits_soft_cap)
        return torch.tanh(super().readout(normed) / cap) * cap
