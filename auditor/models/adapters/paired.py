"""Auditor's text+image model: EfficientNet-Lite0, a projector and a Llama, joined as the projector's docstring says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from auditor.base.errors import AuditorError
from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts, beside, checked_model
from auditor.models.adapters.adapter import Adapter, blocks_until
from auditor.models.adapters.efficientnet_lite import load_tower, map_points, pixels_of
from auditor.models.adapters.llama import LlamaAdapter, llama_blocks, llama_linear_parts
from auditor.models.hook_points import TOKENS, HookPoint, Site, block_points
from auditor.models.inputs import Inputs, Row, image_row, joined, padded, text_row
from auditor.models.linearise import LinearPart
from auditor.models.networks.paired import PairedNetwork
from auditor.models.networks.projector import GRID, IMAGE_TOKENS, Projector, load_projector
from auditor.models.tokens import begin_token, special_ids


class PairedAdapter(Adapter):
    family = "paired"
    modalities = frozenset({"text", "image"})

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        self.text = LlamaAdapter(_part(facts, "text", "llama"), dtype)
        if self.text.unembed() is None:
            raise AuditorError(
                f"The language model that “{facts.name}” names predicts no words.", "Name one that has its head."
            )
        vision = load_tower(_part(facts, "vision", "efficientnet_lite"), dtype)
        projector = _projector(facts).to(dtype)
        if projector.values.shape[1] != self.text.d_model:
            raise AuditorError(
                f"The projector in “{facts.name}” gives tokens of width {projector.values.shape[1]}, the language "
                f"model wants {self.text.d_model}.",
                "Use the projector that was trained for this language model.",
            )
        self.network: PairedNetwork = PairedNetwork(self.text.network, vision, projector)
        self.tokenizer = self.text.tokenizer
        self.n_layers, self.d_model = self.text.n_layers, self.text.d_model
        self.size = int(facts.config.get("image_size", 224))

    def hook_points(self) -> list[HookPoint]:
        table = llama_blocks("text.model.")
        stack = block_points(
            table, self.n_layers, self.d_model, self.text.mlp_width(), heads=self.text.heads(), within=self.network
        )
        tokens = HookPoint("image_tokens", self.d_model, TOKENS, "projector", 0, "output", "vision")
        at = Site("embed")
        embed = HookPoint("embed", self.d_model, TOKENS, at.module, 0, at.tensor)
        return [*map_points(self.network.vision, "vision."), tokens, embed, *stack[1:]]

    def before(self, hook: str) -> list[str]:
        return blocks_until("text.model.layers", hook)

    def grid_of(self, point: HookPoint) -> tuple[int, int] | None:
        return (GRID, GRID) if point.name == "image_tokens" else None

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        """Begin token, 16 image tokens if there is an image, then the text if there is one.

        `max_tokens` counts the begin token and the text, never the image.
        """
        for sample in samples:
            if sample.text is None and sample.image is None:
                raise AuditorError(f"Sample “{sample.id}” has neither text nor image.", "Leave this sample out.")
        texts = self.text.tokenize([sample.text or "" for sample in samples], max_tokens)
        special = special_ids(self.tokenizer)
        rows = [self._row(text, sample, special) for text, sample in zip(texts, samples, strict=True)]
        pictured = any(sample.image is not None for sample in samples)
        return padded(rows, samples, None, (GRID, GRID) if pictured else None)

    def pictured(self, inputs: Inputs) -> Inputs:
        return replace(inputs, pixels=pixels_of(inputs.samples, self.size))

    def _row(self, text: list[int], sample: Sample, special: frozenset[int]) -> Row:
        if sample.image is None:
            return text_row(text, special)
        begin = text[:1] if text[:1] == [begin_token(self.tokenizer)] else []
        return joined(text_row(begin, special), image_row(IMAGE_TOKENS), text_row(text[len(begin) :], special))

    def forward(self, inputs: Inputs) -> Tensor:
        is_image = inputs.kind == int(PositionKind.IMAGE)
        places = torch.where(is_image, inputs.unit, torch.full_like(inputs.unit, -1))
        logits: Tensor = self.network(inputs.ids.clamp(min=0), places, inputs.pixels)
        return logits

    def unembed(self) -> Tensor | None:
        return self.text.unembed()

    def final_norm(self) -> nn.Module | None:
        return self.text.final_norm()

    def linear_parts(self) -> list[LinearPart]:
        return llama_linear_parts(self.n_layers, "text.model.")


def _part(facts: ModelFacts, key: str, family: str) -> ModelFacts:
    """The checked folder that config.json names as `key`."""
    part = checked_model(beside(facts.folder, facts.config.get(key)))
    if part.family != family or part.format != "safetensors":
        raise AuditorError(
            f"The {key} part of “{facts.name}” is a {part.model_type} model ({part.format}).",
            f"It must be of the family {family}, as safetensors.",
        )
    return part


def _projector(facts: ModelFacts) -> Projector:
    try:
        return load_projector(facts.weights[0])
    except (KeyError, RuntimeError, ValueError) as error:
        raise AuditorError(
            f"“{facts.weights[0].name}” in “{facts.name}” is not a projector.", "Prepare the sample models again."
        ) from error
