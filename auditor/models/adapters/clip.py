"""CLIP: a text tower and a vision tower that meet in one space; each has its own stream of positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import Adapter, TextAdapter, check_lengths, heads_of
from auditor.models.adapters.vision import VisionTransformerAdapter, pair, projections
from auditor.models.hook_points import TOKENS, Blocks, HookPoint, Site, block_points
from auditor.models.inputs import Inputs, Positions, Row, padded, text_row
from auditor.models.pictures import CLIP, PictureRule, picture_rule
from auditor.models.sheets import Box
from auditor.models.tokens import encode_texts, load_tokenizer, special_ids
from auditor.models.weights import load_transformers


def clip_blocks(prefix: str, embed: Site, final_norm: Site | None) -> Blocks:
    """The table of either tower, whose modules are named below `prefix`."""
    return Blocks(
        stack=f"{prefix}encoder.layers",
        embed=embed,
        attn_out=Site("self_attn"),
        resid_mid=Site("layer_norm2", "input", shared=True),
        mlp_hidden=Site("mlp.fc2", "input"),
        mlp_out=Site("mlp"),
        final_norm=final_norm,
        **projections("self_attn", "out_proj"),
        mlp_pre=Site("mlp.fc1"),
    )


def clip_vision_points(config: Any, prefix: str) -> list[HookPoint]:
    """Hook points of a CLIP vision tower; its last norm sees only the class token, so it is none of them."""
    return tower_points(clip_blocks(prefix, Site(f"{prefix}pre_layrnorm"), None), config, leading=1)


def tower_points(table: Blocks, config: Any, *, leading: int) -> list[HookPoint]:
    """Hook points of a vision tower with this table."""
    layers, width = int(config.num_hidden_layers), int(config.hidden_size)
    mlp_width, heads = int(config.intermediate_size), heads_of(config)
    return block_points(
        table, layers, width, mlp_width, heads=heads, prefix="vision.", stream="vision", leading=leading
    )


def image_embeds(config: Any, at: str = "") -> list[HookPoint]:
    """A picture's row in the common space."""
    width, module = int(config.projection_dim), f"{at}visual_projection"
    return [HookPoint("image_embeds", width, TOKENS, module, 0, "output", "vision", cells="tokens")]


class ClipVisionAdapter(VisionTransformerAdapter):
    """The vision tower alone, with or without its projection to the common space."""

    family = "clip_vision"
    config_class = "CLIPVisionConfig"
    architectures = ("CLIPVisionModel", "CLIPVisionModelWithProjection")
    body = "vision_model"
    processor = CLIP

    def table(self) -> Blocks:
        return clip_blocks(self.at, Site(f"{self.at}pre_layrnorm"), None)

    def hook_points(self) -> list[HookPoint]:
        projected = hasattr(self.network, "visual_projection")
        return super().hook_points() + (image_embeds(self.config) if projected else [])

    def grid_of(self, point: HookPoint) -> tuple[int, int] | None:
        return None if point.cells == "tokens" else super().grid_of(point)


class MetaClip2VisionAdapter(ClipVisionAdapter):
    family = "metaclip_2_vision"
    config_class = "MetaClip2VisionConfig"
    architectures = ("MetaClip2VisionModel", "MetaClip2VisionModelWithProjection")


class ClipTextAdapter(TextAdapter):
    """The text tower alone (as diffusion models keep it), with or without its projection to the common space."""

    family = "clip_text"
    config_class = "CLIPTextConfig"
    architectures = ("CLIPTextModel", "CLIPTextModelWithProjection")
    causal = False  # its tokenizer writes begin and end

    def hook_points(self) -> list[HookPoint]:
        at = "text_model." if hasattr(self.network, "text_model") else ""
        blocks = text_points(self.config, at)
        if not hasattr(self.network, "text_projection"):
            return blocks
        return [*blocks, text_embeds("text_projection", int(self.config.projection_dim))]

    def laid(self, point: HookPoint, inputs: Inputs) -> tuple[Tensor, Positions] | None:
        return pooled_texts(inputs) if point.stream == "pooled" else None

    def forward(self, inputs: Inputs) -> None:
        # Causal, padded on the right, as in `ClipAdapter.ids`.
        self.network(input_ids=inputs.ids.clamp(min=0))


def text_points(config: Any, prefix: str) -> list[HookPoint]:
    """Hook points of a text tower, whose modules are named below `prefix`."""
    layers, width = int(config.num_hidden_layers), int(config.hidden_size)
    table = clip_blocks(prefix, Site(f"{prefix}embeddings"), Site(f"{prefix}final_layer_norm"))
    inside = HookPoint("token_embed", width, TOKENS, f"{prefix}embeddings.token_embedding", 0, "output")
    return [inside, *block_points(table, layers, width, int(config.intermediate_size), heads=heads_of(config))]


def text_embeds(module: str, width: int) -> HookPoint:
    """A text's row in the common space."""
    return HookPoint("text_embeds", width, TOKENS, module, 0, "output", "pooled")


