"""Idefics3 and SmolVLM: a SigLIP tower, whose patches are joined by squares, and a Llama."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from auditor.data.image import Pixels
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.clip import tower_points
from auditor.models.adapters.image_text import ImageTextAdapter
from auditor.models.adapters.llama import llama_linear_parts
from auditor.models.adapters.siglip import siglip_vision_blocks
from auditor.models.adapters.vision import pair
from auditor.models.hook_points import HookPoint
from auditor.models.inputs import Inputs
from auditor.models.linearise import LinearPart
from auditor.models.resolution import tiled_rule
from auditor.models.sheets import Panel

AROUND, WHOLE = "<fake_token_around_image>", "<global-img>"


class Idefics3Adapter(ImageTextAdapter):
    """A picture is read in tiles, and then whole; or whole alone, where the folder's `do_image_splitting` is off."""

    family = "idefics3"
    config_class = "Idefics3Config"
    architectures = ("Idefics3ForConditionalGeneration",)
    language = "model.text_model."
    connector = "model.connector"

    def prepares(self, facts: ModelFacts) -> None:
        side, patch = pair(self.whole.vision_config.image_size)[0], pair(self.whole.vision_config.patch_size)[0]
        self.rule = tiled_rule(facts.folder, side, side // patch // self.joined)

    @property
    def joined(self) -> int:
        return int(self.whole.scale_factor)

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        return self.rule.panels(rows, columns)

    def prepare(self, pixels: Pixels) -> Tensor:
        return self.rule.prepare(pixels)

    def vision_points(self) -> list[HookPoint]:
        return tower_points(siglip_vision_blocks("model.vision_model."), self.whole.vision_config, leading=0)

    def spelled(self, panels: Sequence[Panel]) -> str:
        *tiled, whole = panels
        tokens = self._name(self.image_id) * len(whole)
        lines = [
            "".join(f"{AROUND}<row_{row + 1}_col_{column + 1}>{tokens}" for column in range(grid.columns // grid.block))
            for grid in tiled
            for row in range(grid.rows // grid.block)
        ]
        return "".join(f"{line}\n" for line in lines) + ("\n" if lines else "") + f"{AROUND}{WHOLE}{tokens}{AROUND}"

    def around(self) -> tuple[str, str]:
        return f"{AROUND}{WHOLE}", AROUND

    def features(self, inputs: Inputs) -> Any:
        assert inputs.pixels is not None
        # A part that is all zero would be taken for padding and left out.
        empty = (inputs.pixels == 0).flatten(1).all(dim=1)
        pixels = inputs.pixels + empty[:, None, None, None] * 1e-6
        return self.library.model.get_image_features(pixels[:, None].to(self.dtype))

    def linear_parts(self) -> list[LinearPart]:
        return llama_linear_parts(self.n_layers, self.language)


class SmolvlmAdapter(Idefics3Adapter):
    family = "smolvlm"
    config_class = "SmolVLMConfig"
    architectures = ("SmolVLMForConditionalGeneration",)
