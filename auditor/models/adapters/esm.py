"""ESM-1b and ESM-2: BERT's blocks with norms before each sum, over the letters of proteins.

Lin et al. 2023, doi:10.1126/science.ade2574.
"""

from __future__ import annotations

import torch

from auditor.base.errors import AuditorError
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.bert import BertAdapter, with_heads
from auditor.models.hook_points import Blocks, Site


class EsmAdapter(BertAdapter):
    """A protein is written as its letters, with or without spaces."""

    family = "esm"
    config_class = "EsmConfig"
    architectures = with_heads("Esm")
    base = "esm"
    normed_after = False

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        if self.config.pad_token_id is None:
            raise AuditorError(
                f"config.json in “{facts.name}” names no padding token, from whose number positions are counted.",
                "Copy the folder from its source again.",
            )

    def longest(self) -> int:
        # Those of a table begin after the padding token's number, as RoBERTa's do.
        return int(self.config.max_position_embeddings) - int(self.config.pad_token_id) - 1

    def table(self) -> Blocks:
        return Blocks(
            stack=f"{self.prefix}encoder.layer",
            embed=Site(f"{self.prefix}embeddings"),
            attn_out=Site("attention.output.dense"),
            resid_mid=Site("attention"),
            mlp_hidden=Site("output.dense", "input"),
            mlp_out=Site("output.dense"),
            final_norm=Site(f"{self.prefix}encoder.emb_layer_norm_after"),
            q=Site("attention.self.query"),
            k=Site("attention.self.key"),
            v=Site("attention.self.value"),
            pattern=Site("attention.self", "inside", inside="dropout"),
            z=Site("attention.output.dense", "input"),
            mlp_pre=Site("intermediate.dense"),
        )