class ClipAdapter(Adapter):
    """Logits [B, B] say how well each image fits each text of the batch, where every sample has both.

    ``image_embeds`` and ``text_embeds`` are the one row that a picture, or a text, has in the common space, before it
    is normed to length 1; ``embed`` is ``token_embed`` and the position's own vector.
    """

    family = "clip"
    modalities = frozenset({"text", "image"})
    config_class: ClassVar[str] = "CLIPConfig"
    architectures: ClassVar[tuple[str, ...]] = ("CLIPModel",)
    processor: ClassVar[Mapping[str, Any]] = CLIP
    at: ClassVar[str] = ""
    """Below which its modules are named, where it is a part of a network."""

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(facts, self.config_class, self.architectures, dtype)
        self.network, self.config, self.dtype = network, network.config, dtype
        self.clip: Any = network.get_submodule(self.at.rstrip("."))
        self.tokenizer = load_tokenizer(facts.folder)
        text = self.config.text_config
        self.n_layers, self.d_model = int(text.num_hidden_layers), int(text.hidden_size)
        self.rule = self.rule_of(facts)

    def rule_of(self, facts: ModelFacts) -> PictureRule:
        return picture_rule(facts.folder, self.processor, pair(self.config.vision_config.image_size))

    def vision_points(self) -> list[HookPoint]:
        return clip_vision_points(self.config.vision_config, f"{self.at}vision_model.")

    def pooled(self) -> list[HookPoint]:
        """From the tower's end to a picture's row in the common space."""
        return image_embeds(self.config, self.at)

    def pooled_text(self) -> tuple[str, int]:
        """The module that gives a text's row in the common space, and its width."""
        return f"{self.at}text_projection", int(self.config.projection_dim)

    def text_points(self) -> list[HookPoint]:
        return text_points(self.config.text_config, f"{self.at}text_model.")

    def hook_points(self) -> list[HookPoint]:
        return [*self.vision_points(), *self.pooled(), *self.text_points(), text_embeds(*self.pooled_text())]

    def laid(self, point: HookPoint, inputs: Inputs) -> tuple[Tensor, Positions] | None:
        return pooled_texts(inputs) if point.stream == "pooled" else None

    def grid_of(self, point: HookPoint) -> tuple[int, int] | None:
        return None if point.cells == "tokens" else self.rule.grid(pair(self.config.vision_config.patch_size))

    def seen(self, rows: int, columns: int) -> Box:
        return self.rule.seen(rows, columns)

    def longest(self) -> int:
        return int(self.config.text_config.max_position_embeddings)

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        texts = [sample.text for sample in samples if sample.text is not None]
        if texts and self.tokenizer is None:
            raise AuditorError("The model's folder holds no tokenizer.", "Add tokenizer.json to the folder.")
        tokens = encode_texts(self.tokenizer, texts, begin=False, max_tokens=max_tokens) if texts else []
        check_lengths(tokens, self.longest())
        special = special_ids(self.tokenizer) if texts else frozenset()
        left = iter(tokens)
        rows = [self.row([] if sample.text is None else next(left), special) for sample in samples]
        return padded(rows, samples, None, None)

    def must_take(self, rows: int, columns: int) -> None:
        self.rule.must_take(rows, columns)

    def pictured(self, inputs: Inputs) -> Inputs:
        return replace(inputs, pixels=self.rule.batch(inputs.samples))

    def row(self, tokens: list[int], special: frozenset[int]) -> Row:
        return text_row(tokens, special)

    def forward(self, inputs: Inputs) -> Tensor | None:
        image = text = None
        if inputs.pixels is not None:
            pixels = inputs.pixels.to(self.dtype)
            image = self.clip.get_image_features(pixel_values=pixels, **inputs.beside).pooler_output
        if inputs.ids.shape[1]:
            text = self.texts(inputs)
        both = all(sample.text is not None and sample.image is not None for sample in inputs.samples)
        return None if image is None or text is None or not both else self.fits(image, text)

    def texts(self, inputs: Inputs) -> Tensor:
        """[B, width]: the texts in the common space."""
        found: Tensor = self.clip.get_text_features(input_ids=self.ids(inputs)).pooler_output
        return found

    def ids(self, inputs: Inputs) -> Tensor:
        # Causal, padded on the right: the end token, which is pooled, never sees the padding.
        return inputs.ids.clamp(min=0)

    def fits(self, image: Tensor, text: Tensor) -> Tensor:
        """[B, width], [B, width] → logits [B, B], a row for each image."""
        image, text = (x / x.norm(dim=-1, keepdim=True) for x in (image, text))
        logits: Tensor = self.clip.logit_scale.exp() * image @ text.T
        return logits


def pooled_texts(inputs: Inputs) -> tuple[Tensor, Positions]:
    """Which of the rows, one a sample, are of a text; no rows where none has one."""
    device, columns = inputs.ids.device, min(inputs.ids.shape[1], 1)
    held = torch.tensor([sample.text is not None for sample in inputs.samples], device=device)[:, None]
    rows = torch.arange(len(inputs.samples), device=device)[:, None].masked_fill(~held, -1)[:, :columns]
    kind = torch.where(rows < 0, int(PositionKind.PAD), int(PositionKind.TEXT)).to(torch.uint8)
    return rows, Positions(kind, rows.clamp(max=0).to(torch.int32), None)


class MetaClip2Adapter(ClipAdapter):
    family = "metaclip_2"
    config_class = "MetaClip2Config"
    architectures = ("MetaClip2Model",)
