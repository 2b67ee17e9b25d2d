"""Idefics3 and SmolVLM: a SigLIP tower, whose patches are joined by squares, and a Llama."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.clip import tower_points
from auditor.models.adapters.image_text import ImageTextAdapter
from auditor.models.adapters.llama import llama_linear_parts
from auditor.models.adapters.siglip import siglip_vision_blocks
from auditor.models.adapters.vision import pair
from auditor.models.hook_points import HookPoint
from auditor.models.inputs import Grid
from auditor.models.linearise import LinearPart
from auditor.models.pictures import IDEFICS, LARGEST, PictureRule, picture_rule, processor_config


class Idefics3Adapter(ImageTextAdapter):
    """A picture is read whole, at the tower's size: the processor's way with `do_image_splitting` off, so that every
    picture has one grid. (With it on, a large picture is read in tiles as well, and has tokens many times over.)"""

    family = "idefics3"
    config_class = "Idefics3Config"
    architectures = ("Idefics3ForConditionalGeneration",)
    language = "model.text_model."
    connector = "model.connector"

    def rule_of(self, facts: ModelFacts) -> PictureRule:
        side = pair(self.whole.vision_config.image_size)
        said = processor_config(facts.folder, {"size": {"longest_edge": 4 * side[0]}})[1]["size"]
        first = said.get("longest_edge") if isinstance(said, dict) else None
        usable = first if isinstance(first, int) and 1 <= first <= LARGEST else 0
        return replace(picture_rule(facts.folder, IDEFICS, side), first=usable)

    def patches(self) -> Grid:
        return self.rule.grid(pair(self.whole.vision_config.patch_size))

    def tokens(self) -> Grid:
        rows, columns = self.patches()
        joined = int(self.whole.scale_factor)
        return rows // joined, columns // joined

    def vision_points(self) -> list[HookPoint]:
        return tower_points(siglip_vision_blocks("model.vision_model."), self.whole.vision_config, leading=0)

    def around(self) -> tuple[str, str]:
        return "<fake_token_around_image><global-img>", "<fake_token_around_image>"

    def features(self, pixels: Tensor) -> Any:
        return self.library.model.get_image_features(pixels[:, None])

    def linear_parts(self) -> list[LinearPart]:
        return llama_linear_parts(self.n_layers, self.language)


class SmolvlmAdapter(Idefics3Adapter):
    family = "smolvlm"
    config_class = "SmolVLMConfig"
    architectures = ("SmolVLMForConditionalGeneration",)
