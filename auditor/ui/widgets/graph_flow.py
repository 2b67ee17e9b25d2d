"""Where the nodes of a graph stand on a canvas of a given size: columns as wide as their nodes and labels need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PySide6.QtGui import QFontMetricsF

from auditor.ui import theme
from auditor.ui.widgets.graph_drawing import Drawing, captions, label_width

_TRIES = (  # labels with room of their own, pixels of an unnamed node, widest token
    (36, 13, 90), (28, 13, 80), (22, 12, 70), (16, 12, 60), (12, 11, 50), (8, 10, 40), (5, 9, 32), (0, 8, 24),
    (0, 6, 16),
)  # fmt: skip
_ROW = 16
_OUTPUT_LINE = 19
_PATCH = 26
_COLUMN_GAP, _PATCH_GAP = 14, 1
_LEAST_BAND_GAP, _MOST_BAND_GAP = 24, 130
_FEW_ROWS = 12


@dataclass(frozen=True)
class _Cell:
    """The nodes of one layer and token in their order, the pixels each needs, and what they are."""

    rows: tuple[int, ...]
    widths: tuple[float, ...]

    @property
    def widest(self) -> float:
        return max(self.widths)

    def lines(self, width: float) -> list[list[int]]:
        """The nodes in lines no wider than `width`, as words are in a paragraph."""
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
        if lines >= len(self.rows):
            return self.widest
        width = max(self.widest, sum(self.widths) / lines)
        while len(self.lines(width)) > lines:
            width += 6.0
        return width


def arrange(drawing: Drawing, width: float, height: float) -> Drawing:
    """`drawing` with spots and spans for a room of `width` × `height` pixels, in units of one unnamed node.

    The nodes of a layer and token flow in lines like words; the strongest have room for their label to the right.
    Columns are as narrow as the lines allow, so that a crowded token is given what an empty one leaves. Outputs
    flow over the whole width, since nothing else stands in their layer. The first try that fits is taken: each has
    fewer labels and smaller nodes than the one before.
    """
    if drawing.cells is None or not drawing.nodes:
        return drawing
    found = drawing
    for named, pitch, token in _TRIES:
        found, fits = _try(drawing, width, height, named, theme.px(pitch), theme.px(token))
        if fits:
            break
    return found


def _try(
    drawing: Drawing, width: float, height: float, named: int, pitch: float, token: float
) -> tuple[Drawing, bool]:  # fmt: skip
    assert drawing.cells is not None
    needs = _needs(drawing, named, pitch, token)
    cells, outputs = _cells(drawing, needs)
    patches = {int(drawing.cells[row, 0]) for row, node in enumerate(drawing.nodes) if node.kind == "patch"}
    gaps = np.array([theme.px(_PATCH_GAP if {c, c + 1} <= patches else _COLUMN_GAP)
                     for c in range(len(drawing.columns) - 1)], float)  # fmt: skip
    room = width - gaps.sum()
    wide, lines = _columns(cells, len(drawing.columns), len(drawing.bands), room)
    fits = wide.sum() <= room + 1
    if fits:
        wide *= room / max(wide.sum(), 1.0)
    left = np.concatenate(([0.0], np.cumsum(wide[:-1] + gaps)))
    across = max(width, float(left[-1] + wide[-1]))
    output_lines = outputs.lines(across) if outputs.rows else []
    line = max(pitch + 1, theme.px(_ROW)) if named else pitch + 1
    tall = lines * line
    tall[0] = max(tall[0], theme.px(_PATCH if patches else _ROW) + 4)
    if output_lines:
        tall[-1] = len(output_lines) * theme.px(_OUTPUT_LINE)
    spare = (height - tall.sum()) / max(1, len(tall) - 1)
    fits &= spare >= theme.px(_LEAST_BAND_GAP)
    gap = float(np.clip(spare, theme.px(_LEAST_BAND_GAP), theme.px(_MOST_BAND_GAP)))
    bottom = np.concatenate(([0.0], np.cumsum(tall[:-1] + gap)))
    spots = np.zeros((len(drawing.nodes), 2))
    boxes = np.array([node.kind in ("token", "patch", "logit") for node in drawing.nodes])
    anchors = np.where(boxes, needs, pitch) / 2
    for (column, band), cell in cells.items():
        centre = left[column] + wide[column] / 2, bottom[band] + tall[band] / 2
        _stand(spots, cell.lines(wide[column]), needs, anchors, centre, line)
    for at, members in enumerate(output_lines):
        middle = bottom[-1] + tall[-1] - theme.px(_OUTPUT_LINE) * (at + 0.5)
        _stand(spots, [members], needs, anchors, (across - needs[members].sum() / 2, middle), line)
    bands = np.stack([bottom, bottom + tall], 1)
    bands[_empty_bands(drawing)] = np.nan
    return replace(
        drawing, spots=(spots / pitch).astype(np.float32), pitch=float(pitch),
        column_spans=(np.stack([left, left + wide], 1) / pitch).astype(np.float32),
        band_spans=(bands / pitch).astype(np.float32),
    ), bool(fits)  # fmt: skip


def _needs(drawing: Drawing, named: int, pitch: float, token: float) -> NDArray[np.float64]:
    """Pixels across that each node takes in its line."""
    metrics = QFontMetricsF(theme.font("small"))
    needs = np.full(len(drawing.nodes), float(pitch))
    for row, text in list(captions(drawing).items())[:named]:
        needs[row] += label_width(text) + theme.px(9)
    for row, node in enumerate(drawing.nodes):
        if node.kind == "token":
            needs[row] = min(metrics.horizontalAdvance(node.text) + theme.px(12), token)
        elif node.kind == "logit":
            needs[row] = metrics.horizontalAdvance(node.text) + theme.px(18)
        elif node.kind == "patch":
            needs[row] = max(pitch, min(theme.px(_PATCH), token / 3.5))
    return needs


def _cells(drawing: Drawing, needs: NDArray[np.float64]) -> tuple[dict[tuple[int, int], _Cell], _Cell]:
    """The cells by column and layer, and the outputs, most probable first."""
    assert drawing.cells is not None
    members: dict[tuple[int, int], list[int]] = {}
    outputs: list[int] = []
    for row in np.lexsort((drawing.spots[:, 0], drawing.spots[:, 1])).tolist():
        if drawing.nodes[row].kind == "logit":
            outputs.append(row)
        else:
            members.setdefault((int(drawing.cells[row, 0]), int(drawing.cells[row, 1])), []).append(row)
    outputs.sort(key=lambda row: -float(drawing.spots[row, 1]))
    made = {key: _cell(_like_beside_like(drawing, rows), needs) for key, rows in members.items()}
    return made, _cell(outputs, needs)


def _like_beside_like(drawing: Drawing, rows: list[int]) -> list[int]:
    """Nodes with the same words next to one another, in the place of the first; nodes without any come last."""
    first = {drawing.nodes[row].text: at for at, row in reversed(list(enumerate(rows)))}
    return sorted(rows, key=lambda row: (drawing.nodes[row].kind == "error", first[drawing.nodes[row].text]))


def _cell(rows: Sequence[int], needs: NDArray[np.float64]) -> _Cell:
    return _Cell(tuple(rows), tuple(float(needs[row]) for row in rows))


def _columns(
    cells: dict[tuple[int, int], _Cell], columns: int, layers: int, room: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
    """Widths of the columns, and lines of each layer, for the fewest lines that `room` allows."""
    wide = np.zeros(columns)
    for most in range(1, _FEW_ROWS + 1):
        wide = np.full(columns, float(theme.px(8)))
        for (column, band), cell in cells.items():
            wide[column] = max(wide[column], cell.width_for(most if band else 1))
        if wide.sum() <= room:
            break
    lines = np.ones(layers)
    for (column, band), cell in cells.items():
        lines[band] = max(lines[band], len(cell.lines(wide[column])))
    return wide, lines


def _stand(
    spots: NDArray[np.float64], lines: list[list[int]], needs: NDArray[np.float64], anchors: NDArray[np.float64],
    centre: tuple[float, float], line: float,
) -> None:  # fmt: skip
    """Put lines of nodes about a centre, the first on top; `anchors` is how far into its room each node stands."""
    for at, members in enumerate(lines):
        x = centre[0] - needs[members].sum() / 2
        for row in members:
            spots[row] = x + anchors[row], centre[1] + ((len(lines) - 1) / 2 - at) * line
            x += needs[row]


def _empty_bands(drawing: Drawing) -> NDArray[np.bool_]:
    assert drawing.cells is not None
    return ~np.isin(np.arange(len(drawing.bands)), drawing.cells[:, 1])
