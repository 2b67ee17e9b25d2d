"""GPT-NeoX (Pythia): rotary positions; attention and MLP read the same residual stream in most of its networks."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from auditor.models import linearise
from auditor.models.adapters.adapter import TextAdapter, head_weight
from auditor.models.hook_points import Blocks, Site
from auditor.models.linearise import LinearPart


class GptNeoxAdapter(TextAdapter):
    family = "gpt_neox"
    config_class = "GPTNeoXConfig"
    architectures = ("GPTNeoXForCausalLM",)
    blocks = Blocks(
        stack="gpt_neox.layers",
        embed=Site("gpt_neox.emb_dropout"),
        attn_out=Site("attention"),
        resid_mid=Site("post_attention_layernorm", "input", shared=True),
        mlp_hidden=Site("mlp.dense_4h_to_h", "input"),
        mlp_out=Site("mlp"),
        final_norm=Site("gpt_neox.final_layer_norm"),
    )

    def table(self) -> Blocks:
        # Side by side there is no residual stream between attention and MLP.
        return replace(self.blocks, resid_mid=None) if self.config.use_parallel_residual else self.blocks

    def unembed(self) -> Tensor:
        return head_weight(self.network, "lm_head")

    def final_norm(self) -> nn.Module:
        return self.network.get_submodule("gpt_neox.final_layer_norm")

    def linear_parts(self) -> list[LinearPart]:
        heads = int(self.config.num_attention_heads)
        layout = (heads, self.d_model // heads)
        parts = [LinearPart("gpt_neox.final_layer_norm", linearise.layer_norm)]
        for number in range(self.n_layers):
            at = f"gpt_neox.layers.{number}"
            norms = ("input_layernorm", "post_attention_layernorm")
            parts += [LinearPart(f"{at}.{name}", linearise.layer_norm) for name in norms]
            name = f"{at}.attention.query_key_value"
            parts.append(LinearPart(name, linearise.constant_queries_and_keys, layout))
            parts.append(LinearPart(f"{at}.mlp.act", linearise.activation))
        return parts
