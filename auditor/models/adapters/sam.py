"""The image encoder of SAM and SAM-HQ: a vision transformer that attends in windows, in some blocks to the whole
picture, and ends in two convolutions.

Kirillov et al. 2023, arXiv:2304.02643. What it makes of prompts, and the masks, are no hook points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.swin import in_windows
from auditor.models.adapters.vision import VisionTransformerAdapter
from auditor.models.hook_points import MAP, Blocks, HookPoint, Part, Site
from auditor.models.inputs import Inputs
from auditor.models.pictures import BILINEAR, IMAGENET_MEAN, IMAGENET_STD, PictureRule, Size
from auditor.models.sheets import Box

TOWER = "vision_encoder."
_Q, _K, _V = (Site("attn.qkv", part=Part(1, 3, number, number + 1)) for number in range(3))
IN_WINDOWS = ("q", "k", "v", "pattern", "z", "attn_out")


@dataclass(frozen=True)
class FilledRule(PictureRule):
    """The longer side becomes that of the square that the network reads; after it is normalised, the picture is filled
    up with zeros below or to the right."""

    def prepare(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        assert self.expects is not None
        resized = PictureRule(**(vars(self) | {"size": self.fitted(*pixels.shape[:2]), "expects": None}))
        made = resized.prepare(pixels)
        below, right = (want - have for want, have in zip(self.expects, made.shape[1:], strict=True))
        return pad(made, (0, right, 0, below))

    def must_take(self, rows: int, columns: int) -> None:
        """Any becomes the square."""

    def seen(self, rows: int, columns: int) -> Box:
        side = max(rows, columns)
        return 0, 0, side, side

    def fitted(self, rows: int, columns: int) -> Size:
        """Rows and columns of a picture before it is filled up."""
        assert self.expects is not None
        share = self.expects[0] / max(rows, columns)
        return max(int(rows * share + 0.5), 1), max(int(columns * share + 0.5), 1)


class SamVisionAdapter(VisionTransformerAdapter):
    """There is no class token; patches that lie beyond the picture, which is filled up to a square, are read as all
    others. ``vision.neck`` is the map after the convolutions, which masks are made of.

    Queries, keys, values, what heads give and what attention writes lie in windows inside the network and are put back
    in the picture's order; a pattern is as in `SwinAdapter`.
    """

    family = "sam_vision"
    config_class = "SamVisionConfig"
    architectures = ("SamVisionModel",)
    processor: ClassVar[Mapping[str, Any]] = {
        "size": {"longest_edge": 1024}, "resample": BILINEAR, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD,
    }  # fmt: skip

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        self.windows = [int(layer.window_size) for layer in self.network.get_submodule(f"{TOWER}layers")]  # type: ignore

    def rule_of(self, facts: ModelFacts) -> FilledRule:
        rule = super().rule_of(facts)
        return FilledRule(**vars(rule))

    def leading(self) -> int:
        return 0

    def mlp_width(self) -> int:
        return int(self.config.mlp_dim)

    def table(self) -> Blocks:
        return Blocks(
            stack=f"{TOWER}layers",
            embed=Site(f"{TOWER}layers.0", "input"),
            attn_out=Site("attn"),
            resid_mid=Site("layer_norm2", "input", shared=True),
            mlp_hidden=Site("mlp.lin2", "input"),
            mlp_out=Site("mlp"),
            final_norm=None,
            q=_Q,
            k=_K,
            v=_V,
            pattern=Site("attn", "inside", inside="softmax"),
            z=Site("attn.proj", "input"),
            mlp_pre=Site("mlp.lin1"),
        )

    def hook_points(self) -> list[HookPoint]:
        width = int(self.config.output_channels)
        neck = HookPoint("vision.neck", width, MAP, f"{TOWER}neck", 0, "output", "vision")
        return [*map(self._in_rows, super().hook_points()), neck]

    def _in_rows(self, point: HookPoint) -> HookPoint:
        """The hook point, where it lies inside attention with the places of the picture's patches in the windows."""
        block, _, site = point.name.rpartition(".")
        window = self.windows[int(block.rpartition(".")[2])] if site in IN_WINDOWS else 0
        grid = self.grid_of(point)
        assert grid is not None
        return replace(point, order=in_windows(grid, window, 0)) if window else point

    def forward(self, inputs: Inputs) -> None:
        assert inputs.pixels is not None
        self.network.get_submodule(TOWER.rstrip("."))(inputs.pixels.to(self.dtype))


class SamAdapter(SamVisionAdapter):
    """The whole network, of which the image encoder is run."""

    family = "sam"
    config_class = "SamConfig"
    architectures = ("SamModel",)
    inner = "vision_config"


class SamHqAdapter(SamAdapter):
    family = "sam_hq"
    config_class = "SamHQConfig"
    architectures = ("SamHQModel",)


class SamHqVisionAdapter(SamVisionAdapter):
    family = "sam_hq_vision"
    config_class = "SamHQVisionConfig"
    architectures = ("SamHQVisionModel",)
