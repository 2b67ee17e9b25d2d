"""GPT-2: learned positions, layer norms, one projection to queries, keys and values."""

from __future__ import annotations

from torch import Tensor, nn

from auditor.models import linearise
from auditor.models.adapters.adapter import TextAdapter, head_weight
from auditor.models.hook_points import Blocks, Site
from auditor.models.linearise import LinearPart


class Gpt2Adapter(TextAdapter):
    family = "gpt2"
    config_class = "GPT2Config"
    architectures = ("GPT2LMHeadModel",)
    blocks = Blocks(
        stack="transformer.h",
        # The sum of token and position embeddings; dropout passes it on as it is.
        embed=Site("transformer.drop"),
        attn_out=Site("attn"),
        resid_mid=Site("ln_2", "input", shared=True),
        mlp_hidden=Site("mlp.c_proj", "input"),
        mlp_out=Site("mlp"),
        final_norm=Site("transformer.ln_f"),
    )

    def mlp_width(self) -> int:
        return int(self.config.n_inner or 4 * self.d_model)

    def unembed(self) -> Tensor:
        return head_weight(self.network, "lm_head")

    def final_norm(self) -> nn.Module:
        return self.network.get_submodule("transformer.ln_f")

    def linear_parts(self) -> list[LinearPart]:
        parts = [LinearPart("transformer.ln_f", linearise.layer_norm)]
        for number in range(self.n_layers):
            at = f"transformer.h.{number}"
            parts += [LinearPart(f"{at}.{name}", linearise.layer_norm) for name in ("ln_1", "ln_2")]
            parts.append(LinearPart(f"{at}.attn.c_attn", linearise.constant_queries_and_keys, (1, self.d_model)))
            parts.append(LinearPart(f"{at}.mlp.act", linearise.activation))
        return parts
