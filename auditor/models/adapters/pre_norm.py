"""BERT's and RoBERTa's blocks with norms before each part, and one after the last block: Megatron-BERT, XLM-RoBERTa-XL,
RoBERTa-PreLayerNorm."""

from __future__ import annotations

from dataclasses import replace

from auditor.models.adapters.bert import BertAdapter, with_heads
from auditor.models.adapters.roberta import RobertaAdapter
from auditor.models.hook_points import Blocks, Site


class MegatronBertAdapter(BertAdapter):
    family = "megatron_bert"
    config_class = "MegatronBertConfig"
    architectures = with_heads("MegatronBert")
    normed_after = False

    def table(self) -> Blocks:
        return replace(super().table(), final_norm=Site(f"{self.prefix}encoder.ln"))


class XlmRobertaXlAdapter(RobertaAdapter):
    family = "xlm_roberta_xl"
    config_class = "XLMRobertaXLConfig"
    architectures = with_heads("XLMRobertaXL")
    normed_after = False

    def table(self) -> Blocks:
        return replace(super().table(), final_norm=Site(f"{self.prefix}encoder.LayerNorm"))


class RobertaPreLayerNormAdapter(RobertaAdapter):
    family = "roberta_prelayernorm"
    config_class = "RobertaPreLayerNormConfig"
    architectures = with_heads("RobertaPreLayerNorm")
    base = "roberta_prelayernorm"
    normed_after = False

    def table(self) -> Blocks:
        return replace(super().table(), final_norm=Site(f"{self.prefix}LayerNorm"))
