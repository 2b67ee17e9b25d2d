"""Where a sample's pictures lie side by side: one sheet of cells, so that any patch of any of them has one number.

A sample may hold several pictures, and a family may read one of them in several parts (Idefics: tiles, and the whole
once more). Each such part is a panel of cells on the sample's sheet; a cell is what one token, or one patch of the
tower, stands for. A picture that is read in one part is its sheet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grid = tuple[int, int]
Box = tuple[int, int, int, int]
"""A part of a picture: its first row and column, and those after its last, in pixels."""
_PAPER = 255
_WIDE = 1.6  # of a sheet's width to its height, about


@dataclass(frozen=True)
class Panel:
    """`rows` × `columns` cells over the part `box` of picture number `picture` (from 0), which lie on the sheet from
    `top` and `left` on. The network has them by blocks of `block` × `block` cells, row by row in each; 0: row by row.
    """

    picture: int
    box: Box
    rows: int
    columns: int
    block: int = 0
    top: int = 0
    left: int = 0

    def __len__(self) -> int:
        return self.rows * self.columns

    def ranks(self, block: int = 0) -> NDArray[np.int64]:
        """Of each cell, row by row, its place in the network's order (or in that of blocks of another size)."""
        y, x = np.divmod(np.arange(len(self)), self.columns)
        side = block or self.block
        if not side:
            return y * self.columns + x
        at = y // side * (self.columns // side) + x // side
        found: NDArray[np.int64] = at * side**2 + y % side * side + x % side
        return found

    def area(self, cell: int) -> tuple[float, float, float, float]:
        """The part of the picture under a cell, counted row by row: top, left, bottom and right in its pixels."""
        y, x = divmod(cell, self.columns)
        top, left, bottom, right = self.box
        high, wide = (bottom - top) / self.rows, (right - left) / self.columns
        return top + y * high, left + x * wide, top + (y + 1) * high, left + (x + 1) * wide


@dataclass(frozen=True)
class Sheet:
    """The panels of a sample, in the order in which the network reads them, and the cells that they lie on."""

    panels: tuple[Panel, ...]
    grid: Grid

    @classmethod
    def of(cls, panels: Sequence[Panel]) -> Sheet:
        """Panels in lines of about the same length, as words stand in a paragraph, with a cell between them."""
        if len(panels) == 1:
            return cls((replace(panels[0], top=0, left=0),), (panels[0].rows, panels[0].columns))
        area = sum((panel.rows + 1) * (panel.columns + 1) for panel in panels)
        wide = max(math.ceil(math.sqrt(area * _WIDE)), *(panel.columns for panel in panels))
        placed: list[Panel] = []
        top = left = high = 0
        for panel in panels:
            if left and left + panel.columns > wide:
                top, left, high = top + high + 1, 0, 0
            placed.append(replace(panel, top=top, left=left))
            left, high = left + panel.columns + 1, max(high, panel.rows)
        ends = [(panel.top + panel.rows, panel.left + panel.columns) for panel in placed]
        return cls(tuple(placed), (max(row for row, _ in ends), max(column for _, column in ends)))

    def units(self, panel: Panel) -> NDArray[np.int64]:
        """The number on the sheet of each of a panel's cells, row by row; the sheet's are counted row by row too."""
        y, x = np.divmod(np.arange(len(panel)), panel.columns)
        found: NDArray[np.int64] = (panel.top + y) * self.grid[1] + panel.left + x
        return found

    def finer(self, by: int) -> Sheet:
        """The same sheet with `by` × `by` cells in the place of each."""
        panels = (
            replace(
                panel, rows=panel.rows * by, columns=panel.columns * by, block=panel.block * by, top=panel.top * by,
                left=panel.left * by,
            )
            for panel in self.panels
        )  # fmt: skip
        return self if by == 1 else Sheet(tuple(panels), (self.grid[0] * by, self.grid[1] * by))

    def drawn(self, pictures: Sequence[NDArray[np.uint8]], side: int) -> NDArray[np.uint8]:
        """The sheet as a picture uint8 [height, width, 3], its longer side about `side` pixels for each panel that it
        is wide or high; `pictures` are the sample's. A picture in one part keeps its own shape."""
        if len(self.panels) == 1:
            picture = _part(pictures[self.panels[0].picture], self.panels[0].box)
            picture.thumbnail((side, side), Image.Resampling.LANCZOS)
            return np.asarray(picture)
        across = min(math.ceil(math.sqrt(len(self.panels))), 4)
        cell = max(1, side * across // max(self.grid))
        paper = Image.new("RGB", (self.grid[1] * cell, self.grid[0] * cell), (_PAPER,) * 3)
        for panel in self.panels:
            if not len(panel):  # of a very narrow picture LLaVA-NeXT's tiles have no cell
                continue
            part = _part(pictures[panel.picture], panel.box)
            size = panel.columns * cell, panel.rows * cell
            paper.paste(part.resize(size, Image.Resampling.LANCZOS), (panel.left * cell, panel.top * cell))
        return np.asarray(paper)


def _part(picture: NDArray[np.uint8], box: Box) -> Image.Image:
    """What lies in the box; paper where that reaches beyond the picture."""
    top, left, bottom, right = box
    if top >= 0 and left >= 0 and bottom <= picture.shape[0] and right <= picture.shape[1]:
        return Image.fromarray(np.ascontiguousarray(picture[top:bottom, left:right]))
    paper = Image.new("RGB", (right - left, bottom - top), (_PAPER,) * 3)
    paper.paste(Image.fromarray(np.ascontiguousarray(picture)), (-left, -top))
    return paper
