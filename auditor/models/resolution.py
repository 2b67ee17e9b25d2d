"""Pictures whose size says how many tokens they have: kept in shape (Qwen2-VL and after), or cut into tiles with the
whole picture beside them (Idefics3, SmolVLM).

The steps are those of transformers' image processors (their Pillow variant; the tests compare the two).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.models.pictures import (
    IDEFICS,
    LARGEST,
    QWEN,
    PictureRule,
    Size,
    longer_side,
    picture_rule,
    processor_config,
    resampled,
)
from auditor.models.sheets import Panel

# Of one side to the other, in Qwen's processor.
_NARROWEST = 200


@dataclass(frozen=True)
class FreeRule:
    """Each side becomes a multiple of `cell` pixels, near what it was, with `least` to `most` pixels in all
    (`smart_resize` of Qwen2-VL's processor)."""

    plain: PictureRule
    cell: int
    least: int
    most: int
    resized: bool = True

    def size(self, rows: int, columns: int) -> Size:
        """What a picture of so many pixels becomes. AuditorError for one that is too narrow."""
        if not self.resized:
            if rows % self.cell or columns % self.cell:
                raise AuditorError(
                    f"A picture of {columns} × {rows} pixels does not fit: the model's preprocessor config does not "
                    f"resize, and the network reads multiples of {self.cell}.",
                    "Resize the pictures first.",
                )
            return rows, columns
        if max(rows, columns) > _NARROWEST * min(rows, columns):
            raise AuditorError(
                f"A picture of {columns} × {rows} pixels is too long and narrow: the model reads pictures of which one "
                f"side is at most {_NARROWEST} times the other.",
                "Cut it, or leave it out.",
            )
        high, wide = (round(side / self.cell) * self.cell for side in (rows, columns))
        if high * wide > self.most:
            share = math.sqrt(rows * columns / self.most)
            high, wide = (max(self.cell, math.floor(side / share / self.cell) * self.cell) for side in (rows, columns))
        elif high * wide < self.least:
            share = math.sqrt(self.least / (rows * columns))
            high, wide = (math.ceil(side * share / self.cell) * self.cell for side in (rows, columns))
        return high, wide

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        """The cells of a picture of so many pixels."""
        high, wide = self.size(rows, columns)
        return (Panel(0, (0, 0, rows, columns), high // self.cell, wide // self.cell),)

    def prepare(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [H, W, 3] → float32 [3, rows, columns]."""
        return replace(self.plain, size=self.size(*pixels.shape[:2])).prepare(pixels)


@dataclass(frozen=True)
class TiledRule:
    """The longer side becomes `first` pixels (0: it stays); then the sides become multiples of `tile`, the picture is
    cut into tiles of that side, and the whole, at the same side, is read after them. A picture that is no larger than a
    tile, or any without `splits`, is read whole alone. A tile has `cells` × `cells` tokens."""

    plain: PictureRule
    tile: int
    cells: int
    first: int
    splits: bool

    def tiles(self, rows: int, columns: int) -> Size:
        """Rows and columns of tiles of a picture of so many pixels; (0, 0): it is read whole alone."""
        high, wide = self._in_tiles(*self._first(rows, columns))
        return (0, 0) if not self.splits or (high, wide) == (1, 1) else (high, wide)

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        """The cells of the tiles of a picture of so many pixels, and those of the whole."""
        whole = 0, 0, rows, columns
        high, wide = self.tiles(rows, columns)
        tiled = (Panel(0, whole, high * self.cells, wide * self.cells, self.cells),) if high else ()
        return (*tiled, Panel(0, whole, self.cells, self.cells, self.cells))

    def prepare(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [H, W, 3] → float32 [tiles + 1, 3, tile, tile]."""
        held, how = pixels, self.plain.resample
        if self.first:
            held = resampled(held, longer_side(self.first, *held.shape[:2]), how)
        if self.splits:
            high, wide = self._in_tiles(*held.shape[:2])
            held = resampled(held, (high * self.tile, wide * self.tile), how)
        frames = []
        high, wide = self.tiles(*pixels.shape[:2])
        for top in range(0, high * self.tile, self.tile):
            for left in range(0, wide * self.tile, self.tile):
                frames.append(held[top : top + self.tile, left : left + self.tile])
        frames.append(resampled(held, (self.tile, self.tile), how))
        return torch.stack([self.plain.prepare(np.ascontiguousarray(frame)) for frame in frames])

    def _first(self, rows: int, columns: int) -> Size:
        return longer_side(self.first, rows, columns) if self.first else (rows, columns)

    def _in_tiles(self, rows: int, columns: int) -> Size:
        """Tiles down and across: the longer side's pixels are made whole tiles first, and the other side follows."""
        shape = columns / rows
        if columns >= rows:
            wide = math.ceil(columns / self.tile)
            return math.ceil(int(wide * self.tile / shape) / self.tile) or 1, wide
        high = math.ceil(rows / self.tile)
        return high, math.ceil(int(high * self.tile * shape) / self.tile) or 1


def free_rule(folder: Path, cell: int, defaults: Mapping[str, Any] = QWEN, bounds: Size = (56 * 56, 28 * 28 * 1280)
              ) -> FreeRule:  # fmt: skip
    """Of a folder of the Qwen-VL family; `bounds` are the family's own least and most pixels. AuditorError for values
    that no picture can be resized to."""
    said = processor_config(folder, {})[1]
    size = said["size"] if isinstance(said.get("size"), dict) else {}
    told = (said.get("min_pixels", size.get("shortest_edge")), said.get("max_pixels", size.get("longest_edge")))
    least, most = (
        min(value, LARGEST**2) if isinstance(value, int) and value > 0 else default
        for value, default in zip(told, bounds, strict=True)
    )
    if most < cell**2 or least > most:
        raise AuditorError(
            f"The preprocessor config in “{folder.name}” wants pictures of {least:,} to {most:,} pixels, and the "
            f"network reads {cell} × {cell} at least.",
            "Copy it again.",
        )
    plain = picture_rule(folder, {**defaults, "do_resize": False})
    return FreeRule(replace(plain, expects=None, crop=None), cell, least, most, bool(said.get("do_resize", True)))


def tiled_rule(folder: Path, tile: int, cells: int) -> TiledRule:
    """Of a folder of the Idefics3 family, whose network reads tiles of side `tile`."""
    said = processor_config(folder, {"size": {"longest_edge": 4 * tile}})[1]
    first = said["size"].get("longest_edge") if isinstance(said["size"], dict) else None
    usable = first if isinstance(first, int) and 1 <= first <= LARGEST and said.get("do_resize", True) else 0
    plain = replace(picture_rule(folder, IDEFICS, (tile, tile)), size=None, crop=None)
    return TiledRule(plain, tile, cells, usable, bool(said.get("do_image_splitting", True)))
