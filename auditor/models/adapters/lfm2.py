"""LFM2: Llama-shaped blocks, some of which mix positions by a short gated convolution in the place of attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from auditor.models.adapters.llama import LlamaAdapter, llama_blocks
from auditor.models.hook_points import HookPoint, Site


class Lfm2Adapter(LlamaAdapter):
    """A block without attention has ``mixer_out``, what its convolution writes to the residual stream, and before that
    ``mixer_hidden``, what its gates let through, in the place of attention's hook points."""

    family = "lfm2"
    config_class = "Lfm2Config"
    architectures = ("Lfm2ForCausalLM",)
    blocks = replace(
        llama_blocks(),
        resid_mid=Site("ffn_norm", "input", shared=True),
        mlp_hidden=Site("feed_forward.w2", "input"),
        mlp_out=Site("feed_forward"),
        final_norm=Site("model.embedding_norm"),
        z=Site("self_attn.out_proj", "input"),
        mlp_pre=Site("feed_forward.w1"),
        mlp_linear=Site("feed_forward.w3"),
    )
    frozen = None

    def mlp_width(self) -> int:
        gate: Any = self.network.get_submodule("model.layers.0.feed_forward.w1")
        return int(gate.out_features)

    def hook_points(self) -> list[HookPoint]:
        listed = super().hook_points()
        attends = {point.name.rpartition(".")[0] for point in listed if point.name.endswith(".attn_out")}
        found = []
        for point in listed:
            block, _, site = point.name.rpartition(".")
            if site == "resid_mid" and block not in attends:
                mixer = point.module.replace(".ffn_norm", ".conv")
                hidden = replace(point, name=f"{block}.mixer_hidden", module=f"{mixer}.out_proj", shared=False)
                found += [hidden, replace(hidden, name=f"{block}.mixer_out", module=mixer, tensor="output")]
            found.append(point)
        return found
