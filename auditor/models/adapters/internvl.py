"""InternVL 3 and 3.5: a vision transformer over tiles of a picture, whose patches are joined by squares, and a Qwen.

Zhu et al. 2025, arXiv:2504.10479.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

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
from auditor.models.pictures import (
    BICUBIC,
    CLIP_MEAN,
    CLIP_STD,
    VIT,
    PictureRule,
    Size,
    picture_rule,
    processor_config,
    resampled,
)
from auditor.models.sheets import Box, Panel

TOWER = "model.vision_tower."
START, END = "<img>", "</img>"
MOST = 64
"""Tiles of a picture."""


@dataclass(frozen=True)
class Canvas:
    """A picture is stretched over `least` to `most` tiles of side `tile`, in rows and columns as near to its shape as
    can be, and read once more whole if they are several. `plain` prepares one tile."""

    plain: PictureRule
    tile: int
    least: int
    most: int

    def tiles(self, rows: int, columns: int) -> Size:
        """Rows and columns of tiles of a picture of so many pixels."""
        every = range(1, self.most + 1)
        grids = [(down, across) for across in every for down in every if self.least <= down * across <= self.most]
        best, nearest = (1, 1), float("inf")
        for down, across in sorted(grids, key=lambda grid: grid[0] * grid[1]):
            off = abs(columns / rows - across / down)
            # Of two as near, the one with more tiles, unless they have twice the picture's pixels.
            if off < nearest or (off == nearest and rows * columns > 0.5 * self.tile**2 * down * across):
                best, nearest = (down, across), off
        return best

    def boxes(self, rows: int, columns: int) -> list[Box]:
        """The parts of a picture of so many pixels, the whole last; each is a pixel wide at least."""
        down, across = self.tiles(rows, columns)
        whole = (0, 0, rows, columns)
        if (down, across) == (1, 1):
            return [whole]
        high, wide = (
            [(at * side // count, max((at + 1) * side // count, at * side // count + 1)) for at in range(count)]
            for side, count in ((rows, down), (columns, across))
        )
        return [*((top, left, bottom, right) for top, bottom in high for left, right in wide), whole]

    def prepare(self, pixels: Pixels) -> Tensor:
        """uint8 [H, W, 3] → float32 [parts, 3, tile, tile]."""
        down, across = self.tiles(*pixels.shape[:2])
        held, how, frames = pixels, self.plain.resample, []
        if (down, across) != (1, 1):
            held = resampled(pixels, (down * self.tile, across * self.tile), how)
            frames = [
                held[top : top + self.tile, left : left + self.tile]
                for top in range(0, down * self.tile, self.tile)
                for left in range(0, across * self.tile, self.tile)
            ]
        frames.append(resampled(pixels, (self.tile, self.tile), how))
        return torch.stack([self.plain.prepare(np.ascontiguousarray(frame)) for frame in frames])


def canvas(folder: Path, tile: int) -> Canvas:
    """As a folder says it. AuditorError for numbers of tiles that cannot be."""
    usual = VIT | {"resample": BICUBIC, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    said = processor_config(folder, {"min_patches": 1, "max_patches": 12})[1]
    least, most = said["min_patches"], said["max_patches"]
    if not all(isinstance(count, int) and 1 <= count <= MOST for count in (least, most)) or least > most:
        raise AuditorError(
            f"The preprocessor config in “{folder.name}” wants {least} to {most} tiles of a picture.", "Copy it again."
        )
    plain = picture_rule(folder, usual | {"size": {"height": tile, "width": tile}}, (tile, tile))
    return Canvas(replace(plain, size=None, crop=None), tile, least, most)


class InternVlAdapter(ImageTextAdapter):
    """`attn_out` and `mlp_out` of the tower are what is added to its stream: behind the scales of its blocks."""

    family = "internvl"
    config_class = "InternVLConfig"
    architectures = ("InternVLForConditionalGeneration",)
    connector = "model.multi_modal_projector"
    inner = ("linear_1", "linear_2")
    strategy: ClassVar[str] = "default"
    """Which of the tower's rows are read: "full" all, "default" all but the class token."""

    def prepares(self, facts: ModelFacts) -> None:
        vision = self.whole.vision_config
        if self.whole.vision_feature_layer != -1 or self.whole.vision_feature_select_strategy != self.strategy:
            raise AuditorError(
                f"config.json in “{facts.name}” reads other states of the tower than its last, which Auditor does not.",
                "Copy the folder from its source again.",
            )
        self.side = pair(vision.image_size)[0] // pair(vision.patch_size)[0] // self.joined
        self.rule = canvas(facts.folder, pair(vision.image_size)[0])

    @property
    def joined(self) -> int:
        return round(1 / float(self.whole.downsample_ratio))

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        return tuple(Panel(0, box, self.side, self.side) for box in self.rule.boxes(rows, columns))

    def prepare(self, pixels: Pixels) -> Tensor:
        return self.rule.prepare(pixels)

    def vision_points(self) -> list[HookPoint]:
        vision = self.whole.vision_config
        table = Blocks(
            stack=f"{TOWER}encoder.layer",
            embed=Site(f"{TOWER}embeddings"),
            attn_out=Site("", "inside", inside="mul", after="attention"),
            resid_mid=Site("layernorm_after", "input", shared=True),
            mlp_hidden=Site("mlp.fc2", "input"),
            mlp_out=Site("", "inside", inside="mul", after="mlp"),
            final_norm=None if vision.use_mean_pooling else Site(f"{TOWER}layernorm"),
            **projections("attention", "projection_layer"),
            mlp_pre=Site("mlp.fc1"),
        )
        return tower_points(table, vision, leading=1)

    def around(self) -> tuple[str, str]:
        known = self.tokenizer.get_vocab() if self.tokenizer is not None else {}
        return (START, END) if START in known and END in known else ("", "")

    def features(self, inputs: Inputs) -> Any:
        assert inputs.pixels is not None
        return self.library.model.get_image_features(
            inputs.pixels.to(self.dtype), vision_feature_layer=-1, vision_feature_select_strategy=self.strategy
        )

    def linear_parts(self) -> list[LinearPart]:
        return llama_linear_parts(self.n_layers, self.language)
