"""Where the nodes of a layered graph stand in a room of a given size: columns as wide as their nodes need.

Pure geometry: canvas and report give the widths of their own typefaces and draw what comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MOST_LINES = 12
_STEP = 6.0
_NARROWEST = 8.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pieces:
    """The nodes. `cells` [n, 2]: column and band of each. `order` [n, 2]: x, then y within a cell. `widths` [n]: pixels
    that each takes in its line. `boxes` [n]: whether it stands in the middle of its room or at the left, before its
    label. `outputs` [n]: whether it is of the last band, which flows over the whole width. `patches` [n]: whether it
    is part of an image, whose columns stand close."""

    cells: NDArray[np.int64]
    order: Floats
    widths: Floats
    boxes: NDArray[np.bool_]
    outputs: NDArray[np.bool_]
    patches: NDArray[np.bool_]


@dataclass(frozen=True)
class Measures:
    """Sizes in pixels: an unnamed node, heights of lines, gaps between columns, patches and bands."""

    pitch: float
    line: float
    output_line: float
    input_line: float
    column_gap: float
    patch_gap: float
    least_band_gap: float
    most_band_gap: float


@dataclass(frozen=True)
class Placed:
    """`spots` [n, 2] in pixels, y upward; spans of columns and bands (low, high), NaN where a band is empty; whether
    everything is within the room."""

    spots: Floats
    column_spans: Floats
    band_spans: Floats
    fits: bool


def flow(pieces: Pieces, columns: int, bands: int, width: float, height: float, sizes: Measures) -> Placed:
    """Place the nodes of each cell in lines, as words are in a paragraph.

    Columns are as narrow as the fewest lines allow that fit `width`, so that a crowded token has the room that an
    empty one leaves; what is left over is shared out.
    """
    cells, outputs = _cells(pieces)
    patches = set(pieces.cells[pieces.patches, 0].tolist())
    gaps = np.array([sizes.patch_gap if {c, c + 1} <= patches else sizes.column_gap for c in range(columns - 1)])
    room = width - gaps.sum()
    wide, lines = _columns(cells, columns, bands, room)
    fits = bool(wide.sum() <= room + 1)
    if fits:
        wide *= room / max(wide.sum(), 1.0)
    left = np.concatenate(([0.0], np.cumsum(wide[:-1] + gaps)))
    across = max(width, float(left[-1] + wide[-1]))
    output_lines = outputs.lines(across) if outputs.rows else []
    tall = lines * sizes.line
    tall[0] = max(tall[0], sizes.input_line)
    if output_lines:
        tall[-1] = len(output_lines) * sizes.output_line
    spare = (height - tall.sum()) / max(1, bands - 1)
    gap = float(np.clip(spare, sizes.least_band_gap, sizes.most_band_gap))
    bottom = np.concatenate(([0.0], np.cumsum(tall[:-1] + gap)))
    anchors = np.where(pieces.boxes, pieces.widths, sizes.pitch) / 2
    spots = np.zeros((len(pieces.widths), 2))
    for (column, band), cell in cells.items():
        centre = left[column] + wide[column] / 2, bottom[band] + tall[band] / 2
        _stand(spots, cell.lines(wide[column]), pieces.widths, anchors, centre, sizes.line)
    for at, members in enumerate(output_lines):
        middle = bottom[-1] + tall[-1] - sizes.output_line * (at + 0.5)
        _stand(spots, [members], pieces.widths, anchors, (across - pieces.widths[members].sum() / 2, middle), 0.0)
    band_spans = np.stack([bottom, bottom + tall], 1)
    band_spans[~np.isin(np.arange(bands), pieces.cells[:, 1])] = np.nan
    return Placed(spots, np.stack([left, left + wide], 1), band_spans, fits and spare >= sizes.least_band_gap)


@dataclass(frozen=True)
class _Cell:
    """The nodes of one band and column in their order, and the pixels that each needs."""

    rows: tuple[int, ...]
    widths: tuple[float, ...]

    def lines(self, width: float) -> list[list[int]]:
        """The nodes in lines no wider than `width`."""
        found: list[list[int]] = [[]]
        used = 0.0
        for row, need in zip(self.rows, self.widths, strict=True):
            if found[-1] and used + need > width + 1e-6:
                found.append([])
                used = 0.0
            found[-1].append(row)
            used += need
        return found

    def width_for(self, lines: int) -> float:
        """About the least width in which the nodes stand in at most so many lines."""
        widest = max(self.widths)
        if lines >= len(self.rows):
            return widest
        width = max(widest, sum(self.widths) / lines)
        while len(self.lines(width)) > lines:
            width += _STEP
        return width


def _cells(pieces: Pieces) -> tuple[dict[tuple[int, int], _Cell], _Cell]:
    """The cells by column and band, and the outputs."""
    members: dict[tuple[int, int], list[int]] = {}
    outputs: list[int] = []
    for row in np.lexsort((pieces.order[:, 0], pieces.order[:, 1])).tolist():
        if pieces.outputs[row]:
            outputs.append(row)
        else:
            members.setdefault((int(pieces.cells[row, 0]), int(pieces.cells[row, 1])), []).append(row)
    return {key: _cell(rows, pieces) for key, rows in members.items()}, _cell(outputs, pieces)


def _cell(rows: Sequence[int], pieces: Pieces) -> _Cell:
    return _Cell(tuple(rows), tuple(float(pieces.widths[row]) for row in rows))


def _columns(
    cells: dict[tuple[int, int], _Cell], columns: int, bands: int, room: float
) -> tuple[Floats, Floats]:  # fmt: skip
    """Widths of the columns and lines of each band, for the fewest lines that `room` allows."""
    wide = np.zeros(columns)
    for most in range(1, _MOST_LINES + 1):
        wide = np.full(columns, _NARROWEST)
        for (column, band), cell in cells.items():
            wide[column] = max(wide[column], cell.width_for(most if band else 1))
        if wide.sum() <= room:
            break
    lines = np.ones(bands)
    for (column, band), cell in cells.items():
        lines[band] = max(lines[band], len(cell.lines(wide[column])))
    return wide, lines


def _stand(
    spots: Floats, lines: list[list[int]], widths: Floats, anchors: Floats, centre: tuple[float, float], line: float
) -> None:  # fmt: skip
    """Put lines of nodes about a centre, the first on top; `anchors` is how far into its room each node stands."""
    for at, members in enumerate(lines):
        x = centre[0] - widths[members].sum() / 2
        for row in members:
            spots[row] = x + anchors[row], centre[1] + ((len(lines) - 1) / 2 - at) * line
            x += widths[row]
