"""CLIP: a text tower and a vision tower that meet in one space; each has its own stream of positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import Adapter, check_lengths
from auditor.models.hook_points import Blocks, HookPoint, Site, block_points
from auditor.models.inputs import Inputs, padded, text_row
from auditor.models.pictures import CLIP_MEAN, CLIP_STD, picture_rule
from auditor.models.tokens import encode_texts, load_tokenizer, special_ids
from auditor.models.weights import load_transformers

BICUBIC = 3


def clip_blocks(tower: str, embed: Site, final_norm: Site | None) -> Blocks:
    """The table of either tower, whose modules are below `tower`."""
    return Blocks(
        stack=f"{tower}.encoder.layers",
        embed=embed,
        attn_out=Site("self_attn"),
        resid_mid=Site("layer_norm2", "input", shared=True),
        mlp_hidden=Site("mlp.fc2", "input"),
        mlp_out=Site("mlp"),
        final_norm=final_norm,
    )


def clip_vision_points(config: Any, tower: str) -> list[HookPoint]:
    """Hook points of a CLIP vision tower; its last norm sees only the class token, so it is none of them."""
    table = clip_blocks(tower, Site(f"{tower}.pre_layrnorm"), None)
    layers, width = int(config.num_hidden_layers), int(config.hidden_size)
    mlp_width = int(config.intermediate_size)
    return block_points(table, layers, width, mlp_width, prefix="vision.", stream="vision", leading=1)


class ClipAdapter(Adapter):
    """Logits [B, B] say how well each image fits each text of the batch, where every sample has both."""

    family = "clip"
    modalities = frozenset({"text", "image"})

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(facts, "CLIPConfig", ("CLIPModel",), dtype)
        self.network, self.config = network, network.config
        self.clip = network
        self.tokenizer = load_tokenizer(facts.folder)
        text, vision = self.config.text_config, self.config.vision_config
        self.n_layers, self.d_model = int(text.num_hidden_layers), int(text.hidden_size)
        size = int(vision.image_size)
        self.rule = picture_rule(facts.folder, size, crop=True, mean=CLIP_MEAN, std=CLIP_STD, resample=BICUBIC)

    def hook_points(self) -> list[HookPoint]:
        table = clip_blocks("text_model", Site("text_model.embeddings"), Site("text_model.final_layer_norm"))
        width = int(self.config.text_config.intermediate_size)
        text = block_points(table, self.n_layers, self.d_model, width)
        return [*clip_vision_points(self.config.vision_config, "vision_model"), *text]

    def grid_of(self, point: HookPoint) -> tuple[int, int] | None:
        side = self.rule.size // int(self.config.vision_config.patch_size)
        return side, side

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        texts = [sample.text for sample in samples if sample.text is not None]
        if texts and self.tokenizer is None:
            raise AuditorError("The model's folder holds no tokenizer.", "Add tokenizer.json to the folder.")
        longest = int(self.config.text_config.max_position_embeddings)
        tokens = encode_texts(self.tokenizer, texts, begin=False, max_tokens=max_tokens) if texts else []
        check_lengths(tokens, longest)
        special = special_ids(self.tokenizer) if texts else frozenset()
        left = iter(tokens)
        rows = [text_row([] if sample.text is None else next(left), special) for sample in samples]
        return padded(rows, samples, self.rule.batch(samples), None)

    def forward(self, inputs: Inputs) -> Tensor | None:
        image = text = None
        if inputs.pixels is not None:
            image = self.clip.get_image_features(pixel_values=inputs.pixels).pooler_output
        if inputs.ids.shape[1]:
            # Causal, padded on the right: the end token, which is pooled, never sees the padding.
            text = self.clip.get_text_features(input_ids=inputs.ids.clamp(min=0)).pooler_output
        both = all(sample.text is not None and sample.image is not None for sample in inputs.samples)
        if image is None or text is None or not both:
            return None
        image, text = (x / x.norm(dim=-1, keepdim=True) for x in (image, text))
        logits: Tensor = self.clip.logit_scale.exp() * image @ text.T
        return logits
