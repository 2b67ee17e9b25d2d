"""Swin and Swin v2: attention inside windows that shift from block to block, over a map that halves from stage to
stage. Swin v2 norms what attention and MLP give in the place of what they read (Liu et al. 2022, arXiv:2111.09883)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, ClassVar

import torch

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.vision import PictureAdapter, pair
from auditor.models.hook_points import Blocks, Heads, HookPoint, Site, block_points


class SwinAdapter(PictureAdapter):
    """Blocks are counted through all stages; each hook point has the grid and the width of its stage.

    There is no class token. `blocks.N.resid_pre` of a stage's first block is the map after its patches were merged.
    Queries, keys, values and what heads give lie in windows inside the network and are put back in the picture's order.
    A pattern [B, head, patches, patches] is 0 between windows, whatever an edit puts there; where a window is filled up
    beyond the picture's edge, its rows add up to less than 1, by what they look at there.
    """

    family = "swin"
    config_class = "SwinConfig"
    architectures: ClassVar[tuple[str, ...]] = ("SwinForImageClassification", "SwinModel")
    body = "swin"

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        self.depths = [int(depth) for depth in self.config.depths]
        self.n_layers = sum(self.depths)
        self.d_model = self.width_of(len(self.depths) - 1)

    def hook_points(self) -> list[HookPoint]:
        points: list[HookPoint] = []
        first = 0
        for stage, depth in enumerate(self.depths):
            inside = block_points(
                self._table(stage), depth, self.width_of(stage), self.mlp_width_of(stage), prefix="vision.",
                stream="vision", heads=self.heads_of(stage),
            )  # fmt: skip
            for point in inside:
                if stage == 0 or point.name != "vision.embed":
                    points.append(_counted_on(self._in_rows(point, stage), first))
            first += depth
        return points

    def width_of(self, stage: int) -> int:
        return int(self.config.embed_dim) << stage

    def heads_of(self, stage: int) -> Heads:
        count = int(self.config.num_heads[stage])
        return Heads(count, count, self.width_of(stage) // count)

    def mlp_width_of(self, stage: int) -> int:
        return int(self.config.mlp_ratio * self.width_of(stage))

    def _in_rows(self, point: HookPoint, stage: int) -> HookPoint:
        """The hook point, where it lies inside attention with the places of the picture's patches in the windows."""
        match = re.fullmatch(r"vision\.blocks\.(\d+)\.([qkvz]|pattern)", point.name)
        if match is None:
            return point
        return replace(point, order=in_windows(self._grid(stage), *self.window_of(stage, int(match[1]))))

    def window_of(self, stage: int, number: int) -> tuple[int, int]:
        """The side of the windows of a stage's block, and by how much they are shifted."""
        window, least = int(self.config.window_size), min(self._grid(stage))
        return (least, 0) if least <= window else (window, window // 2 if number % 2 else 0)

    def stack_of(self, stage: int) -> str:
        return f"{self.at}encoder.layers.{stage}.blocks"

    def _table(self, stage: int) -> Blocks:
        first, last = map(Site, self.ends())
        ended = stage == len(self.depths) - 1
        return replace(self.inside(), stack=self.stack_of(stage), embed=first, final_norm=last if ended else None)

    def ends(self) -> tuple[str, str]:
        """What stands before the first stage, and after the last."""
        return f"{self.at}embeddings", f"{self.at}layernorm"

    def inside(self) -> Blocks:
        """What stands where inside a block."""
        return Blocks(
            stack="",
            embed=Site(""),
            # Called once a block, on what attention gives after the windows are put together again.
            attn_out=Site("drop_path"),
            resid_mid=Site("layernorm_after", "input", shared=True),
            mlp_hidden=Site("mlp.fc2", "input"),
            mlp_out=Site("mlp"),
            final_norm=None,
            q=Site("attention.q_proj"),
            k=Site("attention.k_proj"),
            v=Site("attention.v_proj"),
            pattern=Site("attention", "inside", inside="dropout"),
            z=Site("attention.o_proj", "input"),
            mlp_pre=Site("mlp.fc1"),
        )

    def grid_of(self, point: HookPoint) -> tuple[int, int] | None:
        return self._grid(self._stage_of(point))

    def _grid(self, stage: int) -> tuple[int, int]:
        assert self.rule.expects is not None
        patch = pair(self.config.patch_size)
        rows, columns = (-(-size // side) for size, side in zip(self.rule.expects, patch, strict=True))
        for _ in range(stage):
            rows, columns = -(-rows // 2), -(-columns // 2)
        return rows, columns

    def _stage_of(self, point: HookPoint) -> int:
        match = re.search(r"(?:encoder\.layers|stages)\.(\d+)\.", point.module)
        return int(match[1]) if match else 0 if point.name == "vision.embed" else len(self.depths) - 1


class Swinv2Adapter(SwinAdapter):
    """`attn_out` and `mlp_out` are what is added: after the norms."""

    family = "swinv2"
    config_class = "Swinv2Config"
    architectures = ("Swinv2ForImageClassification", "Swinv2Model")
    body = "swinv2"

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        for module in self.network.modules():
            if isinstance(table := getattr(module, "relative_coords_table", None), torch.Tensor):
                module.relative_coords_table = table.to(dtype)  # a small MLP reads it

    def window_of(self, stage: int, number: int) -> tuple[int, int]:
        block: Any = self.network.get_submodule(f"{self.stack_of(stage)}.{number}")
        return int(block.window_size), int(block.shift_size)

    def inside(self) -> Blocks:
        return Blocks(
            stack="",
            embed=Site(""),
            attn_out=Site("layernorm_before"),
            resid_mid=Site("intermediate", "input", shared=True),
            mlp_hidden=Site("output.dense", "input"),
            mlp_out=Site("layernorm_after"),
            final_norm=None,
            q=Site("attention.self.query"),
            k=Site("attention.self.key"),
            v=Site("attention.self.value"),
            pattern=Site("attention.self.dropout"),
            z=Site("attention.output.dense", "input"),
            mlp_pre=Site("intermediate.dense"),
        )


def in_windows(grid: tuple[int, int], window: int, shift: int) -> tuple[int, ...]:
    """For each cell of a map, row by row, its place when the map is padded to whole windows, rolled up and left by
    `shift`, and cut into windows that are read one after the other."""
    rows, columns = (-(-side // window) * window for side in grid)
    found = []
    for y in range(grid[0]):
        for x in range(grid[1]):
            down, across = (y - shift) % rows, (x - shift) % columns
            number = down // window * (columns // window) + across // window
            found.append(number * window**2 + down % window * window + across % window)
    return tuple(found)


def _counted_on(point: HookPoint, first: int) -> HookPoint:
    """The hook point of a stage's block, its number counted from the first stage's first block."""
    match = re.fullmatch(r"vision\.blocks\.(\d+)\.(.+)", point.name)
    return replace(point, name=f"vision.blocks.{first + int(match[1])}.{match[2]}") if match else point
