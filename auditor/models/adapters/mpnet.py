"""MPNet: BERT's blocks with a bias for relative positions, the same in every block."""

from __future__ import annotations

from dataclasses import replace

from auditor.models.adapters.bert import BertAdapter, with_heads
from auditor.models.hook_points import Blocks, Site

FIRST_POSITION = 2


class MpnetAdapter(BertAdapter):
    family = "mpnet"
    config_class = "MPNetConfig"
    architectures = with_heads("MPNet")
    base = "mpnet"

    def longest(self) -> int:
        return int(self.config.max_position_embeddings) - FIRST_POSITION

    def table(self) -> Blocks:
        return replace(
            super().table(),
            attn_out=Site("attention.attn"),
            q=Site("attention.attn.q"),
            k=Site("attention.attn.k"),
            v=Site("attention.attn.v"),
            pattern=Site("attention.attn.dropout"),
            z=Site("attention.attn.o", "input"),
        )
