"""What a graph canvas draws, as plain arrays, and its painting: edges in one pass, nodes by kind, labels apart."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QLineF, QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QImage, QPainter, QPainterPath, QPen, QPolygonF

from auditor.ui import theme
from auditor.ui.widgets.plain_text import token_text

_WIDTHS = 6
_CURVED = 500
_SMOOTH = 250
_NAMED = 40
_BOX_KINDS = ("token", "logit")
_BOX = 17
_PATCH = 26
_WIDEST_LABEL = 130


@dataclass(frozen=True)
class DrawnNode:
    """One node: `kind` gives its shape (feature circle, error diamond, token and logit box, patch cell), `text` what
    stands at it, `tip` what hover says."""

    id: str
    kind: str
    text: str
    tip: str = ""


@dataclass(frozen=True)
class Drawing:
    """A graph to draw. `spots` [n, 2] in units of one node's room, y upward; `ends` [e, 2] (source, target) rows;
    `weights` [e]; `influence` [n] says which labels come first. `columns` with `column_spans` [c, 2] are the token
    positions, `bands` with `band_spans` [b, 2] the layers (NaN where one is empty). `pictures` maps a patch's row to
    its pixels uint8 [h, w, 3]. With `cells` [n, 2] (column, band) the spots only tell the order within a cell, and the
    canvas arranges the nodes for its own size; `pitch` is then the pixels of a unit, 0 before that."""

    nodes: Sequence[DrawnNode]
    spots: NDArray[np.float32]
    ends: NDArray[np.int64]
    weights: NDArray[np.float32]
    influence: NDArray[np.float32]
    columns: Sequence[str] = ()
    column_spans: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    bands: Sequence[str] = ()
    band_spans: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    pictures: Mapping[int, NDArray[np.uint8]] = field(default_factory=dict)
    cells: NDArray[np.int64] | None = None
    pitch: float = 0.0


@dataclass(frozen=True)
class View:
    """From units to pixels: x · scale_x + left, top − y · scale_y."""

    scale_x: float
    scale_y: float
    left: float
    top: float

    def at(self, spots: NDArray[np.float32]) -> NDArray[np.float64]:
        """Pixels [n, 2] of spots [n, 2]."""
        out = np.empty(spots.shape, np.float64)
        out[:, 0] = spots[:, 0] * self.scale_x + self.left
        out[:, 1] = self.top - spots[:, 1] * self.scale_y
        return out

    def moved(self, dx: float, dy: float) -> View:
        return replace(self, left=self.left + dx, top=self.top + dy)

    def zoomed(self, factor: float, x: float, y: float) -> View:
        """Scaled by `factor` with the pixel (x, y) standing still."""
        return View(
            self.scale_x * factor, self.scale_y * factor,
            x + (self.left - x) * factor, y + (self.top - y) * factor,
        )  # fmt: skip

    @property
    def radius(self) -> float:
        """Of an ordinary node, in pixels."""
        return float(np.clip(0.36 * min(self.scale_x, self.scale_y), 2.5, theme.px(9)))


def places(drawing: Drawing, view: View) -> NDArray[np.float64]:
    """Pixels [n, 2] of the nodes."""
    return view.at(drawing.spots)


def sizes(drawing: Drawing, view: View) -> NDArray[np.float64]:
    """Half width and half height [n, 2] of each node in pixels; boxes are as wide as their text where there is room."""
    radius = view.radius
    largest = float(drawing.influence.max(initial=0.0)) or 1.0
    grown = radius * (0.8 + 0.4 * np.sqrt(np.maximum(drawing.influence, 0) / largest))
    half = np.stack([grown, grown], axis=1).astype(np.float64)
    metrics = QFontMetricsF(theme.font("small"))
    high = theme.px(_BOX - 1) / 2
    rooms = _rooms(drawing, view)
    patch = max(radius, theme.px(_PATCH) / 2 * view.scale_y / drawing.pitch) if drawing.pitch else theme.px(_PATCH)
    for row, node in enumerate(drawing.nodes):
        if node.kind in _BOX_KINDS:
            need = metrics.horizontalAdvance(node.text) / 2 + theme.px(5)
            half[row] = min(need, rooms[row]) if node.kind == "token" else need, high
        elif node.kind == "patch":
            side = float(np.clip(rooms[row], radius, patch))
            half[row] = side, side
    return half


def _rooms(drawing: Drawing, view: View) -> NDArray[np.float64]:
    """Half the width in pixels of the column in which each node stands."""
    spans = drawing.column_spans
    if not len(spans):
        return np.full(len(drawing.nodes), 40.0)
    x = drawing.spots[:, 0][:, None]
    inside = (x >= spans[:, 0]) & (x <= spans[:, 1])
    width = np.nan_to_num(spans[:, 1] - spans[:, 0])
    found = np.where(inside.any(1), width[inside.argmax(1)], 1.0)
    return np.maximum(found * view.scale_x / 2, 3.0)


# edges


def paint_edges(
    painter: QPainter, drawing: Drawing, points: NDArray[np.float64], area: QRectF, most: int
) -> int:  # fmt: skip
    """The `most` strongest edges that touch `area`, one pen at a time; how many were drawn.

    Width follows |weight|, colour its sign. Few edges are curves; many are lines, of which only the strongest are
    smoothed, since smoothing takes five times as long.
    """
    chosen = _visible_edges(drawing, points, area)
    if not len(chosen):
        return 0
    size = np.abs(drawing.weights[chosen])
    if len(chosen) > most:
        kept = np.argpartition(-size, most)[:most]
        chosen, size = chosen[kept], size[kept]
    largest = float(np.abs(drawing.weights).max(initial=0.0)) or 1.0
    step = np.minimum((np.sqrt(size / largest) * _WIDTHS).astype(np.int64), _WIDTHS - 1)
    negative = drawing.weights[chosen] < 0
    painter.setBrush(Qt.BrushStyle.NoBrush)
    curved = len(chosen) <= _CURVED
    smooth = np.ones(len(chosen), np.bool_)
    fade = min(1.0, (_SMOOTH / len(chosen)) ** 0.5)  # thousands of weak edges would hide the strong ones
    if not curved:
        smooth = size >= np.partition(size, -_SMOOTH)[-_SMOOTH]
    for width in range(2 * _WIDTHS):
        wide = width % _WIDTHS / (_WIDTHS - 1)
        for sign in (False, True):
            part = chosen[(step == width % _WIDTHS) & (negative == sign) & (smooth == (width >= _WIDTHS))]
            if len(part):
                painter.setRenderHint(QPainter.RenderHint.Antialiasing, width >= _WIDTHS)
                pen = edge_pen(sign, wide, 0.28 + 0.30 * wide)
                if width < _WIDTHS:  # Qt's fast way begins above a width of 1
                    pen = edge_pen(sign, max(wide, 0.35), (0.16 + 0.2 * wide) * fade)
                painter.setPen(pen)
                starts, stops = points[drawing.ends[part, 0]], points[drawing.ends[part, 1]]
                _strokes(painter, starts, stops, curved)
    return len(chosen)


def edge_pen(negative: bool, part: float, strength: float) -> QPen:
    """The pen of an edge whose |weight| is `part` (0…1) of the largest, `strength` its opacity."""
    colour = theme.color("negative" if negative else "positive")
    colour.setAlphaF(min(1.0, strength))
    pen = QPen(colour, theme.px(100) / 100 * (0.6 + 3.0 * part))
    pen.setCapStyle(Qt.PenCapStyle.FlatCap)
    return pen


def paint_chosen_edges(
    painter: QPainter, drawing: Drawing, points: NDArray[np.float64], rows: Iterable[int]
) -> set[int]:  # fmt: skip
    """Every edge of the nodes `rows`, strong, negative ones dashed; the rows of the nodes at their other ends."""
    wanted = np.fromiter(rows, np.int64)
    touched = np.flatnonzero(np.isin(drawing.ends, wanted).any(1)) if len(drawing.ends) else np.zeros(0, np.int64)
    largest = float(np.abs(drawing.weights[touched]).max(initial=0.0)) or 1.0
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
    painter.setBrush(Qt.BrushStyle.NoBrush)
    order = touched[np.argsort(np.abs(drawing.weights[touched]))]
    curved = len(touched) <= _CURVED
    for edge in order:
        weight = float(drawing.weights[edge])
        pen = edge_pen(weight < 0, (abs(weight) / largest) ** 0.5, 0.9)
        if weight < 0:
            pen.setDashPattern([4.0, 2.0])
        painter.setPen(pen)
        source, target = drawing.ends[edge]
        _strokes(painter, points[source][None], points[target][None], curved)
    return set(drawing.ends[touched].ravel().tolist())


def _visible_edges(drawing: Drawing, points: NDArray[np.float64], area: QRectF) -> NDArray[np.int64]:
    if not len(drawing.ends):
        return np.zeros(0, np.int64)
    a, b = points[drawing.ends[:, 0]], points[drawing.ends[:, 1]]
    low, high = np.minimum(a, b), np.maximum(a, b)
    seen = (low[:, 0] <= area.right()) & (high[:, 0] >= area.left())
    seen &= (low[:, 1] <= area.bottom()) & (high[:, 1] >= area.top())
    return np.flatnonzero(seen)


def _strokes(painter: QPainter, starts: NDArray[np.float64], stops: NDArray[np.float64], curved: bool) -> None:
    if not curved:
        painter.drawLines([QLineF(*a, *b) for a, b in zip(starts.tolist(), stops.tolist(), strict=True)])
        return
    for (x0, y0), (x1, y1) in zip(starts.tolist(), stops.tolist(), strict=True):
        path = QPainterPath(QPointF(x0, y0))
        middle = (y0 + y1) / 2
        path.cubicTo(x0, middle, x1, middle, x1, y1)
        painter.drawPath(path)


# nodes


def paint_node(
    painter: QPainter, node: DrawnNode, spot: Sequence[float], half: Sequence[float], picture: QImage | None = None,
    *, fill: QColor | None = None, ring: QColor | None = None,
) -> None:  # fmt: skip
    """One node in the shape of its kind; `ring` frames it."""
    x, y, wide, high = float(spot[0]), float(spot[1]), float(half[0]), float(half[1])
    box = QRectF(x - wide, y - high, 2 * wide, 2 * high)
    outline = QPen(ring or theme.color("edge"), theme.px(3) if ring else 1.3)
    painter.setPen(outline)
    painter.setBrush(fill or theme.color("surface"))
    if node.kind == "feature":
        painter.setPen(outline if ring else QPen(theme.color("text"), 1.3))
        painter.drawEllipse(box)
    elif node.kind == "error":
        corners = [QPointF(x, y - high), QPointF(x + wide, y), QPointF(x, y + high), QPointF(x - wide, y)]
        painter.drawPolygon(QPolygonF(corners))
    elif node.kind == "patch":
        if picture is not None:
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, True)
            painter.drawImage(box, picture)
            painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(box)
    else:
        painter.drawRoundedRect(box, theme.px(4), theme.px(4))
        _box_text(painter, box, node.text)


def _box_text(painter: QPainter, box: QRectF, text: str) -> None:
    face = theme.font("small")
    metrics = QFontMetricsF(face)
    if box.height() < metrics.ascent():
        return
    painter.setFont(face)
    painter.setPen(theme.color("text"))
    if metrics.horizontalAdvance(text) > box.width() - 2:
        if box.width() >= theme.px(34):
            text = metrics.elidedText(text, Qt.TextElideMode.ElideRight, box.width() - 4)
        else:  # three dots would take all the room there is
            while text and metrics.horizontalAdvance(text + "‥") > box.width() - 1:
                text = text[:-1]
            text += "‥"
    painter.drawText(box, Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextDontClip, text)


# labels


def captions(drawing: Drawing) -> dict[int, str]:
    """Row → label of the features that are to be named, the most influential first.

    Features of one cell with the same label are named once, at the strongest of them, with how many they are.
    """
    held: dict[tuple[object, ...], list[int]] = {}
    for row in np.argsort(-drawing.influence, kind="stable").tolist():
        node = drawing.nodes[row]
        if node.kind == "feature" and node.text:
            cell = (row,) if drawing.cells is None else tuple(drawing.cells[row].tolist())
            held.setdefault((*cell, node.text), []).append(row)
    return {
        rows[0]: drawing.nodes[rows[0]].text + (f" ×{len(rows)}" if len(rows) > 1 else "") for rows in held.values()
    }


def label_areas(
    drawing: Drawing, points: NDArray[np.float64], half: NDArray[np.float64], area: QRectF, most: int = _NAMED,
    within: QRectF | None = None, whole: Collection[int] = (),
) -> dict[int, QRectF]:  # fmt: skip
    """Where the labels of the most influential features stand so that they cover neither a node nor one another.

    A node inside `within` has its label inside as well, where nothing is cut; those of `whole` are shortened last.
    """
    high = QFontMetricsF(theme.font("small")).height()
    taken = np.concatenate([points - half - 1, points + half + 1], axis=1)
    placed: dict[int, QRectF] = {}
    for row, text in captions(drawing).items():
        if len(placed) >= most:
            break
        x, y = points[row]
        if not area.contains(QPointF(x, y)):
            continue
        wide = label_width(text, 2 if row in whole else 1)
        dx, dy = half[row] + 3
        spots = ((x + dx, y - high / 2), (x - dx - wide, y - high / 2), (x - wide / 2, y - dy - high),
                 (x - wide / 2, y + dy), (x + dx * 0.7, y - dy - high * 0.7))  # fmt: skip
        bound = within if within is not None and within.contains(QPointF(x, y)) else None
        for left, top in spots:
            if bound is not None and not bound.contains(QRectF(left, top, wide, high)):
                continue
            room = np.array([left, top, left + wide, top + high])
            hit = (taken[:, 0] < room[2]) & (taken[:, 2] > room[0]) & (taken[:, 1] < room[3]) & (taken[:, 3] > room[1])
            hit[row] = False
            if not hit.any():
                placed[int(row)] = QRectF(left, top, wide, high)
                taken = np.concatenate([taken, room[None]])
                break
    return placed


def label_width(text: str, lengths: int = 1) -> float:
    """Pixels across of a label, in bold or not, at most so many usual lengths."""
    metrics = QFontMetricsF(theme.font("small", bold=True))
    return min(metrics.horizontalAdvance(text), lengths * theme.px(_WIDEST_LABEL)) + 4


def paint_label(painter: QPainter, area: QRectF, text: str, *, bold: bool = False) -> None:
    """A label on a ground of its own, so that edges behind do not disturb it."""
    ground = theme.color("surface")
    ground.setAlphaF(0.82)
    painter.fillRect(area, ground)
    face = theme.font("small", bold=bold)
    painter.setFont(face)
    painter.setPen(theme.color("text"))
    shown = QFontMetricsF(face).elidedText(text, Qt.TextElideMode.ElideRight, area.width() - 2)
    painter.drawText(area, int(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignHCenter), shown)


def seen(text: str) -> str:
    """A token or label as it may be drawn: no leading space, nothing invisible."""
    stripped = text.strip(" ")
    return token_text(stripped if stripped else text.replace(" ", "␣"))
