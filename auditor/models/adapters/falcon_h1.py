"""Falcon-H1: attention and Mamba 2 side by side in every block, what each gives times a factor of its own.

Zuo et al. 2025, arXiv:2507.22448.
"""

from __future__ import annotations

from dataclasses import replace

from auditor.models.adapters.llama import LlamaAdapter, llama_blocks
from auditor.models.hook_points import HookPoint, Site


class FalconH1Adapter(LlamaAdapter):
    """`mixer_out` and `attn_out` are what is added, and `mlp_pre` what enters the activation function: behind their
    factors. `mixer_hidden` enters Mamba's last projection."""

    family = "falcon_h1"
    config_class = "FalconH1Config"
    architectures = ("FalconH1ForCausalLM",)
    blocks = replace(
        llama_blocks(),
        # Embeddings are multiplied before they enter the first block.
        embed=Site("model.layers.0", "input"),
        attn_out=Site("", "inside", inside="mul", after="self_attn"),
        resid_mid=Site("pre_ff_layernorm", "input", shared=True),
        mlp_hidden=Site("feed_forward.down_proj", "input"),
        mlp_out=Site("feed_forward"),
        final_norm=Site("model.final_layernorm"),
        mlp_pre=Site("feed_forward", "inside", inside="mul", after="gate_proj"),
        mlp_linear=Site("feed_forward.up_proj"),
    )
    frozen = None
    plain = False  # a block gives a tuple

    def logit_scale(self) -> float:
        return float(self.config.lm_head_multiplier)

    def hook_points(self) -> list[HookPoint]:
        found: list[HookPoint] = []
        for point in super().hook_points():
            block, _, site = point.name.rpartition(".")
            if site == "q":
                at = point.module.removesuffix(".self_attn.q_proj")
                last = self.network.get_submodule(f"{at}.mamba.out_proj")
                out = replace(
                    point, module=at, tensor="inside", inside="mul", after="mamba", width=self.d_model, heads=0
                )
                hidden = replace(
                    out, module=f"{at}.mamba.out_proj", tensor="input", inside="", after="",
                    width=int(last.in_features),  # type: ignore[arg-type]
                )  # fmt: skip
                found += [replace(hidden, name=f"{block}.mixer_hidden"), replace(out, name=f"{block}.mixer_out")]
            # The other factor is computed before the gate.
            found.insert(len(found) - (site == "mlp_linear"), point)
        return found
