"""LLaVA: a CLIP vision tower, a projector and a Llama that reads image tokens among its text tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import TextAdapter, head_weight
from auditor.models.adapters.clip import clip_vision_points
from auditor.models.adapters.llama import llama_blocks, llama_linear_parts
from auditor.models.adapters.vision import pair
from auditor.models.hook_points import TOKENS, Blocks, HookPoint, Site
from auditor.models.inputs import Inputs, Row, image_row, joined, padded, text_row
from auditor.models.linearise import LinearPart
from auditor.models.networks.paired import placed
from auditor.models.pictures import CLIP, Box, picture_rule
from auditor.models.tokens import load_tokenizer, special_ids
from auditor.models.weights import load_transformers

TEXT = "model.language_model."
TOWER = "model.vision_tower."


class LlavaAdapter(TextAdapter):
    """Image tokens stand where the text says ``<image>``, else after the begin token."""

    family = "llava"
    modalities = frozenset({"text", "image"})

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(facts, "LlavaConfig", ("LlavaForConditionalGeneration",), dtype)
        self.network, self.llava = network, network
        self.whole, self.config = network.config, network.config.text_config
        self.tokenizer = load_tokenizer(facts.folder)
        self.n_layers, self.d_model = int(self.config.num_hidden_layers), int(self.config.hidden_size)
        vision = self.whole.vision_config
        self.rule = picture_rule(facts.folder, CLIP, pair(vision.image_size))
        self.grid = self.rule.grid(pair(vision.patch_size))
        self.with_class = self.whole.vision_feature_select_strategy != "default"

    def table(self) -> Blocks:
        # After image tokens have taken their places: what enters the first block.
        return replace(llama_blocks(TEXT), embed=Site(f"{TEXT}layers.0", "input"))

    def hook_points(self) -> list[HookPoint]:
        vision = clip_vision_points(self.whole.vision_config, TOWER)
        leading = int(self.with_class)
        tokens = HookPoint(
            "image_tokens", self.d_model, TOKENS, "model.multi_modal_projector", 0, "output", "vision", leading=leading
        )
        return [*vision, tokens, *super().hook_points()]

    def grid_of(self, point: HookPoint) -> tuple[int, int] | None:
        return self.grid

    def seen(self, rows: int, columns: int) -> Box:
        return self.rule.seen(rows, columns)

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        """`max_tokens` counts the begin token and the text, never the image."""
        texts = self.tokenize([sample.text or "" for sample in samples], max_tokens)
        special = special_ids(self.tokenizer)
        rows = [self._row(text, sample, special) for text, sample in zip(texts, samples, strict=True)]
        pixels = self.rule.batch(samples)
        return padded(rows, samples, pixels, None if pixels is None else self.grid)

    def _row(self, text: list[int], sample: Sample, special: frozenset[int]) -> Row:
        mark = int(self.whole.image_token_id)
        if sample.image is None:
            return text_row(text, special)
        start = text.index(mark) if mark in text else int(bool(text) and text[0] in special)
        rest = [token for token in text[start:] if token != mark]
        marked = Row([-1], [int(PositionKind.SPECIAL)], [-1]) if self.with_class else Row([], [], [])
        image = joined(marked, image_row(self.grid[0] * self.grid[1]))
        return joined(text_row(text[:start], special), image, text_row(rest, special))

    def forward(self, inputs: Inputs) -> Tensor:
        embedded = self.llava.get_input_embeddings()(inputs.ids.clamp(min=0))
        if inputs.pixels is not None:
            tokens = self.llava.model.multi_modal_projector(self._features(inputs.pixels.to(embedded.dtype)))
            # The class token, where it is used, is the first of the tokens and has the unit −1.
            is_image = inputs.mask & (inputs.ids < 0)
            places = torch.where(is_image, inputs.unit + int(self.with_class), torch.full_like(inputs.unit, -1))
            embedded = placed(embedded, tokens, places)
        hidden = self.llava.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        logits: Tensor = self.llava.lm_head(hidden)
        return logits

    def _features(self, pixels: Tensor) -> Tensor:
        """[B, patches, width]: hidden states of the layers that config.json names, side by side."""
        tower = self.llava.model.vision_tower
        named = self.whole.vision_feature_layer
        count = len(tower.encoder.layers)
        layers = [layer % (count + 1) for layer in ([named] if isinstance(named, int) else named)]
        with _hidden_states(tower.encoder.layers) as states:
            tower(pixel_values=pixels)
        chosen = [states[layer] if self.with_class else states[layer][:, 1:] for layer in layers]
        return torch.cat(chosen, dim=-1)

    def unembed(self) -> Tensor:
        return head_weight(self.network, "lm_head")

    def final_norm(self) -> nn.Module:
        return self.network.get_submodule(f"{TEXT}norm")

    def linear_parts(self) -> list[LinearPart]:
        return llama_linear_parts(self.n_layers, TEXT)


@contextlib.contextmanager
def _hidden_states(layers: nn.ModuleList) -> Iterator[dict[int, Tensor]]:
    """Input of the first layer (0) and output of each, as edits left them.

    The library's own collection stands before hooks that were added later, so that it would miss their edits.
    """
    states: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            states[number] = output[0] if isinstance(output, tuple) else output

        return hook

    def first(module: nn.Module, args: Any, kwargs: Any) -> None:
        states[0] = args[0] if args else kwargs["hidden_states"]

    handles = [layers[0].register_forward_pre_hook(first, with_kwargs=True)]
    handles += [layer.register_forward_hook(keep(number)) for number, layer in enumerate(layers, 1)]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
