"""SAM 2's image encoder (Hiera): blocks over a map that halves where a block pools its queries, in windows but for a
few, and a neck that joins maps of several sizes.

Ravi et al. 2024, arXiv:2408.00714; Ryali et al. 2023, arXiv:2306.00989. What it makes of prompts, and the masks, are no
hook points.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.swin import in_windows
from auditor.models.adapters.vision import PictureAdapter, pair
from auditor.models.hook_points import MAP, Blocks, Heads, HookPoint, Part, Site, block_points
from auditor.models.inputs import Inputs
from auditor.models.pictures import IMAGENET_MEAN, IMAGENET_STD, VIT, Size

_Q, _K, _V = (Site("attn.qkv", part=Part(1, 3, number, number + 1)) for number in range(3))
_BEFORE = ("resid_pre", "q", "k", "v")
"""Hook points before a block pools its queries."""


class Sam2VisionAdapter(PictureAdapter):
    """Each hook point has the grid and the width of its place. What lies in windows is put back in the picture's order,
    as in `SwinAdapter`. A block that pools its queries projects and pools its residual stream as well, so that its sums
    are not of `resid_pre`; it lacks its pattern. ``vision.neck`` is the map that masks are made of.
    """

    family = "sam2_vision"
    config_class = "Sam2VisionConfig"
    architectures = ("Sam2VisionModel",)
    inner = "backbone_config"
    processor = VIT | {"size": {"height": 1024, "width": 1024}, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    body = "vision_encoder"

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        tower: Any = self.network.get_submodule(self.at.rstrip("."))
        self.layers: Any = tower.backbone.blocks
        self.joins = 2 in tower.neck.fpn_top_down_levels and len(tower.neck.convs) == 4
        self.fpn_width = int(tower.config.fpn_hidden_size)
        self.n_layers, self.d_model = len(self.layers), int(self.config.embed_dim_per_stage[-1])
        self.stages = [
            stage for stage, count in enumerate(self.config.blocks_per_stage) for _ in range(count)
        ]  # of each block

    def table(self) -> Blocks:
        return Blocks(
            stack=f"{self.at}backbone.blocks",
            embed=Site(f"{self.at}backbone.blocks.0", "input"),
            attn_out=Site("attn"),
            resid_mid=Site("layer_norm2", "input", shared=True),
            mlp_hidden=Site("mlp.proj_out", "input"),
            mlp_out=Site("mlp"),
            final_norm=None,
            q=_Q,
            k=_K,
            v=_V,
            pattern=Site("attn", "inside", inside="dropout"),
            z=Site("attn.proj", "input"),
            mlp_pre=Site("mlp.proj_in"),
        )

    def hook_points(self) -> list[HookPoint]:
        found: list[HookPoint] = []
        for stage, width in enumerate(self.config.embed_dim_per_stage):
            count = int(self.config.num_attention_heads_per_stage[stage])
            every = block_points(
                self.table(), self.n_layers, int(width), int(width * self.config.mlp_ratio), prefix="vision.",
                stream="vision", heads=Heads(count, count, int(width) // count),
            )  # fmt: skip
            placed = (self._placed(point) for point in every if self.stages[_number(point)] == stage)
            found += [point for point in placed if point is not None and (point not in found)]
        if self.joins:
            found.append(
                HookPoint(
                    "vision.neck", self.fpn_width, MAP, f"{self.at}neck", 0, "inside", "vision", inside="add",
                    after="convs.1",
                )
            )  # fmt: skip
        return found

    def _placed(self, point: HookPoint) -> HookPoint | None:
        """The hook point with the places of the picture's patches in the windows; None for what is left out."""
        layer, site = self.layers[_number(point)], point.name.rpartition(".")[2]
        if site == "resid_pre":
            return replace(point, width=int(layer.dim))
        if site == "pattern" and layer.query_stride:
            return None
        if not layer.window_size or site not in ("q", "k", "v", "pattern", "z", "attn_out"):
            return point
        pooled = int(layer.query_stride[0]) if layer.query_stride and site not in _BEFORE else 1
        return replace(point, order=in_windows(self.grid_of(point), layer.window_size // pooled, 0))

    def grid_of(self, point: HookPoint) -> Size:
        assert self.rule.expects is not None
        number, before = _number(point), point.name.rpartition(".")[2] in _BEFORE
        rows, columns = (
            side // step for side, step in zip(self.rule.expects, pair(self.config.patch_stride), strict=True)
        )
        for layer in self.layers[: number + (not before)]:
            if layer.query_stride:
                rows, columns = rows // layer.query_stride[0], columns // layer.query_stride[1]
        return rows, columns

    def forward(self, inputs: Inputs) -> None:
        assert inputs.pixels is not None
        self.network.get_submodule(self.at.rstrip("."))(inputs.pixels.to(self.dtype))


class Sam2Adapter(Sam2VisionAdapter):
    """The whole network, of which the image encoder is run."""

    family = "sam2"
    config_class = "Sam2Config"
    architectures = ("Sam2Model",)
    inner = "vision_config.backbone_config"


class Sam2VideoAdapter(Sam2Adapter):
    """As which SAM 2 is published, for pictures too."""

    family = "sam2_video"
    config_class = "Sam2VideoConfig"
    architectures = ("Sam2VideoModel",)


def _number(point: HookPoint) -> int:
    """Of its block; 0 for what is before the first."""
    number = point.name.split(".")[-2]
    return int(number) if number.isdecimal() else 0
