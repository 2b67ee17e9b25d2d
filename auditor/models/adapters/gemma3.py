"""Gemma 3: a SigLIP tower, whose patches are averaged by squares, and a Gemma that reads a picture's tokens in both
directions.

Gemma Team 2025, arXiv:2503.19786.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.image import Pixels
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.clip import tower_points
from auditor.models.adapters.image_text import ImageTextAdapter
from auditor.models.adapters.post_norm import SANDWICHED
from auditor.models.adapters.siglip import siglip_vision_blocks
from auditor.models.adapters.vision import pair
from auditor.models.hook_points import Blocks, HookPoint
from auditor.models.inputs import Inputs
from auditor.models.pictures import VIT, picture_rule, processor_config
from auditor.models.sheets import Panel


class Gemma3Adapter(ImageTextAdapter):
    """A picture is read whole, squeezed into a square; the processor's crops of long ones (pan and scan), which are off
    unless a folder turns them on, are not made."""

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
        self.crops = bool(processor_config(facts.folder, {})[1].get("do_pan_and_scan"))
        self.patches, self.side = size[0] // pair(vision.patch_size)[0], int(self.whole.mm_tokens_per_image**0.5)
        if self.side < 1 or self.patches % self.side:
            raise AuditorError(
                f"config.json in “{facts.name}” makes {self.whole.mm_tokens_per_image} tokens of {self.patches} × "
                f"{self.patches} patches, which no squares of patches are.",
                "Copy the folder from its source again.",
            )

    def notes(self) -> list[str]:
        said = "Pictures are read whole: the crops of long ones that its processor would add are not made."
        return [said] if self.crops else []

    @property
    def joined(self) -> int:
        return self.patches // self.side

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        return (Panel(0, self.rule.seen(rows, columns), self.side, self.side),)

    def prepare(self, pixels: Pixels) -> Tensor:
        return self.rule.prepare(pixels)[None]

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

    def norm_gain(self) -> Tensor:
        # Gemma keeps its norms' weights less one.
        weight: Any = self.final_norm().weight
        gain: Tensor = 1.0 + weight
        return gain
