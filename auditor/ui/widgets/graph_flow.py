"""A graph arranged for a canvas of a given size: as many labels with room of their own as fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PySide6.QtGui import QFontMetricsF

from auditor.analysis.flow import Measures, Pieces, flow
from auditor.ui import theme
from auditor.ui.widgets.graph_drawing import Drawing, captions, label_width

_TRIES = (  # labels with room of their own, pixels of an unnamed node, widest token
    (36, 13, 90), (28, 13, 80), (22, 12, 70), (16, 12, 60), (12, 11, 50), (8, 10, 40), (5, 9, 32), (0, 8, 24),
    (0, 6, 16),
)  # fmt: skip
_LINE, _OUTPUT_LINE = 16, 19
_PATCH = 26
_COLUMN_GAP, _PATCH_GAP = 14, 1
_LEAST_BAND_GAP, _MOST_BAND_GAP = 24, 130


def arrange(drawing: Drawing, width: float, height: float) -> Drawing:
    """`drawing` with spots and spans for a room of `width` × `height` pixels, in units of one unnamed node.

    The strongest features have room for their label to the right. The first try that fits is taken: each has fewer
    labels and smaller nodes than the one before. A drawing without cells is given back as it is.
    """
    found = drawing
    if drawing.cells is None or not drawing.nodes:
        return found
    for named, pitch, token in _TRIES:
        found, fits = _try(drawing, width, height, named, theme.px(pitch), theme.px(token))
        if fits:
            break
    return found


def _try(
    drawing: Drawing, width: float, height: float, named: int, pitch: int, token: int
) -> tuple[Drawing, bool]:  # fmt: skip
    assert drawing.cells is not None
    kinds = np.array([node.kind for node in drawing.nodes])
    patches = kinds == "patch"
    pieces = Pieces(
        drawing.cells, _order(drawing), _widths(drawing, named, pitch, token),
        np.isin(kinds, ("token", "patch", "logit")), kinds == "logit", patches,
    )  # fmt: skip
    line = max(pitch + 1, theme.px(_LINE)) if named else pitch + 1
    sizes = Measures(
        pitch, line, theme.px(_OUTPUT_LINE), theme.px(_PATCH if patches.any() else _LINE) + 4, theme.px(_COLUMN_GAP),
        theme.px(_PATCH_GAP), theme.px(_LEAST_BAND_GAP), theme.px(_MOST_BAND_GAP),
    )  # fmt: skip
    placed = flow(pieces, len(drawing.columns), len(drawing.bands), width, height, sizes)
    spots, columns, bands = (
        (part / pitch).astype(np.float32) for part in (placed.spots, placed.column_spans, placed.band_spans)
    )
    arranged = replace(drawing, spots=spots, pitch=float(pitch), column_spans=columns, band_spans=bands)
    return arranged, placed.fits


def _widths(drawing: Drawing, named: int, pitch: int, token: int) -> NDArray[np.float64]:
    """Pixels across that each node takes in its line."""
    metrics = QFontMetricsF(theme.font("small"))
    widths = np.full(len(drawing.nodes), float(pitch))
    for row, text in list(captions(drawing).items())[:named]:
        widths[row] += label_width(text) + theme.px(9)
    for row, node in enumerate(drawing.nodes):
        if node.kind == "token":
            widths[row] = min(metrics.horizontalAdvance(node.text) + theme.px(12), token)
        elif node.kind == "logit":
            widths[row] = metrics.horizontalAdvance(node.text) + theme.px(18)
        elif node.kind == "patch":
            widths[row] = max(pitch, min(theme.px(_PATCH), token / 3.5))
    return widths


def _order(drawing: Drawing) -> NDArray[np.float64]:
    """Ranks [n, 2] for the flow: the drawing's order, nodes of a cell with the same words next to one another, what has
    no words last; outputs from the most probable on."""
    assert drawing.cells is not None
    first: dict[tuple[int, int, str], int] = {}
    ranks = np.zeros((len(drawing.nodes), 2))
    for rank, row in enumerate(np.lexsort((drawing.spots[:, 0], drawing.spots[:, 1])).tolist()):
        node, (column, band) = drawing.nodes[row], drawing.cells[row].tolist()
        if node.kind == "logit":
            ranks[row] = 0, -float(drawing.spots[row, 1])
        else:
            like = first.setdefault((column, band, node.text), rank)
            ranks[row] = rank, like + (len(drawing.nodes) if node.kind == "error" else 0)
    return ranks
