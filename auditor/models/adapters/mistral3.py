"""Mistral 3 and LightOnOCR: Pixtral's tower over pictures of any shape (Agrawal et al. 2024, arXiv:2410.07073), whose
patches are joined by squares, and a Mistral, or a Qwen3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from auditor.base.errors import AuditorError
from auditor.data.image import Pixels
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.clip import tower_points
from auditor.models.adapters.image_text import ImageTextAdapter
from auditor.models.adapters.llama import llama_linear_parts
from auditor.models.adapters.vision import pair, projections
from auditor.models.hook_points import Blocks, HookPoint, Site
from auditor.models.inputs import Inputs
from auditor.models.linearise import LinearPart
from auditor.models.pictures import LARGEST, QWEN, Size, picture_rule, processor_config
from auditor.models.sheets import Panel, Sheet

BREAK, END = "[IMG_BREAK]", "[IMG_END]"


def pixtral_blocks(tower: str) -> Blocks:
    """The table of the tower at the module `tower`."""
    return Blocks(
        stack=f"{tower}.transformer.layers",
        embed=Site(f"{tower}.ln_pre"),
        attn_out=Site("attention"),
        resid_mid=Site("ffn_norm", "input", shared=True),
        mlp_hidden=Site("feed_forward.down_proj", "input"),
        mlp_out=Site("feed_forward"),
        final_norm=None,
        **projections("attention"),
        mlp_pre=Site("feed_forward.gate_proj"),
        mlp_linear=Site("feed_forward.up_proj"),
    )


class Mistral3Adapter(ImageTextAdapter):
    """Pictures keep their shape, and a larger one has more tokens, up to the folder's longest edge. Each row of tokens
    ends with a token of the text. The tower has the patches of all pictures in one row."""

    family = "mistral3"
    config_class = "Mistral3Config"
    architectures = ("Mistral3ForConditionalGeneration",)
    tower: ClassVar[str] = "model.vision_tower"
    connector = "model.multi_modal_projector"
    inner = ("linear_1", "linear_2")

    def prepares(self, facts: ModelFacts) -> None:
        if getattr(self.whole, "vision_feature_layer", -1) != -1:
            raise AuditorError(
                f"config.json in “{facts.name}” reads other states of the tower than its last, which Auditor does not.",
                "Copy the folder from its source again.",
            )
        vision = self.whole.vision_config
        self.cell = pair(vision.patch_size)[0] * self.joined
        said = processor_config(facts.folder, {})[1].get("size")
        longest = said.get("longest_edge") if isinstance(said, dict) else None
        self.longest_edge = pair(vision.image_size)[0] if longest is None else longest
        if not isinstance(self.longest_edge, int) or not self.cell <= self.longest_edge <= LARGEST:
            raise AuditorError(
                f"The preprocessor config in “{facts.name}” gives an impossible size: {self.longest_edge}.",
                "Copy it again.",
            )
        plain = picture_rule(facts.folder, {**QWEN, "do_resize": False})
        self.rule = replace(plain, size=None, expects=None, crop=None)

    @property
    def joined(self) -> int:
        return int(self.whole.spatial_merge_size)

    def size(self, rows: int, columns: int) -> Size:
        """What a picture of so many pixels becomes: no longer than the longest edge, in whole tokens."""
        ratio = max(rows, columns) / self.longest_edge
        if ratio > 1:
            rows, columns = math.floor(rows / ratio), math.floor(columns / ratio)
        high, wide = ((side - 1) // self.cell + 1 for side in (max(rows, 1), max(columns, 1)))
        return high * self.cell, wide * self.cell

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        high, wide = self.size(rows, columns)
        return (Panel(0, (0, 0, rows, columns), high // self.cell, wide // self.cell),)

    def prepare(self, pixels: Pixels) -> Tensor:
        return replace(self.rule, size=self.size(*pixels.shape[:2])).prepare(pixels)

    def together(self, prepared: Sequence[Tensor]) -> Tensor:
        """[pictures, 3, rows, columns], zeros to the right of a picture and below it."""
        high, wide = (max(picture.shape[axis] for picture in prepared) for axis in (1, 2))
        return torch.stack([pad(one, (0, wide - one.shape[2], 0, high - one.shape[1])) for one in prepared])

    def beside(self, sheets: Sequence[Sheet | None]) -> Mapping[str, Tensor]:
        """[pictures, 2]: rows and columns of pixels."""
        panels = [panel for sheet in sheets if sheet is not None for panel in sheet.panels]
        sizes = [[panel.rows * self.cell, panel.columns * self.cell] for panel in panels]
        return {"image_sizes": torch.tensor(sizes)} if sizes else {}

    def vision_points(self) -> list[HookPoint]:
        return tower_points(pixtral_blocks(self.tower), self.whole.vision_config, leading=0)

    def spelled(self, panels: Sequence[Panel]) -> str:
        known = self.tokenizer.get_vocab() if self.tokenizer is not None else {}
        after, last = (mark if mark in known else "" for mark in (BREAK, END))
        name = self._name(self.image_id)
        return "".join(after.join([name * panel.columns] * panel.rows) + last for panel in panels)

    def features(self, inputs: Inputs) -> Any:
        # Not by the library's own collection of states, which would miss edits.
        assert inputs.pixels is not None
        sizes = inputs.beside["image_sizes"]
        tower, connector = (self.library.get_submodule(path) for path in (self.tower, self.connector))
        states = tower(inputs.pixels.to(self.dtype), image_sizes=sizes).last_hidden_state
        return SimpleNamespace(pooler_output=[connector(states[0], sizes)])

    def linear_parts(self) -> list[LinearPart]:
        return llama_linear_parts(self.n_layers, self.language)


class LightOnOcrAdapter(Mistral3Adapter):
    """Rows of tokens follow one another."""

    family = "lighton_ocr"
    config_class = "LightOnOcrConfig"
    architectures = ("LightOnOcrForConditionalGeneration",)
    tower = "model.vision_encoder"
    connector = "model.vision_projection"

    def spelled(self, panels: Sequence[Panel]) -> str:
        return self._name(self.image_id) * sum(len(panel) for panel in panels)
