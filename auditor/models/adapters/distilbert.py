"""DistilBERT: BERT's blocks under other names, without token types."""

from __future__ import annotations

from auditor.models.adapters.bert import BertAdapter, with_heads
from auditor.models.hook_points import Blocks, Site


class DistilbertAdapter(BertAdapter):
    family = "distilbert"
    config_class = "DistilBertConfig"
    architectures = with_heads("DistilBert")
    base = "distilbert"

    def mlp_width(self) -> int:
        return int(self.config.hidden_dim)

    def table(self) -> Blocks:
        return Blocks(
            stack=f"{self.prefix}transformer.layer",
            embed=Site(f"{self.prefix}embeddings"),
            attn_out=Site("attention"),
            resid_mid=Site("sa_layer_norm"),
            mlp_hidden=Site("ffn.lin2", "input"),
            mlp_out=Site("ffn"),
            final_norm=None,
            q=Site("attention.q_lin"),
            k=Site("attention.k_lin"),
            v=Site("attention.v_lin"),
            pattern=Site("attention", "inside", inside="dropout"),
            z=Site("attention.out_lin", "input"),
            mlp_pre=Site("ffn.lin1"),
        )
