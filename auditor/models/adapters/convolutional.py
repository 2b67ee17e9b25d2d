"""Convolutional networks: image classifiers whose hook points are maps (y, x, channel).

All have the same names. ``vision.embed`` is the map that enters the first block, ``vision.blocks.N.resid_post`` the map
that block N gives, N counted through all stages, and ``vision.head`` the last map before pooling where one more
convolution makes it. Maps have the channels of their block and shrink with depth.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import nn

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.vision import PictureAdapter
from auditor.models.hook_points import MAP, HookPoint, Site


class ConvolutionalAdapter(PictureAdapter):
    """Subclasses say where the blocks are, and the head if there is one."""

    any_size = True

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        self.paths = self.blocks()
        self.n_layers = len(self.paths)
        self.d_model = self.width(self.paths[-1])

    @abstractmethod
    def blocks(self) -> list[str]:
        """Paths of the blocks, in order."""

    @abstractmethod
    def width(self, block: str) -> int:
        """Channels that the block at this path gives."""

    @abstractmethod
    def input_width(self) -> int:
        """Channels that enter the first block."""

    def embed(self) -> Site:
        return Site(self.paths[0], "input")

    def head(self) -> tuple[str, int] | None:
        """Path and channels of the module that gives the last map, if the last block does not."""
        return None

    def hook_points(self) -> list[HookPoint]:
        embed, head = self.embed(), self.head()
        rows = [("vision.embed", embed, self.input_width())]
        rows += [
            (f"vision.blocks.{number}.resid_post", Site(path), self.width(path))
            for number, path in enumerate(self.paths)
        ]
        if head is not None:
            rows.append(("vision.head", Site(head[0]), head[1]))
        return [
            HookPoint(name, width, MAP, site.module, depth, site.tensor, "vision")
            for depth, (name, site, width) in enumerate(rows)
        ]

    def listed(self, path: str) -> list[str]:
        """Paths of the members of a list of modules."""
        members: nn.ModuleList = self.network.get_submodule(path)  # type: ignore[assignment]
        return [f"{path}.{number}" for number in range(len(members))]

    def outputs(self, path: str) -> int:
        """Output channels of the convolution, or width of the linear layer, at `path`."""
        layer = self.network.get_submodule(path)
        return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]

    def inputs(self, path: str) -> int:
        """Input channels of the convolution at `path`."""
        return int(self.network.get_submodule(path).in_channels)  # type: ignore[arg-type]
