"""OWL-ViT: CLIP's two towers, whose patches each say what lies there and where.

Minderer et al. 2022, arXiv:2205.06230.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.clip import ClipAdapter, clip_blocks, tower_points
from auditor.models.hook_points import HookPoint, Site
from auditor.models.inputs import Inputs
from auditor.models.pictures import CLIP


class OwlVitAdapter(ClipAdapter):
    """``vision.head`` is what boxes and classes are read off: the normed patches times the class token, normed again.
    Boxes and classes themselves have no hook points, and there are no logits."""

    family = "owlvit"
    config_class = "OwlViTConfig"
    architectures = ("OwlViTForObjectDetection",)
    at = "owlvit."
    processor = CLIP | {"size": {"height": 768, "width": 768}, "do_center_crop": False}

    def vision_points(self) -> list[HookPoint]:
        tower = f"{self.at}vision_model."
        table = clip_blocks(tower, Site(f"{tower}pre_layernorm"), Site(f"{tower}post_layernorm"))
        *points, normed = tower_points(table, self.config.vision_config, leading=1)
        head = replace(normed, name="vision.head", module="layer_norm", leading=0)
        # The class token alone is normed before.
        return [*points, replace(normed, call=1), head]

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        self.library: Any = self.network

    def pooled(self) -> list[HookPoint]:
        return []

    def forward(self, inputs: Inputs) -> Tensor | None:
        if inputs.pixels is not None:
            self.library.image_embedder(inputs.pixels.to(self.dtype))
        if inputs.ids.shape[1]:
            self.texts(inputs)
        return None
