"""Llama 4: a vision transformer over tiles of a picture, whose patches are joined by squares, and a mixture of experts
that reads them among its text.

Meta 2025, https://ai.meta.com/blog/llama-4-multimodal-intelligence/.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from auditor.base.errors import AuditorError
from auditor.data.image import Pixels
from auditor.data.sample import PositionKind
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import head_weight
from auditor.models.adapters.clip import tower_points
from auditor.models.adapters.image_text import ImageTextAdapter, Laid, Sheets, stacked
from auditor.models.adapters.llama import LLAMA4
from auditor.models.adapters.vision import pair, projections
from auditor.models.hook_points import Blocks, HookPoint, Site
from auditor.models.inputs import Inputs
from auditor.models.marks import MARK
from auditor.models.pictures import VIT, Size, picture_rule, processor_config
from auditor.models.sheets import Panel

MOST_TILES = 64
BEGIN, END, PICTURE = "<|image_start|>", "<|image_end|>", "<|image|>"
BESIDE, BELOW = "<|tile_x_separator|>", "<|tile_y_separator|>"
TOWER = Blocks(
    stack="vision_model.model.layers",
    embed=Site("vision_model.model.layers.0", "input"),
    attn_out=Site("self_attn"),
    resid_mid=Site("post_attention_layernorm", "input", shared=True),
    mlp_hidden=Site("mlp.fc2", "input"),
    mlp_out=Site("mlp"),
    final_norm=Site("vision_model.layernorm_post"),
    **projections("self_attn"),
    mlp_pre=Site("mlp.fc1"),
)


@dataclass(frozen=True)
class Canvas:
    """A picture at `inside` rows and columns of pixels in the corner of `down` × `across` tiles, black elsewhere."""

    down: int
    across: int
    inside: Size


class Llama4Adapter(ImageTextAdapter):
    """A picture is read in tiles, and then whole; or whole alone, where it is no larger than a tile. Class tokens stand
    behind the patches of their tiles, and here behind those of all tiles."""

    family = "llama4"
    config_class = "Llama4Config"
    architectures = ("Llama4ForConditionalGeneration",)
    language = "language_model.model."
    connector = "multi_modal_projector"
    inner = ("fc1", "fc2")
    packs = False

    def prepares(self, facts: ModelFacts) -> None:
        vision = self.whole.vision_config
        self.side, patch = pair(vision.image_size)[0], pair(vision.patch_size)[0]
        said = processor_config(facts.folder, {})[1]
        most, self.widest = said.get("max_patches", 16), bool(said.get("resize_to_max_canvas", False))
        self.patches = self.side // patch
        if not isinstance(most, int) or not 1 <= most <= MOST_TILES or self.patches % self.joined or not self.patches:
            raise AuditorError(
                f"The configs in “{facts.name}” give impossible tiles: at most {most}, of {self.patches} patches a "
                "side.",
                "Copy the folder from its source again.",
            )
        self.shapes = _shapes(most)
        self.rule = picture_rule(facts.folder, VIT | {"size": {"height": self.side, "width": self.side}})

    def table(self) -> Blocks:
        plain = super().table()
        return replace(LLAMA4, stack=plain.stack, embed=plain.embed, final_norm=plain.final_norm)

    def mlp_width(self) -> int:
        return int(self.config.intermediate_size_mlp)

    @property
    def joined(self) -> int:
        return round(1 / float(self.whole.vision_config.pixel_shuffle_ratio))

    def canvas(self, rows: int, columns: int) -> Canvas:
        """Of a picture of so many pixels, as the library lays it out."""
        scales = [min(np.float32(a * self.side) / rows, np.float32(b * self.side) / columns) for a, b in self.shapes]
        larger = [scale for scale in scales if scale >= 1]
        scale = (max if self.widest or not larger else min)(larger or scales)
        down, across = min(
            (shape for shape, held in zip(self.shapes, scales, strict=True) if held == scale), key=math.prod
        )
        high, wide = down * self.side, across * self.side
        if not self.widest:
            high, wide = min(max(rows, self.side), high), min(max(columns, self.side), wide)
        if wide / columns < high / rows:
            high = min(math.floor(rows * (wide / columns)), high)
        else:
            wide = min(math.floor(columns * (high / rows)), wide)
        return Canvas(down, across, (max(high, 1), max(wide, 1)))

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        laid, cells = self.canvas(rows, columns), self.patches // self.joined
        whole = Panel(0, (0, 0, rows, columns), cells, cells, cells)
        if laid.down * laid.across == 1:
            return (replace(whole, box=self._box(laid, rows, columns)),)
        tiled = Panel(0, self._box(laid, rows, columns), laid.down * cells, laid.across * cells, cells)
        return tiled, whole

    def _box(self, laid: Canvas, rows: int, columns: int) -> tuple[int, int, int, int]:
        """The canvas in pixels of the picture, beyond which it reaches."""
        bottom = round(rows * laid.down * self.side / laid.inside[0])
        return 0, 0, bottom, round(columns * laid.across * self.side / laid.inside[1])

    def prepare(self, pixels: Pixels) -> Tensor:
        laid, side = self.canvas(*pixels.shape[:2]), self.side
        held = _resized(pixels, laid.inside)
        gaps = laid.across * side - held.shape[2], laid.down * side - held.shape[1]
        filled = pad(held, (0, gaps[0], 0, gaps[1]))
        tiles = filled.reshape(3, laid.down, side, laid.across, side).permute(1, 3, 0, 2, 4).flatten(0, 1)
        if len(tiles) > 1:
            tiles = torch.cat([tiles, _resized(pixels, (side, side))[None]])
        # The library computes this in so few bits, as the network was trained.
        numbers = tiles.to(torch.bfloat16) * self.rule.factor
        mean, std = (torch.tensor(x, dtype=numbers.dtype)[:, None, None] for x in (self.rule.mean, self.rule.std))
        return ((numbers - mean) / std).float()

    def vision_points(self) -> list[HookPoint]:
        return tower_points(TOWER, self.whole.vision_config, leading=0)

    def projector_points(self, name: str = "projector", at: str = "") -> list[HookPoint]:
        return super().projector_points(name, at or "vision_model.vision_adapter.mlp")

    def _lay(self, cells: str, leading: int, sheets: Sheets) -> Laid:
        rows, units, start = [], [], 0
        finer = tuple(sheet and sheet.finer(self.joined if cells == "patches" else 1) for sheet in sheets)
        for sheet in finer:
            row, unit = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
            for panel in () if sheet is None else sheet.panels:
                inside = panel.block**2
                each = inside + (cells == "patches")
                tile, place = np.divmod(panel.ranks(), inside)
                classes = np.unique(tile) * each + inside if each > inside else np.zeros(0, np.int64)
                row += [start + tile * each + place, start + classes]
                unit += [sheet.units(panel), np.full(len(classes), -1)]  # type: ignore[union-attr]
                start += len(panel) // inside * each
            rows.append(np.concatenate(row))
            units.append(np.concatenate(unit))
        whose, unit_of = stacked(rows), stacked(units)
        kind = torch.where(unit_of >= 0, int(PositionKind.IMAGE), int(PositionKind.SPECIAL))
        return Laid(whose, kind.masked_fill(whose < 0, int(PositionKind.PAD)), unit_of, finer)

    def marks(self) -> Sequence[str]:
        return [PICTURE, MARK]

    def spelled(self, panels: Sequence[Panel]) -> str:
        *tiled, whole = panels
        tokens = self._name(self.image_id) * len(whole)
        lines = [
            BESIDE.join([tokens] * (panel.columns // panel.block)) + BELOW
            for panel in tiled
            for _ in range(panel.rows // panel.block)
        ]
        return f"{BEGIN}{''.join(lines)}{PICTURE}{tokens}{END}"

    def features(self, inputs: Inputs) -> Any:
        assert inputs.pixels is not None
        return self.library.get_image_features(inputs.pixels.to(self.dtype))

    def unembed(self) -> Tensor | None:
        return head_weight(self.network, "language_model.lm_head")

    def final_norm(self) -> nn.Module:
        return self.network.get_submodule(f"{self.language}norm")


def _shapes(most: int) -> list[Size]:
    """Rows and columns of up to so many tiles, in the library's order, by which it decides between equals."""
    found: dict[float, list[Size]] = {}
    for count in range(most, 0, -1):
        for down in range(1, count + 1):
            if count % down == 0:
                found.setdefault(down / (count // down), []).append((down, count // down))
    return [shape for shapes in found.values() for shape in shapes]


def _resized(pixels: Pixels, size: Size) -> Tensor:
    """uint8 [H, W, 3] → whole numbers float32 [3, rows, columns], as torchvision's bilinear filter gives them."""
    given = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
    if given.shape[2:] == size:
        return given[0]
    return interpolate(given, size=size, mode="bilinear", antialias=True, align_corners=False).round()[0]
