"""OPT and BioGPT: learned positions, layer norms before each part, or after each sum in OPT's 350m form."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from auditor.intake.weights import ModelFacts
from auditor.models import linearise
from auditor.models.adapters.decoder import SELF_ATTENTION, Decoder, Frozen
from auditor.models.hook_points import Blocks, Site
from auditor.models.linearise import LinearPart


class OptAdapter(Decoder):
    family = "opt"
    config_class = "OPTConfig"
    architectures = ("OPTForCausalLM",)
    blocks = Blocks(
        stack="model.decoder.layers",
        embed=Site("model.decoder.layers.0", "input"),
        attn_out=Site("self_attn"),
        resid_mid=Site("final_layer_norm", "input", shared=True),
        mlp_hidden=Site("fc2", "input"),
        mlp_out=Site("fc2"),
        final_norm=Site("model.decoder.final_layer_norm"),
        q=Site("self_attn.q_proj"),
        k=Site("self_attn.k_proj"),
        v=Site("self_attn.v_proj"),
        pattern=SELF_ATTENTION,
        z=Site("self_attn.out_proj", "input"),
        mlp_pre=Site("fc1"),
    )
    frozen = Frozen(
        ("self_attn_layer_norm", "final_layer_norm"), linearise.layer_norm, "activation_fn", linearise.activation
    )
    plain = True

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        self.normed_after = not self.config.do_layer_norm_before

    def mlp_width(self) -> int:
        return int(self.config.ffn_dim)

    def table(self) -> Blocks:
        if self.config.do_layer_norm_before:
            return self.blocks
        return replace(self.blocks, resid_mid=Site("fc1", "input", shared=True), final_norm=None)

    def unembed(self) -> Tensor | None:
        # The 350m form has no last norm and projects to the width of its embeddings first.
        return super().unembed() if self.config.do_layer_norm_before else None

    def linear_parts(self) -> list[LinearPart]:
        return super().linear_parts() if self.config.do_layer_norm_before else []


class BioGptAdapter(Decoder):
    family = "biogpt"
    config_class = "BioGptConfig"
    architectures = ("BioGptForCausalLM",)
    blocks = replace(
        OptAdapter.blocks,
        stack="biogpt.layers",
        embed=Site("biogpt.layers.0", "input"),
        final_norm=Site("biogpt.layer_norm"),
    )
    head = "output_projection"
    frozen = OptAdapter.frozen
    plain = True
