"""BERT: an encoder whose norms stand after each sum, with or without a head that fills in masked words."""

from __future__ import annotations

from auditor.models.adapters.adapter import TextAdapter
from auditor.models.hook_points import Blocks, Site


class BertAdapter(TextAdapter):
    """`resid_mid` and `resid_post` are taken after the norms; there is no final norm."""

    family = "bert"
    config_class = "BertConfig"
    architectures = ("BertModel", "BertForMaskedLM")
    causal = False

    def table(self) -> Blocks:
        prefix = "bert." if hasattr(self.network, "bert") else ""
        return Blocks(
            stack=f"{prefix}encoder.layer",
            embed=Site(f"{prefix}embeddings"),
            attn_out=Site("attention.output.dense"),
            resid_mid=Site("attention"),
            mlp_hidden=Site("output.dense", "input"),
            mlp_out=Site("output.dense"),
            final_norm=None,
        )
