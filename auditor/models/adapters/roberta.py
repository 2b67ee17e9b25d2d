"""RoBERTa, its multilingual and its French form, and data2vec's of text: BERT's blocks, positions that are counted from
after the padding's."""

from __future__ import annotations

import torch

from auditor.base.errors import AuditorError
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.bert import BertAdapter, with_heads


class RobertaAdapter(BertAdapter):
    family = "roberta"
    config_class = "RobertaConfig"
    architectures = with_heads("Roberta")
    base = "roberta"

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        if self.config.pad_token_id is None:
            raise AuditorError(
                f"config.json in “{facts.name}” names no padding token, from whose number positions are counted.",
                "Copy the folder from its source again.",
            )

    def longest(self) -> int:
        # The first position is the one after the padding token's number.
        return int(self.config.max_position_embeddings) - int(self.config.pad_token_id) - 1


class XlmRobertaAdapter(RobertaAdapter):
    family = "xlm_roberta"
    config_class = "XLMRobertaConfig"
    architectures = with_heads("XLMRoberta")


class Data2vecTextAdapter(RobertaAdapter):
    family = "data2vec_text"
    config_class = "Data2VecTextConfig"
    architectures = with_heads("Data2VecText")
    base = "data2vec_text"


class CamembertAdapter(RobertaAdapter):
    family = "camembert"
    config_class = "CamembertConfig"
    architectures = with_heads("Camembert")
