"""Swin: attention inside windows that shift from block to block, over a map that halves from stage to stage."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.vision import PictureAdapter, pair
from auditor.models.hook_points import Blocks, HookPoint, Site, block_points


class SwinAdapter(PictureAdapter):
    """Blocks are counted through all stages; each hook point has the grid and the width of its stage.

    There is no class token. `blocks.N.resid_pre` of a stage's first block is the map after its patches were merged.
    Queries, keys, values and patterns lie in windows, not in the picture's order, so they are no hook points here.
    """

    family = "swin"
    config_class = "SwinConfig"
    architectures = ("SwinForImageClassification", "SwinModel")
    body = "swin"

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        self.depths = [int(depth) for depth in self.config.depths]
        self.n_layers = sum(self.depths)
        self.d_model = int(self.config.embed_dim) << (len(self.depths) - 1)

    def hook_points(self) -> list[HookPoint]:
        points: list[HookPoint] = []
        first = 0
        for stage, depth in enumerate(self.depths):
            width = int(self.config.embed_dim) << stage
            table = self._table(stage)
            inside = block_points(
                table, depth, width, int(self.config.mlp_ratio * width), prefix="vision.", stream="vision"
            )
            points += [_counted_on(point, first) for point in inside if stage == 0 or point.name != "vision.embed"]
            first += depth
        return points

    def _table(self, stage: int) -> Blocks:
        last = stage == len(self.depths) - 1
        return Blocks(
            stack=f"{self.at}encoder.layers.{stage}.blocks",
            embed=Site(f"{self.at}embeddings"),
            # Called once a block, on what attention gives after the windows are put together again.
            attn_out=Site("drop_path"),
            resid_mid=Site("layernorm_after", "input", shared=True),
            mlp_hidden=Site("mlp.fc2", "input"),
            mlp_out=Site("mlp"),
            final_norm=Site(f"{self.at}layernorm") if last else None,
            mlp_pre=Site("mlp.fc1"),
        )

    def grid_of(self, point: HookPoint) -> tuple[int, int] | None:
        assert self.rule.expects is not None
        patch = pair(self.config.patch_size)
        rows, columns = (-(-size // side) for size, side in zip(self.rule.expects, patch, strict=True))
        for _ in range(self._stage_of(point)):
            rows, columns = -(-rows // 2), -(-columns // 2)
        return rows, columns

    def _stage_of(self, point: HookPoint) -> int:
        match = re.search(r"encoder\.layers\.(\d+)\.", point.module)
        return int(match[1]) if match else 0 if point.name == "vision.embed" else len(self.depths) - 1


def _counted_on(point: HookPoint, first: int) -> HookPoint:
    """The hook point of a stage's block, its number counted from the first stage's first block."""
    match = re.fullmatch(r"vision\.blocks\.(\d+)\.(.+)", point.name)
    return replace(point, name=f"vision.blocks.{first + int(match[1])}.{match[2]}") if match else point
