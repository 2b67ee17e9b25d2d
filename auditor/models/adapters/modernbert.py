"""ModernBERT, and the decoder that is built like it: rotary positions, norms before each sum, gated MLPs, and attention
to all words in some blocks only."""

from __future__ import annotations

from dataclasses import replace

from auditor.models.adapters.bert import BertAdapter, with_heads
from auditor.models.hook_points import Blocks, Part, Site


class ModernBertAdapter(BertAdapter):
    """`mlp_pre` and `mlp_linear` are the two halves of one projection, q, k and v the thirds of another."""

    family = "modernbert"
    config_class = "ModernBertConfig"
    architectures = with_heads("ModernBert")
    base = "model"

    def table(self) -> Blocks:
        return Blocks(
            stack=f"{self.prefix}layers",
            embed=Site(f"{self.prefix}embeddings"),
            attn_out=Site("attn"),
            resid_mid=Site("mlp_norm", "input", shared=True),
            mlp_hidden=Site("mlp.Wo", "input"),
            mlp_out=Site("mlp"),
            final_norm=Site(f"{self.prefix}final_norm"),
            q=Site("attn.Wqkv", part=Part(1, 3, 0, 1)),
            k=Site("attn.Wqkv", part=Part(1, 3, 1, 2)),
            v=Site("attn.Wqkv", part=Part(1, 3, 2, 3)),
            pattern=Site("attn", "inside", inside="dropout"),
            z=Site("attn.Wo", "input"),
            mlp_pre=Site("mlp.Wi", part=Part(1, 2, 0, 1)),
            mlp_linear=Site("mlp.Wi", part=Part(1, 2, 1, 2)),
        )


class ModernBertDecoderAdapter(ModernBertAdapter):
    """Its head is a layer and a norm before it tells words, so that logits are no product with the residual stream."""

    family = "modernbert_decoder"
    config_class = "ModernBertDecoderConfig"
    architectures = ("ModernBertDecoderForCausalLM", "ModernBertDecoderModel")
    causal = True

    def table(self) -> Blocks:
        projections = {name: Site(f"attn.{name}_proj") for name in "qkv"}
        return replace(super().table(), **projections)  # type: ignore[arg-type]
