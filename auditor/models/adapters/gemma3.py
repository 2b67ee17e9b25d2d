"""Gemma 3: a SigLIP tower, whose patches are averaged by squares, and a Gemma that reads a picture's tokens in both
directions.

Gemma Team 2025, arXiv:2503.19786.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.image import Pixels
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.clip import tower_points
from auditor.models.adapters.image_text import ImageTextAdapter
from auditor.models.adapters.post_norm import SANDWICHED, gemma_linear_parts
from auditor.models.adapters.siglip import siglip_vision_blocks
from auditor.models.adapters.vision import pair
from auditor.models.hook_points import Blocks, HookPoint
from auditor.models.inputs import Inputs
from auditor.models.linearise import LinearPart
from auditor.models.pictures import LARGEST, VIT, picture_rule, processor_config
from auditor.models.sheets import Box, Panel

BEFORE, BETWEEN = "Here is the original image ", " and here are some crops to help you see better "


@dataclass(frozen=True)
class PanAndScan:
    """Long pictures are read whole and in crops, `most` at most, side by side, no side of which is shorter than `least`
    pixels; long are those whose longer side is `ratio` times the shorter (Gemma Team 2025, section 2.1)."""

    least: int
    most: int
    ratio: float

    def boxes(self, rows: int, columns: int) -> list[Box]:
        """The crops of a picture of so many pixels, none of one that is read whole alone."""
        longer, shorter = max(rows, columns), min(rows, columns)
        if longer / shorter < self.ratio:
            return []
        count = min(max(2, min(longer // self.least, math.floor(longer / shorter + 0.5))), self.most)
        step = math.ceil(longer / count)
        if min(step, shorter) < self.least:
            return []
        ends = [(step * at, min(step * (at + 1), longer)) for at in range(count)]
        return [(0, start, rows, stop) if columns >= rows else (start, 0, stop, columns) for start, stop in ends]


def pan_and_scan(facts: ModelFacts) -> PanAndScan | None:
    """As the folder's processor has it, if it turns it on. AuditorError for numbers that no crops come of."""
    file, said = processor_config(facts.folder, {})
    if not said.get("do_pan_and_scan"):
        return None
    least, most, ratio = (
        said.get(f"pan_and_scan_{name}", usual)
        for name, usual in (("min_crop_size", 256), ("max_num_crops", 4), ("min_ratio_to_activate", 1.2))
    )
    whole = all(isinstance(number, int) and number <= LARGEST for number in (least, most))
    if not whole or not isinstance(ratio, (int, float)) or not 1 <= most <= least or not 1 <= ratio < LARGEST:
        raise AuditorError(
            f"{file} in “{facts.name}” gives crops that cannot be: {most} of {least} pixels, from a ratio of {ratio}.",
            "Copy it again.",
        )
    return PanAndScan(least, most, float(ratio))


class Gemma3Adapter(ImageTextAdapter):
    """A picture is read whole, squeezed into a square; a long one then in crops (pan and scan), where the folder turns
    them on."""

    family = "gemma3"
    config_class = "Gemma3Config"
    architectures = ("Gemma3ForConditionalGeneration",)
    connector = "model.multi_modal_projector"

    def table(self) -> Blocks:
        plain = super().table()
        return replace(SANDWICHED, stack=plain.stack, embed=plain.embed, final_norm=plain.final_norm)

    def prepares(self, facts: ModelFacts) -> None:
        vision = self.whole.vision_config
        size = pair(vision.image_size)
        self.rule = picture_rule(facts.folder, VIT | {"size": {"height": size[0], "width": size[1]}}, size)
        self.crops = pan_and_scan(facts)
        self.patches, self.side = size[0] // pair(vision.patch_size)[0], int(self.whole.mm_tokens_per_image**0.5)
        if self.side < 1 or self.patches % self.side:
            raise AuditorError(
                f"config.json in “{facts.name}” makes {self.whole.mm_tokens_per_image} tokens of {self.patches} × "
                f"{self.patches} patches, which no squares of patches are.",
                "Copy the folder from its source again.",
            )

    def notes(self) -> list[str]:
        said = (
            "Long pictures are read whole and in crops, as the folder's processor config says; transformers makes "
            "crops only where they are asked for at each call (do_pan_and_scan)."
        )
        return [said] if self.crops else []

    @property
    def joined(self) -> int:
        return self.patches // self.side

    def seen(self, rows: int, columns: int) -> Box:
        return self.rule.seen(rows, columns)

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        boxes = [self.seen(rows, columns), *(self.crops.boxes(rows, columns) if self.crops else [])]
        return tuple(Panel(0, box, self.side, self.side) for box in boxes)

    def prepare(self, pixels: Pixels) -> Tensor:
        crops = [panel.box for panel in self.panels(*pixels.shape[:2])[1:]]
        parts = [pixels[top:bottom, left:right] for top, left, bottom, right in crops]
        return torch.stack([self.rule.prepare(part) for part in (pixels, *parts)])

    def spelled(self, panels: Sequence[Panel]) -> str:
        whole, *crops = (super(Gemma3Adapter, self).spelled([panel]) for panel in panels)
        return f"{BEFORE}{whole}{BETWEEN}{' '.join(crops)}" if crops else whole

    def vision_points(self) -> list[HookPoint]:
        return tower_points(siglip_vision_blocks("model.vision_tower."), self.whole.vision_config, leading=0)

    def around(self) -> tuple[str, str]:
        begin, end = (self._name(int(number)) for number in (self.whole.boi_token_id, self.whole.eoi_token_id))
        return f"\n\n{begin}", f"{end}\n\n"

    def marks(self) -> Sequence[str]:
        # Its chat template writes the begin token alone.
        begin = self.around()[0].strip()
        return [*super().marks(), *([begin] if begin else [])]

    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        if inputs.pixels is None:
            return {}
        return {"token_type_ids": ((inputs.ids < 0) & inputs.mask).long()}

    def linear_parts(self) -> list[LinearPart]:
        return gemma_linear_parts(self.n_layers, self.language)

    def norm_gain(self) -> Tensor:
        # Gemma keeps its norms' weights less one.
        weight: Any = self.final_norm().weight
        gain: Tensor = 1.0 + weight
        return gain


class ShieldGemma2Adapter(Gemma3Adapter):
    """A Gemma 3 that is asked whether a picture violates a policy: opened as that, whose logits at the last position
    tell Yes and No."""

    family = "shieldgemma2"
    config_class = "ShieldGemma2Config"
    architectures = ("ShieldGemma2ForImageClassification",)

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        whole: Any = self.network
        self.network = self.library = whole.model
        self.answers = {"Yes": int(whole.yes_token_index), "No": int(whole.no_token_index)}

    def notes(self) -> list[str]:
        said = " and ".join(f"{number} ({answer})" for answer, number in self.answers.items())
        return [*super().notes(), f"Its classes are the logits of tokens {said} at the last position of a text."]
