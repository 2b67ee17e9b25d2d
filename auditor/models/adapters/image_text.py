"""Language models that read a picture's tokens among their text: what their families have in common.

The forward pass is the library's own, from token numbers and what its tower makes of the pictures.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from auditor.base.errors import AuditorError
from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import TextAdapter, head_weight
from auditor.models.adapters.llama import llama_blocks
from auditor.models.hook_points import TOKENS, Blocks, HookPoint, Site
from auditor.models.inputs import Grid, Inputs, Row, padded, text_row
from auditor.models.pictures import Box, PictureRule
from auditor.models.tokens import load_tokenizer, special_ids
from auditor.models.weights import load_transformers

MARK = "<image>"


class ImageTextAdapter(TextAdapter):
    """A picture stands where the text says ``<image>``, else before the text; one picture a sample.

    `max_tokens` counts the begin token and the text with its marks around the picture, never the picture's tokens.
    """

    modalities = frozenset({"text", "image"})
    language: ClassVar[str] = "model.language_model."
    """Below which the language model's modules are named."""
    connector: ClassVar[str]
    """The module that makes image tokens of what the vision tower gives."""
    rule: PictureRule

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(facts, self.config_class, self.architectures, dtype)
        self.network, self.library, self.dtype = network, network, dtype
        self.whole, self.config = network.config, network.config.text_config
        self.tokenizer = load_tokenizer(facts.folder)
        self.n_layers, self.d_model = int(self.config.num_hidden_layers), int(self.config.hidden_size)
        self.image_id = int(self.whole.image_token_id)
        self.rule = self.rule_of(facts)

    @abstractmethod
    def rule_of(self, facts: ModelFacts) -> PictureRule:
        """How pictures are prepared; all come out at one size."""

    @abstractmethod
    def patches(self) -> Grid:
        """Rows and columns of the vision tower's patches."""

    def tokens(self) -> Grid:
        """Rows and columns of a picture's tokens."""
        return self.patches()

    @abstractmethod
    def vision_points(self) -> list[HookPoint]:
        """Hook points of the vision tower."""

    def image_token_point(self) -> HookPoint:
        return HookPoint("image_tokens", self.d_model, TOKENS, self.connector, 0, "output", "vision")

    def around(self) -> tuple[str, str]:
        """What the library's processor writes before and after a picture's tokens."""
        return "", ""

    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        """What else the network's forward pass is given."""
        return {}

    def features(self, pixels: Tensor) -> Any:
        """What the library makes of pictures [B, 3, rows, columns] before it puts them among the text; `pooler_output`
        holds a picture's tokens in each row."""
        return self.library.model.get_image_features(pixels)

    def table(self) -> Blocks:
        # After image tokens have taken their places: what enters the first block.
        return replace(llama_blocks(self.language), embed=Site(f"{self.language}layers.0", "input"))

    def hook_points(self) -> list[HookPoint]:
        return [*self.vision_points(), self.image_token_point(), *super().hook_points()]

    def grid_of(self, point: HookPoint) -> Grid | None:
        return self.tokens() if point.name == "image_tokens" else self.patches()

    def seen(self, rows: int, columns: int) -> Box:
        return self.rule.seen(rows, columns)

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        texts = self.tokenize([self.written(sample) for sample in samples], None)
        special = special_ids(self.tokenizer)
        rows = [self._row(text, sample, special, max_tokens) for text, sample in zip(texts, samples, strict=True)]
        pixels = self.rule.batch(samples)
        return padded(rows, samples, pixels, None if pixels is None else self.tokens())

    def written(self, sample: Sample) -> str:
        """The sample's text with its picture's tokens, as the library's processor writes it."""
        start, end = self.around()
        name = self._name(self.image_id)
        # A chat template may already have written what the processor looks for.
        text = (sample.text or "").replace(f"{start}{name}{end}", MARK) if name else sample.text or ""
        if sample.image is None:
            if MARK in text:
                raise AuditorError(
                    f"Sample “{sample.id}” says {MARK} and has no image.", "Add the image, or leave the mark out."
                )
            return text
        before, found, rest = text.partition(MARK)
        before, rest = (before, rest) if found else ("", text)
        rows, columns = self.tokens()
        return f"{before}{start}{name * (rows * columns)}{end}{rest.replace(MARK, '')}"

    def _name(self, number: int) -> str:
        """A token's own text; "" without a tokenizer, which is told elsewhere."""
        return "" if self.tokenizer is None else str(self.tokenizer.convert_ids_to_tokens(number))

    def _row(self, ids: list[int], sample: Sample, special: frozenset[int], max_tokens: int | None) -> Row:
        places = [place for place, token in enumerate(ids) if token == self.image_id]
        rows, columns = self.tokens() if sample.image is not None else (0, 0)
        if len(places) != rows * columns:
            raise AuditorError(
                f"The text of sample “{sample.id}” came out with {len(places)} image tokens in the place of "
                f"{rows * columns}.",
                "The model's tokenizer does not know its image token: copy the folder from its source again.",
            )
        if max_tokens is not None:
            ids = ids[: max(max_tokens + len(places), places[-1] + 1 if places else 0)]
        row = text_row(ids, special | {self.image_id})
        for number, place in enumerate(places):
            row.ids[place], row.kind[place], row.unit[place] = -1, int(PositionKind.IMAGE), number
        return row

    def forward(self, inputs: Inputs) -> Tensor:
        is_image = inputs.kind == int(PositionKind.IMAGE)
        ids = inputs.ids.masked_fill(is_image, self.image_id).clamp(min=0)
        arguments = self.arguments(inputs)
        if inputs.pixels is not None:
            # The tower reads all rows, so that its hook points have one for each sample, and only pictures are put in
            # their places. Where there is none it reads ones: some families drop pictures that are all zero.
            seen = inputs.has_image
            pixels = torch.where(seen[:, None, None, None], inputs.pixels, torch.ones_like(inputs.pixels))
            found = self.features(pixels.to(self.dtype))
            found.pooler_output = [one for one, kept in zip(found.pooler_output, seen.tolist(), strict=True) if kept]
            arguments["mm_encoder_outputs"] = {"image": self.as_given(found)}
        mask = inputs.mask.to(torch.int64)
        logits: Tensor = self.library(input_ids=ids, attention_mask=mask, use_cache=False, **arguments).logits
        return logits

    def as_given(self, features: Any) -> Any:
        """The features of the pictures that there are, in the form that the network takes."""
        return features

    def unembed(self) -> Tensor | None:
        return head_weight(self.network, "lm_head")

    def final_norm(self) -> nn.Module:
        return self.network.get_submodule(f"{self.language}norm")
