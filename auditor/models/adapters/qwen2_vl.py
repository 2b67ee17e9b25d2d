"""Qwen2-VL and Qwen2.5-VL: a tower over the patches of all pictures in one row, and a Qwen2 with positions in 3D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.data.image import Pixels
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.image_text import ImageTextAdapter
from auditor.models.adapters.llama import llama_linear_parts
from auditor.models.hook_points import PATTERN, Blocks, Heads, HookPoint, Part, Site, block_points
from auditor.models.inputs import Inputs
from auditor.models.linearise import LinearPart
from auditor.models.resolution import free_rule
from auditor.models.sheets import Panel, Sheet

TOWER = "model.visual."


class Qwen2VlAdapter(ImageTextAdapter):
    """Pictures keep their shape, and a larger one has more tokens, within the bounds of the folder's processor config.

    A pattern of the tower [B, head, patches, patches] is 0 between pictures, and between windows where it attends in
    them, whatever an edit puts there.
    """

    family = "qwen2_vl"
    config_class = "Qwen2VLConfig"
    architectures = ("Qwen2VLForConditionalGeneration",)
    connector = f"{TOWER}merger"
    inner = ("mlp.0", "mlp.2")
    last = "fc2"

    def prepares(self, facts: ModelFacts) -> None:
        self.rule = free_rule(facts.folder, self.patch * self.merged)

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        return self.rule.panels(rows, columns)

    def prepare(self, pixels: Pixels) -> Tensor:
        return self.flat(self.rule.prepare(pixels))

    def beside(self, sheets: Sequence[Sheet | None]) -> Mapping[str, Tensor]:
        """[pictures, 3]: times, rows and columns of patches."""
        panels = [panel for sheet in sheets if sheet is not None for panel in sheet.panels]
        shapes = [[1, panel.rows * self.merged, panel.columns * self.merged] for panel in panels]
        return {"image_grid_thw": torch.tensor(shapes)} if shapes else {}

    @property
    def patch(self) -> int:
        return int(self.whole.vision_config.patch_size)

    @property
    def merged(self) -> int:
        """Patches along a side that become one token."""
        return int(self.whole.vision_config.spatial_merge_size)

    @property
    def joined(self) -> int:
        return self.merged

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
            pattern=Site("attn", "inside", inside="dropout"),
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
        return [replace(point, apart=point.axes == PATTERN) for point in points]

    def order(self, rows: int, columns: int) -> list[int]:
        """Of so many tokens, counted row by row: whose patches come first in the tower, whose second, …"""
        return list(range(rows * columns))

    def ranks(self, panel: Panel, cells: str) -> NDArray[np.int64]:
        side = self.merged if cells == "patches" else 1
        rows, columns = panel.rows // side, panel.columns // side
        place = np.argsort(self.order(rows, columns))
        y, x = np.divmod(np.arange(len(panel)), panel.columns)
        found: NDArray[np.int64] = place[y // side * columns + x // side] * side**2 + y % side * side + x % side
        return found

    def around(self) -> tuple[str, str]:
        return self._name(self.whole.vision_start_token_id), self._name(self.whole.vision_end_token_id)

    def features(self, inputs: Inputs) -> Any:
        assert inputs.pixels is not None
        return self.library.model.get_image_features(inputs.pixels.to(self.dtype), inputs.beside["image_grid_thw"])

    def flat(self, pixels: Tensor) -> Tensor:
        """[3, rows, columns] → [patches, 3 · times · patch²]: the patches of a token one after the other, each at all
        the times that make one patch of a film."""
        rows, columns = (side // self.patch // self.merged for side in pixels.shape[1:])
        times = int(self.whole.vision_config.temporal_patch_size)
        cut = pixels.reshape(3, rows, self.merged, self.patch, columns, self.merged, self.patch)
        patches = cut.permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
        return patches.expand(*patches.shape[:5], times, *patches.shape[6:]).flatten(4).flatten(0, 3)

    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        if inputs.pixels is None:
            return {}
        is_image = (inputs.ids < 0) & inputs.mask
        return {**inputs.beside, "mm_token_type_ids": is_image.to(torch.int32)}

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

    def order(self, rows: int, columns: int) -> list[int]:
        side = int(self.whole.vision_config.window_size) // self.merged // self.patch
        return sorted(
            range(rows * columns),
            key=lambda cell: (cell // columns // side, cell % columns // side, cell // columns, cell % columns),
        )
