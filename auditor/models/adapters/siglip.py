"""SigLIP (and SigLIP 2 at fixed sizes): CLIP's two towers, without a class token and pooled by attention.

Zhai et al. 2023, arXiv:2303.15343. Its vision tower alone is a family of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.data.sample import PositionKind
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.attention_pool import pool_points, take_apart
from auditor.models.adapters.clip import ClipAdapter, clip_blocks, tower_points
from auditor.models.adapters.vision import VisionTransformerAdapter
from auditor.models.hook_points import Blocks, HookPoint, Site
from auditor.models.inputs import Inputs, Row, joined, text_row
from auditor.models.pictures import SIGLIP


def siglip_vision_blocks(prefix: str) -> Blocks:
    """The table of the vision tower, whose modules are named below `prefix`."""
    return clip_blocks(prefix, Site(f"{prefix}embeddings"), Site(f"{prefix}post_layernorm"))


class SiglipVisionAdapter(VisionTransformerAdapter):
    family = "siglip_vision"
    config_class = "SiglipVisionConfig"
    architectures = ("SiglipVisionModel",)
    processor = SIGLIP

    def table(self) -> Blocks:
        return siglip_vision_blocks(self.at)

    def leading(self) -> int:
        return 0

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        if self.config.vision_use_head:
            take_apart(self.network.get_submodule(f"{self.at}head.attention"))

    def hook_points(self) -> list[HookPoint]:
        return super().hook_points() + (
            pool_points(f"{self.at}head", self.config) if self.config.vision_use_head else []
        )

    def grid_of(self, point: HookPoint) -> tuple[int, int] | None:
        return None if point.cells == "tokens" else super().grid_of(point)


class SiglipAdapter(ClipAdapter):
    """The text tower reads every text at its full length and pools the last position: texts are padded, as they were
    in training, and the padding is read but recorded as padding."""

    family = "siglip"
    config_class = "SiglipConfig"
    architectures = ("SiglipModel",)
    processor = SIGLIP

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        told = getattr(self.tokenizer, "pad_token_id", None)
        if self.config.vision_config.vision_use_head:
            take_apart(self.network.get_submodule("vision_model.head.attention"))
        self.pad = int(self.config.text_config.pad_token_id or 0) if told is None else int(told)

    def vision_points(self) -> list[HookPoint]:
        return tower_points(siglip_vision_blocks("vision_model."), self.config.vision_config, leading=0)

    def pooled(self) -> list[HookPoint]:
        vision = self.config.vision_config
        return pool_points("vision_model.head", vision) if vision.vision_use_head else []

    def pooled_text(self) -> tuple[str, int]:
        return "text_model.head", int(self.config.text_config.projection_size)

    def row(self, tokens: list[int], special: frozenset[int]) -> Row:
        missing = int(self.config.text_config.max_position_embeddings) - len(tokens) if tokens else 0
        filled = Row([-1] * missing, [int(PositionKind.PAD)] * missing, [-1] * missing)
        return joined(text_row(tokens, special), filled)

    def ids(self, inputs: Inputs) -> Tensor:
        return inputs.ids.masked_fill(inputs.ids < 0, self.pad)

    def fits(self, image: Tensor, text: Tensor) -> Tensor:
        image, text = (x / x.norm(p=2, dim=-1, keepdim=True) for x in (image, text))
        logits: Tensor = (text @ image.T * self.clip.logit_scale.exp() + self.clip.logit_bias).T
        return logits
