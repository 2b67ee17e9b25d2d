"""NomicBERT, GTE and Jina's embeddings: rotary positions in encoders that norm after each sum as BERT does; the MLPs of
the first two are gated.

Nussbaum et al. 2024, arXiv:2402.01613; Zhang et al. 2024, arXiv:2407.19669; Sturua et al. 2024, arXiv:2409.10173.
"""

from __future__ import annotations

from dataclasses import replace

from auditor.models.adapters.bert import BertAdapter, with_heads
from auditor.models.adapters.vision import projections
from auditor.models.hook_points import Blocks, Site


class NomicBertAdapter(BertAdapter):
    """As in BERT, `resid_mid` and `resid_post` are taken after the norms."""

    family = "nomic_bert"
    config_class = "NomicBertConfig"
    architectures = with_heads("NomicBert")
    base = "nomic_bert"

    def table(self) -> Blocks:
        return Blocks(
            stack=f"{self.prefix}layers",
            embed=Site(f"{self.prefix}embeddings"),
            attn_out=Site("self_attn"),
            resid_mid=Site("post_attention_layernorm"),
            mlp_hidden=Site("mlp.down_proj", "input"),
            mlp_out=Site("mlp"),
            final_norm=None,
            **projections("self_attn"),
            mlp_pre=Site("mlp.gate_proj"),
            mlp_linear=Site("mlp.up_proj"),
        )


class GteAdapter(NomicBertAdapter):
    family = "gte"
    config_class = "GteConfig"
    architectures = with_heads("Gte")
    base = "gte"


class JinaEmbeddingsV3Adapter(NomicBertAdapter):
    family = "jina_embeddings_v3"
    config_class = "JinaEmbeddingsV3Config"
    architectures = with_heads("JinaEmbeddingsV3")
    base = "roberta"

    def table(self) -> Blocks:
        return replace(super().table(), mlp_pre=Site("mlp.fc1"), mlp_linear=None, mlp_hidden=Site("mlp.fc2", "input"))
