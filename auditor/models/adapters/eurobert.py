"""EuroBERT and ESM C: encoders shaped as Llama is, over words, and over the letters of proteins.

Boizard et al. 2025, arXiv:2503.05500.
"""

from __future__ import annotations

from auditor.models.adapters.bert import BertAdapter, with_heads
from auditor.models.adapters.llama import llama_blocks
from auditor.models.hook_points import Blocks


class EuroBertAdapter(BertAdapter):
    family = "eurobert"
    config_class = "EuroBertConfig"
    architectures = with_heads("EuroBert")
    base = "model"
    normed_after = False

    def table(self) -> Blocks:
        return llama_blocks(self.prefix)


class EsmcAdapter(EuroBertAdapter):
    """`attn_out` and `mlp_out` are what attention and MLP give; the sum takes them over √(blocks / 36)."""

    family = "esmc"
    config_class = "EsmcConfig"
    architectures = with_heads("Esmc")
    base = "esmc"
