"""BERT and the encoders that are built like it, each norm after its sum, with or without a head."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from auditor.models.adapters.adapter import TextAdapter
from auditor.models.hook_points import Blocks, Site


def with_heads(name: str) -> tuple[str, ...]:
    """Classes of transformers whose names begin with `name`: without a head, filling in words, telling classes."""
    return f"{name}Model", f"{name}ForMaskedLM", f"{name}ForSequenceClassification"


class BertAdapter(TextAdapter):
    """`resid_mid` and `resid_post` are taken after the norms; there is no final norm.

    Logits are [B, P, vocabulary] of a network that fills in words, [B, classes] of one that tells classes.
    """

    family = "bert"
    config_class = "BertConfig"
    architectures = with_heads("Bert")
    base: ClassVar[str] = "bert"
    """What a network with a head calls the network below it."""
    causal = False
    normed_after = True

    @property
    def prefix(self) -> str:
        return f"{self.base}." if hasattr(self.network, self.base) else ""

    def table(self) -> Blocks:
        return bert_blocks(self.prefix)


def bert_blocks(prefix: str) -> Blocks:
    """The table of an encoder whose modules are named below `prefix`."""
    return Blocks(
        stack=f"{prefix}encoder.layer",
        embed=Site(f"{prefix}embeddings"),
        attn_out=Site("attention.output.dense"),
        resid_mid=Site("attention"),
        mlp_hidden=Site("output.dense", "input"),
        mlp_out=Site("output.dense"),
        final_norm=None,
        q=Site("attention.self.query"),
        k=Site("attention.self.key"),
        v=Site("attention.self.value"),
        pattern=Site("attention.self", "inside", inside="dropout"),
        z=Site("attention.output.dense", "input"),
        mlp_pre=Site("intermediate.dense"),
    )


class ErnieAdapter(BertAdapter):
    family = "ernie"
    config_class = "ErnieConfig"
    architectures = with_heads("Ernie")
    base = "ernie"


class RembertAdapter(BertAdapter):
    """Its embeddings are widened before the first block."""

    family = "rembert"
    config_class = "RemBertConfig"
    architectures = with_heads("RemBert")
    base = "rembert"

    def table(self) -> Blocks:
        return replace(super().table(), embed=Site(f"{self.prefix}encoder.embedding_hidden_mapping_in"))
