"""ELECTRA and RoFormer: BERT's blocks, RoFormer's with rotary positions; small ones widen their embeddings before the
first block."""

from __future__ import annotations

from dataclasses import replace

from auditor.models.adapters.bert import BertAdapter, with_heads
from auditor.models.hook_points import Blocks, Site


class ElectraAdapter(BertAdapter):
    """A discriminator (ElectraForPreTraining) is opened without its head, which says of each word whether it was
    replaced."""

    family = "electra"
    config_class = "ElectraConfig"
    architectures = with_heads("Electra")
    base = "electra"

    def table(self) -> Blocks:
        table = super().table()
        if self.config.embedding_size == self.config.hidden_size:
            return table
        return replace(table, embed=Site(f"{self.prefix}embeddings_project"))


class RoformerAdapter(ElectraAdapter):
    """`v` is taken before it is turned, in networks that turn values too (`rotary_value`)."""

    family = "roformer"
    config_class = "RoFormerConfig"
    architectures = with_heads("RoFormer")
    base = "roformer"
