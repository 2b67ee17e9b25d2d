"""Qwen2-VL and Qwen2.5-VL: a tower over the patches of all pictures in one row, and a Qwen2 with positions in 3D."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.image_text import ImageTextAdapter
from auditor.models.adapters.llama import llama_linear_parts
from auditor.models.hook_points import Blocks, Heads, HookPoint, Part, Site, block_points
from auditor.models.inputs import Grid, Inputs
from auditor.models.linearise import LinearPart
from auditor.models.pictures import LARGEST, QWEN, PictureRule, picture_rule, processor_config

TOWER = "model.visual."
SIDE = 16
"""Rows and columns of a picture's tokens, where the folder's bounds on its pixels allow it."""


class Qwen2VlAdapter(ImageTextAdapter):
    """Pictures are made square, so that all have one grid; the library's processor keeps their shape.

    The tower has no patterns among its hook points: it computes attention for each picture, or window, apart.
    """

    family = "qwen2_vl"
    config_class = "Qwen2VLConfig"
    architectures = ("Qwen2VLForConditionalGeneration",)
    connector = f"{TOWER}merger"
    last = "fc2"

    def rule_of(self, facts: ModelFacts) -> PictureRule:
        said = processor_config(facts.folder, {})[1]
        size = said["size"] if isinstance(said.get("size"), dict) else {}
        told = (said.get("min_pixels", size.get("shortest_edge")), said.get("max_pixels", size.get("longest_edge")))
        least, most = (
            min(value, LARGEST**2) if isinstance(value, int) and value > 0 else default
            for value, default in zip(told, (56 * 56, 28 * 28 * 1280), strict=True)
        )
        cell = self.patch * self.merged
        side = min(max(SIDE, math.ceil(math.sqrt(least) / cell)), max(1, math.isqrt(most) // cell)) * cell
        return picture_rule(facts.folder, QWEN, (side, side))

    @property
    def patch(self) -> int:
        return int(self.whole.vision_config.patch_size)

    @property
    def merged(self) -> int:
        """Patches along a side that become one token."""
        return int(self.whole.vision_config.spatial_merge_size)

    def patches(self) -> Grid:
        return self.rule.grid((self.patch, self.patch))

    def tokens(self) -> Grid:
        rows, columns = self.patches()
        return rows // self.merged, columns // self.merged

    def tower(self) -> tuple[int, int]:
        """Width of the tower and of its MLPs."""
        vision = self.whole.vision_config
        return int(vision.embed_dim), int(vision.embed_dim * vision.mlp_ratio)

    def tower_blocks(self) -> Blocks:
        def projected(number: int) -> Site:
            return Site("attn.qkv", part=Part(1, 3, number, number + 1))

        return Blocks(
            stack=f"{TOWER}blocks",
            # What enters the first block: the patches in the order in which all blocks have them.
            embed=Site(f"{TOWER}blocks.0", "input"),
            attn_out=Site("attn"),
            resid_mid=Site("norm2", "input", shared=True),
            mlp_hidden=Site(f"mlp.{self.last}", "input"),
            mlp_out=Site("mlp"),
            final_norm=Site(f"{TOWER}merger.ln_q"),
            q=projected(0),
            k=projected(1),
            v=projected(2),
            z=Site("attn.proj", "input"),
            mlp_pre=Site("mlp.fc1"),
        )

    def vision_points(self) -> list[HookPoint]:
        vision = self.whole.vision_config
        width, mlp_width = self.tower()
        count = int(vision.num_heads)
        points = block_points(
            self.tower_blocks(), int(vision.depth), width, mlp_width, heads=Heads(count, count, width // count),
            prefix="vision.", stream="vision",
        )  # fmt: skip
        cells = self.cells()
        return [replace(point, order=in_rows(cells, self.tokens(), self.merged)) for point in points]

    def image_token_point(self) -> HookPoint:
        return replace(super().image_token_point(), order=ranks(self.cells()))

    def cells(self) -> list[int]:
        """Which token's patches come first in the tower, which second, …; tokens are counted row by row."""
        rows, columns = self.tokens()
        return list(range(rows * columns))

    def around(self) -> tuple[str, str]:
        return self._name(self.whole.vision_start_token_id), self._name(self.whole.vision_end_token_id)

    def features(self, pixels: Tensor) -> Any:
        return self.library.model.get_image_features(self.flat(pixels), self.shapes(len(pixels), pixels.device))

    def flat(self, pixels: Tensor) -> Tensor:
        """[B, 3, rows, columns] → [B · patches, 3 · times · patch²]: the patches of a token one after the other, each
        at all the times that make one patch of a film."""
        rows, columns = self.tokens()
        times = int(self.whole.vision_config.temporal_patch_size)
        cut = pixels.reshape(len(pixels), 3, rows, self.merged, self.patch, columns, self.merged, self.patch)
        patches = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)[:, :, :, :, :, :, None]
        return patches.expand(*patches.shape[:6], times, *patches.shape[7:]).flatten(5).flatten(0, 4)

    def shapes(self, count: int, device: torch.device) -> Tensor:
        """[count, 3]: times, rows and columns of patches of each picture."""
        return torch.tensor([[1, *self.patches()]] * count, device=device)

    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        if inputs.pixels is None:
            return {}
        is_image = (inputs.ids < 0) & inputs.mask
        count = int(inputs.has_image.sum())
        return {"image_grid_thw": self.shapes(count, inputs.ids.device), "mm_token_type_ids": is_image.to(torch.int32)}

    def linear_parts(self) -> list[LinearPart]:
        return llama_linear_parts(self.n_layers, self.language)


class Qwen25VlAdapter(Qwen2VlAdapter):
    """Most of the tower's blocks attend inside windows, whose patches stand together."""

    family = "qwen2_5_vl"
    config_class = "Qwen2_5_VLConfig"
    architectures = ("Qwen2_5_VLForConditionalGeneration",)
    last = "down_proj"

    def tower(self) -> tuple[int, int]:
        vision = self.whole.vision_config
        return int(vision.hidden_size), int(vision.intermediate_size)

    def tower_blocks(self) -> Blocks:
        return replace(super().tower_blocks(), mlp_pre=Site("mlp.gate_proj"), mlp_linear=Site("mlp.up_proj"))

    def cells(self) -> list[int]:
        rows, columns = self.tokens()
        side = int(self.whole.vision_config.window_size) // self.merged // self.patch
        return sorted(
            range(rows * columns),
            key=lambda cell: (cell // columns // side, cell % columns // side, cell // columns, cell % columns),
        )


def ranks(cells: Sequence[int]) -> tuple[int, ...]:
    """Where each of `cells` stands: the inverse of the permutation."""
    places = {cell: place for place, cell in enumerate(cells)}
    return tuple(places[cell] for cell in range(len(cells)))


def in_rows(cells: Sequence[int], tokens: Grid, merged: int) -> tuple[int, ...]:
    """For each patch, row by row, its place in a tower that has the patches of token `cells[0]` first, then those of
    `cells[1]`, …, and within a token row by row."""
    place = ranks(cells)
    rows, columns = tokens
    found = []
    for y in range(rows * merged):
        for x in range(columns * merged):
            cell = y // merged * columns + x // merged
            found.append(place[cell] * merged**2 + y % merged * merged + x % merged)
    return tuple(found)
