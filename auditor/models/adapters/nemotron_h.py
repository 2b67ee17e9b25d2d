"""Nemotron-H: blocks of one part each, which is Mamba 2, attention, an MLP or a mixture of experts.

NVIDIA 2025, arXiv:2504.03624.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from auditor.models.adapters.llama import LlamaAdapter, llama_blocks
from auditor.models.hook_points import HookPoint, Site

_KEPT = {
    "full_attention": ("q", "k", "v", "pattern", "z", "attn_out"),
    "mlp": ("mlp_pre", "mlp_hidden", "mlp_out"),
    "moe": ("router", "expert_weights", "mlp_out"),
    "linear_attention": ("mixer_hidden", "mixer_out"),
}
"""Of each kind of block the hook points between its two of the residual stream."""


class NemotronHAdapter(LlamaAdapter):
    """`resid_post` is `resid_pre` and what the block's one part writes: `attn_out`, `mlp_out`, or `mixer_out` of Mamba,
    whose `mixer_hidden` enters its last projection. MLPs have no gate."""

    family = "nemotron_h"
    config_class = "NemotronHConfig"
    architectures = ("NemotronHForCausalLM",)
    blocks = replace(
        llama_blocks(),
        embed=Site("model.embeddings"),
        attn_out=Site("mixer"),
        resid_mid=None,
        mlp_hidden=Site("mixer.down_proj", "input"),
        mlp_out=Site("mixer"),
        final_norm=Site("model.norm_f"),
        q=Site("mixer.q_proj"),
        k=Site("mixer.k_proj"),
        v=Site("mixer.v_proj"),
        pattern=Site("mixer", "inside", inside="dropout"),
        z=Site("mixer.o_proj", "input"),
        mlp_pre=Site("mixer.up_proj"),
        mlp_linear=None,
        router=Site("mixer.gate", "inside", inside="linear"),
        expert_weights=Site("mixer.experts", "expert_weights"),
    )
    frozen = None

    def hook_points(self) -> list[HookPoint]:
        found: list[HookPoint] = []
        for point in super().hook_points():
            block, _, site = point.name.rpartition(".")
            if not block or site in ("resid_pre", "resid_post"):
                found.append(point)
                continue
            layer: Any = self.network.get_submodule(f"model.layers.{block.rpartition('.')[2]}")
            kept = _KEPT[layer.block_type]
            if site in kept:
                found.append(point)
            elif site == "attn_out" and "mixer_out" in kept:
                last = layer.mixer.out_proj
                hidden = replace(point, module=f"{point.module}.out_proj", tensor="input", width=last.in_features)
                found += [replace(hidden, name=f"{block}.mixer_hidden"), replace(point, name=f"{block}.mixer_out")]
        return found
