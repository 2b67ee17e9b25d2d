"""Pictures of any shape in a bounded number of patches (NaFlex, SigLIP 2: Tschannen et al. 2025, arXiv:2502.14786).

The steps are those of transformers' image processor (its Pillow variant; the tests compare the two).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.models.pictures import BILINEAR, HALF, PictureRule, Size, picture_rule, processor_config
from auditor.models.sheets import Box, Panel

NAFLEX: dict[str, Any] = {"size": None, "resample": BILINEAR, "image_mean": HALF, "image_std": HALF}
_EPS = 1e-5
_MOST = 1 << 14


@dataclass(frozen=True)
class NaflexRule:
    """A picture keeps its shape, and is made as large as it can be with at most `most` patches of side `patch`."""

    plain: PictureRule
    patch: int
    most: int

    def size(self, rows: int, columns: int) -> Size:
        """What a picture of so many pixels becomes: the largest factor found by halving, each side rounded up."""

        def scaled(factor: float) -> Size:
            high, wide = (
                max(self.patch, math.ceil(side * factor / self.patch) * self.patch) for side in (rows, columns)
            )
            return high, wide

        low, high = _EPS / 10, 100.0
        while high - low >= _EPS:
            factor = (low + high) / 2
            if math.prod(side // self.patch for side in scaled(factor)) <= self.most:
                low = factor
            else:
                high = factor
        return scaled(low)

    def panel(self, rows: int, columns: int) -> Panel:
        """The patches of a picture of so many pixels. AuditorError where even one row of them is too long."""
        high, wide = (side // self.patch for side in self.size(rows, columns))
        if high * wide > self.most:
            raise AuditorError(
                f"A picture of {columns} × {rows} pixels is too long and narrow: the model reads at most {self.most} "
                "patches.",
                "Cut it, or leave it out.",
            )
        return Panel(0, (0, 0, rows, columns), high, wide)

    def must_take(self, rows: int, columns: int) -> None:
        """AuditorError as by `panel`."""
        self.panel(rows, columns)

    def seen(self, rows: int, columns: int) -> Box:
        """All of it."""
        return 0, 0, rows, columns

    def prepare(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [H, W, 3] → float32 [patches, patch² · 3], patches row by row, channels last in each."""
        panel, side = self.panel(*pixels.shape[:2]), self.patch
        plain = replace(self.plain, size=(panel.rows * side, panel.columns * side)).prepare(pixels)
        cut = plain.reshape(3, panel.rows, side, panel.columns, side).permute(1, 3, 2, 4, 0)
        return cut.reshape(len(panel), -1)


def naflex_rule(folder: Path, patch: int) -> NaflexRule:
    """Of a folder whose network reads patches of side `patch`. AuditorError for a number of patches that cannot be."""
    most = processor_config(folder, {})[1].get("max_num_patches", 256)
    if not isinstance(most, int) or not 1 <= most <= _MOST:
        raise AuditorError(
            f"The preprocessor config in “{folder.name}” gives an impossible number of patches: {most}.",
            "Copy it again.",
        )
    plain = picture_rule(folder, {**NAFLEX, "do_resize": False})
    return NaflexRule(replace(plain, size=None, expects=None, crop=None), patch, most)
