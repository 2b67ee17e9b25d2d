"""Decoders that predict no words: those that embed texts have no head, and those that judge texts have another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from auditor.intake.library import known
from auditor.intake.safetensors_header import check_safetensors
from auditor.intake.weights import ModelFacts
from auditor.models.weights import load_transformers, plain_config

_JUDGES = "ForSequenceClassification"


class Headless(nn.Module):
    """A decoder below its head, under the name that it has in the network with one, so that its modules have the same
    paths."""

    def __init__(self, base: Any, name: str) -> None:
        super().__init__()
        self.base_model_prefix, self.config, self.left_over = name, base.config, getattr(base, "left_over", ())
        self.add_module(name, base)

    def forward(self, **fed: Any) -> Any:
        return self.get_submodule(self.base_model_prefix)(**fed)


def load_decoder(
    facts: ModelFacts, config_class: str, architectures: Sequence[str], dtype: torch.dtype, below: str, head: str
) -> nn.Module:
    """The network of one of `architectures`, which predicts words by its module `head` from what its module `below`
    gives. Where config.json names another of the family's networks, that, if it tells classes (or a reward), else
    `Headless`; the latter also where the files are those of the module below alone."""
    listed = known(facts.model_type)
    others = tuple(name for name in listed.networks if name not in architectures) if listed else ()
    said = next((name for name in facts.architectures if name in (*architectures, *others)), "")
    if said in others and said.endswith(_JUDGES):
        return load_transformers(facts, config_class, (said,), dtype)
    if others and (said in others or _lacks_head(facts, config_class, below, head)):
        return Headless(load_transformers(facts, config_class, others[-1:], dtype), below)
    return load_transformers(facts, config_class, architectures, dtype)


def _lacks_head(facts: ModelFacts, config_class: str, below: str, head: str) -> bool:
    """Whether the files have no head that their config does not tie to the embeddings, and name the modules below it as
    a network does that has none."""
    import transformers

    held = {name.partition(".")[0] for path in facts.weights for name in check_safetensors(path).tensors}
    return not {below, head} & held and not plain_config(facts, getattr(transformers, config_class)).tie_word_embeddings
