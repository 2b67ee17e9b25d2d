"""A layered graph on a canvas of its own: pan, zoom, hover, choose by mouse or keys; thousands of edges stay fluent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPoint, QPointF, QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import (
    QFontMetricsF,
    QHelpEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPixmap,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from auditor.ui import theme
from auditor.ui.widgets.graph_drawing import (
    Drawing,
    View,
    captions,
    label_areas,
    paint_chosen_edges,
    paint_edges,
    paint_label,
    paint_node,
    places,
    seen,
    sizes,
)
from auditor.ui.widgets.graph_flow import arrange
from auditor.ui.widgets.numbers import count
from auditor.ui.widgets.plain_text import tooltip

_EDGES_AT_FIT = 500
_LARGEST_UNIT = 58
_EDGES_MOVING = 500
_REST_MS = 90
_PAD = 0.25
_VEIL = 0.72
_EMPTY = Drawing((), np.zeros((0, 2), np.float32), np.zeros((0, 2), np.int64), np.zeros(0, np.float32),
                 np.zeros(0, np.float32))  # fmt: skip


class GraphCanvas(QWidget):
    """Shows a `Drawing`. `selection_changed` carries the ids of the chosen nodes, newest last; Ctrl+click adds one.

    Drag pans, the wheel zooms at the cursor, F fits, + and − zoom, arrows walk to the next node, Escape lets go.
    `offered` comes with the key C.
    """

    selection_changed = Signal(list)
    offered = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.drawing = self._given = _EMPTY
        self.view = View(1.0, 1.0, 0.0, 0.0)
        self.selected: list[str] = []
        self._marked: frozenset[int] = frozenset()
        self._rows: dict[str, int] = {}
        self._pictures: dict[int, QImage] = {}
        self._hover = -1
        self._fitted = 1.0
        self._touched = False
        self._pressed: QPointF | None = None
        self._dragging = False
        self._cache: QPixmap | None = None
        self._cache_view = self.view
        self._cache_pad = (0.0, 0.0)
        self._labels: dict[int, QRectF] = {}
        self._captions: dict[int, str] = {}
        self._drawn = 0
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(_REST_MS)
        self._rest.timeout.connect(self._settle)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setAccessibleName("Circuit")
        theme.signals.changed.connect(self._settle)

    # what is shown

    def set_drawing(self, drawing: Drawing, *, keep_view: bool = False) -> None:
        """Show another graph, fitted unless `keep_view`; what was chosen and is still there stays chosen."""
        marked = {self.drawing.nodes[row].id for row in self._marked}
        self.drawing = self._given = drawing
        self._captions = captions(drawing)
        self._rows = {node.id: row for row, node in enumerate(drawing.nodes)}
        self._pictures = {row: _image(pixels) for row, pixels in drawing.pictures.items()}
        self._hover = -1
        self._marked = frozenset(self._rows[i] for i in marked if i in self._rows)
        kept = [i for i in self.selected if i in self._rows]
        if keep_view and self._touched:
            self._rearrange()
        else:
            self.fit()
        self._settle()
        if kept != self.selected:
            self._choose(kept)

    def set_marked(self, ids: Iterable[str]) -> None:
        """Frame these nodes: the feature that is chosen elsewhere."""
        self._marked = frozenset(self._rows[i] for i in ids if i in self._rows)
        self.update()

    def select(self, ids: Sequence[str]) -> None:
        """Choose these nodes, and bring the last into view."""
        self._choose([i for i in ids if i in self._rows])
        if self.selected:
            self._reveal(self._rows[self.selected[-1]])

    def spot_of(self, node_id: str) -> QPoint:
        """Where a node stands in the widget."""
        x, y = places(self.drawing, self.view)[self._rows[node_id]]
        return QPoint(round(x), round(y))

    def node_at(self, point: QPointF) -> int:
        """Row of the node under a point, −1 for none."""
        if not self.drawing.nodes:
            return -1
        points = places(self.drawing, self.view)
        away = np.abs(points - (point.x(), point.y()))
        hits = np.flatnonzero((away <= np.maximum(sizes(self.drawing, self.view) + 1, 6)).all(1))
        return int(hits[away[hits].sum(1).argmin()]) if len(hits) else -1

    def fit(self) -> None:
        """The whole graph in view."""
        self._touched = False
        if not self.drawing.nodes or self.width() < 2:
            return
        left, top, room_x, room_y = self._room()
        self.drawing = arrange(self._given, room_x, room_y)
        spots = self.drawing.spots
        low, high = spots.min(0), spots.max(0)
        for axis, spans in enumerate((self.drawing.column_spans, self.drawing.band_spans)):
            if len(spans):
                low[axis], high[axis] = min(low[axis], np.nanmin(spans)), max(high[axis], np.nanmax(spans))
        span = np.maximum(high - low, 1.0)
        largest = self.drawing.pitch or theme.px(_LARGEST_UNIT)
        x, y = (float(min(room / s, largest)) for room, s in ((room_x, span[0]), (room_y, span[1])))
        x, y = min(x, 3 * y), min(y, 3 * x)
        middle = (low + high) / 2
        self.view = View(x, y, left + room_x / 2 - float(middle[0]) * x, top + room_y / 2 + float(middle[1]) * y)
        self._fitted = x
        self._settle()

    def _room(self) -> tuple[float, float, float, float]:
        """Left, top, width and height of where a fitted graph stands."""
        left, right, top, bottom = self._left(), theme.px(14), theme.px(24), theme.px(10)
        return left, top, max(40.0, self.width() - left - right), max(40.0, self.height() - top - bottom)

    def _rearrange(self) -> None:
        """Arrange another graph for the same room, seen as far in as before."""
        before = self.drawing.pitch
        self.drawing = arrange(self._given, *self._room()[2:])
        if before and self.drawing.pitch:
            factor = self.drawing.pitch / before
            self.view = View(self.view.scale_x * factor, self.view.scale_y * factor, self.view.left, self.view.top)
            self._fitted *= factor

    def zoom(self, factor: float, at: QPointF | None = None) -> None:
        """Scale about a point (default: the middle)."""
        at = at or QPointF(self.width() / 2, self.height() / 2)
        factor = float(np.clip(self.view.scale_x * factor, self._fitted * 0.3, 160.0)) / self.view.scale_x
        self.view = self.view.zoomed(factor, at.x(), at.y())
        self._touched = True
        self._later()

    def pan(self, dx: float, dy: float) -> None:
        """Move the graph by pixels."""
        self.view = self.view.moved(dx, dy)
        self._touched = True
        self._later()

    @property
    def _most(self) -> int:
        """How many edges may be drawn at this scale: the further in, the more."""
        return round(_EDGES_AT_FIT * max(0.25, (self.view.scale_x / self._fitted) ** 3))

    @property
    def edges_drawn(self) -> int:
        """How many edges the last full drawing held; fewer than there are where thinned or out of view."""
        return self._drawn

    def sizeHint(self) -> QSize:
        return QSize(theme.px(520), theme.px(360))

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(240), theme.px(180))

    # painting

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.fillRect(self.rect(), theme.color("surface"))
        if self.drawing.nodes:
            if self._cache is None or not self._covers():
                self._render()
            self._blit(painter)
            self._paint_choice(painter)
            self._paint_axes(painter)
        if self.hasFocus():
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(theme.color("accent"))
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        painter.end()

    def _render(self) -> None:
        """Draw the whole neighbourhood of what is in view into the cache."""
        ratio = self.devicePixelRatioF()
        pad_x, pad_y = self.width() * _PAD, self.height() * _PAD
        area = QRectF(-pad_x, -pad_y, self.width() + 2 * pad_x, self.height() + 2 * pad_y)
        cache = QPixmap(QSize(round(area.width() * ratio), round(area.height() * ratio)))
        cache.setDevicePixelRatio(ratio)
        cache.fill(theme.color("surface"))
        painter = QPainter(cache)
        painter.translate(pad_x, pad_y)
        points = places(self.drawing, self.view)
        half = sizes(self.drawing, self.view)
        self._paint_bands(painter, area)
        moving = self._rest.isActive()
        most = min(self._most, _EDGES_MOVING) if moving else self._most
        drawn = paint_edges(painter, self.drawing, points, area, most)
        self._drawn = self._drawn if moving else drawn
        self._labels = label_areas(self.drawing, points, half, area, within=self._label_room())
        inside = np.flatnonzero(
            (points[:, 0] > area.left() - 60) & (points[:, 0] < area.right() + 60)
            & (points[:, 1] > area.top() - 60) & (points[:, 1] < area.bottom() + 60)
        )  # fmt: skip
        for row in inside[np.argsort(half[inside, 1], kind="stable")].tolist():
            paint_node(painter, self.drawing.nodes[row], points[row], half[row], self._pictures.get(row))
        painter.end()
        self._cache, self._cache_view, self._cache_pad = cache, self.view, (pad_x, pad_y)

    def _blit(self, painter: QPainter) -> None:
        assert self._cache is not None
        held, factor = self._cache_view, self.view.scale_x / self._cache_view.scale_x
        ratio = self._cache.devicePixelRatio()
        wide, high = self._cache.width() / ratio, self._cache.height() / ratio
        left = self.view.left - (held.left + self._cache_pad[0]) * factor
        top = self.view.top - (held.top + self._cache_pad[1]) * factor
        if abs(factor - 1) < 1e-9:
            painter.drawPixmap(QPointF(left, top), self._cache)
        else:
            target = QRectF(left, top, wide * factor, high * factor)
            painter.drawPixmap(target, self._cache, QRectF(self._cache.rect()))
        if self._hover < 0 and not self.selected:
            for row, place in self._labels.items():
                x, y = place.center().toTuple()
                centre = QPointF((x - held.left) * factor + self.view.left, (y - held.top) * factor + self.view.top)
                place = QRectF(QPointF(), place.size())
                place.moveCenter(centre)
                paint_label(painter, place, self._captions[row])

    def _covers(self) -> bool:
        """Whether the cache still shows all of the widget (in a zoom it may be coarse until the hand rests)."""
        assert self._cache is not None
        held, factor = self._cache_view, self.view.scale_x / self._cache_view.scale_x
        if factor < 0.5 or factor > 2.5:
            return False
        left = self.view.left - (held.left + self._cache_pad[0]) * factor
        top = self.view.top - (held.top + self._cache_pad[1]) * factor
        right = left + (self.width() + 2 * self._cache_pad[0]) * factor
        bottom = top + (self.height() + 2 * self._cache_pad[1]) * factor
        return left <= 0 and top <= 0 and right >= self.width() and bottom >= self.height()

    def _paint_choice(self, painter: QPainter) -> None:
        """What is chosen or under the mouse, with its edges, over a veil on the rest."""
        chosen = [self._rows[i] for i in self.selected]
        strong = [self._hover] if self._hover >= 0 else chosen
        near = {row for row in (*strong, *chosen) if row >= 0} | self._marked
        if not near:
            return
        points = places(self.drawing, self.view)
        if strong:
            veil = theme.color("surface")
            veil.setAlphaF(_VEIL)
            painter.fillRect(self.rect(), veil)
            near |= paint_chosen_edges(painter, self.drawing, points, strong)
        half = sizes(self.drawing, self.view)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
        for row in sorted(near, key=lambda row: float(half[row, 1])):
            ring = theme.color("accent") if row in chosen or row in self._marked else None
            fill = theme.color("selection") if row in chosen or row == self._hover else None
            paint_node(painter, self.drawing.nodes[row], points[row], half[row], self._pictures.get(row), fill=fill,
                       ring=ring)  # fmt: skip
        if strong:
            part = np.array(sorted(near))
            weight = np.where(np.isin(np.arange(len(points)), part), self.drawing.influence + 1, 0)
            weight[strong] += 10
            shown = replace(self.drawing, influence=weight.astype(np.float32))
            names = captions(shown)
            features = sum(row in near for row in names)
            for row, place in label_areas(
                shown, points, half, QRectF(self.rect()), min(features, 24), self._label_room(), strong
            ).items():
                if row in near:
                    paint_label(painter, place, names[row], bold=row in strong)

    def _label_room(self) -> QRectF:
        """Where labels stand clear of the hook names."""
        left = self._left() - theme.px(12)
        return QRectF(left, 0, self.width() - left, self.height())

    def _paint_bands(self, painter: QPainter, area: QRectF) -> None:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        painter.setPen(theme.color("border"))
        spans = self.drawing.band_spans
        for number in range(1, len(spans)):
            if np.isfinite(spans[number, 0]) and np.isfinite(spans[number - 1, 1]):
                y = self.view.top - float(spans[number, 0] + spans[number - 1, 1]) / 2 * self.view.scale_y
                painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))

    def _paint_axes(self, painter: QPainter) -> None:
        """Hook names stand still at the left; the tokens come along the bottom once their own boxes are out of view."""
        ground = theme.color("surface")
        ground.setAlphaF(0.85)
        face = theme.font("small")
        metrics = QFontMetricsF(face)
        painter.setFont(face)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        width = self._left() - theme.px(8)
        for name, (low, high) in zip(self.drawing.bands, self.drawing.band_spans.tolist(), strict=True):
            if np.isfinite(low):
                y = self.view.top - (low + high) / 2 * self.view.scale_y
                shown = metrics.elidedText(name, Qt.TextElideMode.ElideMiddle, width - theme.px(6))
                box = QRectF(theme.px(6), y - metrics.height() / 2, metrics.horizontalAdvance(shown) + 4,
                             metrics.height())  # fmt: skip
                painter.fillRect(box, ground)
                painter.setPen(theme.color("muted"))
                painter.drawText(box, int(Qt.AlignmentFlag.AlignVCenter), shown)
        first = self.drawing.band_spans[0] if len(self.drawing.band_spans) else np.array([np.nan, np.nan])
        if np.isfinite(first[1]) and self.view.top - float(first[1]) * self.view.scale_y > self.height():
            self._paint_token_strip(painter, metrics)
        self._paint_note(painter, metrics)

    def _paint_token_strip(self, painter: QPainter, metrics: QFontMetricsF) -> None:
        high = metrics.height() + 6
        top = self.height() - high
        painter.fillRect(QRectF(0, top, self.width(), high), theme.color("surface"))
        painter.setPen(theme.color("border"))
        painter.drawLine(QPointF(0, top), QPointF(self.width(), top))
        painter.setPen(theme.color("muted"))
        for name, (low, high_x) in zip(self.drawing.columns, self.drawing.column_spans.tolist(), strict=True):
            if np.isfinite(low):
                box = QRectF(low * self.view.scale_x + self.view.left, top, (high_x - low) * self.view.scale_x, high)
                shown = metrics.elidedText(seen(name), Qt.TextElideMode.ElideRight, box.width() - 2)
                painter.drawText(box, int(Qt.AlignmentFlag.AlignCenter), shown)

    def _paint_note(self, painter: QPainter, metrics: QFontMetricsF) -> None:
        """Say where edges were left out for legibility."""
        total = len(self.drawing.weights)
        if self._most <= self._drawn < total:
            told = f"the {count(self._drawn)} strongest of {count(total)} edges; zoom in for more"
            box = QRectF(self.width() - metrics.horizontalAdvance(told) - 12, 2, metrics.horizontalAdvance(told) + 10,
                         metrics.height() + 2)  # fmt: skip
            painter.fillRect(box, theme.color("surface"))
            painter.setPen(theme.color("muted"))
            painter.drawText(box, int(Qt.AlignmentFlag.AlignCenter), told)

    def _left(self) -> int:
        metrics = QFontMetricsF(theme.font("small"))
        widest = max((metrics.horizontalAdvance(name) for name in self.drawing.bands), default=0.0)
        return round(min(widest, theme.px(110))) + theme.px(20)

    # moving and choosing

    def _later(self) -> None:
        self._rest.start()
        self.update()

    def _settle(self) -> None:
        self._cache = None
        self.update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if not self._touched:
            self.fit()
        self._settle()

    def wheelEvent(self, event: QWheelEvent) -> None:
        steps = event.angleDelta().y() / 120 or event.pixelDelta().y() / 60
        self.zoom(1.2**steps, event.position())
        event.accept()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() in (Qt.MouseButton.LeftButton, Qt.MouseButton.MiddleButton):
            self._pressed, self._dragging = event.position(), False
            self.setFocus(Qt.FocusReason.MouseFocusReason)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        at = event.position()
        if self._pressed is not None:
            moved = at - self._pressed
            if self._dragging or moved.manhattanLength() > 4:
                self._dragging, self._pressed = True, at
                self.setCursor(Qt.CursorShape.ClosedHandCursor)
                self.pan(moved.x(), moved.y())
            return
        row = self.node_at(at)
        if row != self._hover:
            self._hover = row
            self.setCursor(Qt.CursorShape.PointingHandCursor if row >= 0 else Qt.CursorShape.ArrowCursor)
            self.update()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        was_click = self._pressed is not None and not self._dragging
        self._pressed, self._dragging = None, False
        self.setCursor(Qt.CursorShape.ArrowCursor)
        if not was_click or event.button() != Qt.MouseButton.LeftButton:
            return
        row = self.node_at(event.position())
        node = self.drawing.nodes[row].id if row >= 0 else ""
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            if node:
                rest = [i for i in self.selected if i != node]
                self._choose(rest if node in self.selected else [*rest, node])
        else:
            self._choose([node] if node else [])

    def leaveEvent(self, event: QEvent) -> None:
        self._hover = -1
        self.update()

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            row = self.node_at(QPointF(event.pos()))
            if row >= 0:
                QToolTip.showText(event.globalPos(), tooltip(self.drawing.nodes[row].tip), self)
            else:
                QToolTip.hideText()
            return True
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.ShortcutOverride and self._act_of(event):
            event.accept()  # these keys are the canvas's own while it has the focus, whatever the window binds them to
            return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        act = self._act_of(event)
        if act is None:
            super().keyPressEvent(event)
        else:
            act()

    def _act_of(self, event: QKeyEvent) -> Callable[[], object] | None:
        if event.modifiers() & ~(Qt.KeyboardModifier.KeypadModifier | Qt.KeyboardModifier.ShiftModifier):
            return None
        key = Qt.Key(event.key())
        steps = {Qt.Key.Key_Left: (-1, 0), Qt.Key.Key_Right: (1, 0), Qt.Key.Key_Up: (0, -1), Qt.Key.Key_Down: (0, 1)}
        if key in steps:
            return lambda: self._walk(*steps[key])
        acts: dict[Qt.Key, Callable[[], object]] = {
            Qt.Key.Key_Plus: lambda: self.zoom(1.25), Qt.Key.Key_Equal: lambda: self.zoom(1.25),
            Qt.Key.Key_Minus: lambda: self.zoom(0.8), Qt.Key.Key_F: self.fit, Qt.Key.Key_C: self.offered.emit,
        }  # fmt: skip
        if self.selected:
            acts[Qt.Key.Key_Escape] = lambda: self._choose([])
        return acts.get(key)

    def _walk(self, dx: int, dy: int) -> None:
        """Choose the nearest node in a direction; without a choice begin at the most influential one."""
        if not self.drawing.nodes:
            return
        if not self.selected:
            self.select([self.drawing.nodes[int(self.drawing.influence.argmax())].id])
            return
        points = places(self.drawing, self.view)
        away = points - points[self._rows[self.selected[-1]]]
        along, across = away @ np.array([dx, dy]), np.abs(away @ np.array([dy, dx]))
        cost = np.where((along > 0.5) & (across <= 2.5 * along), along + 2.5 * across, np.inf)
        best = int(cost.argmin())
        if np.isfinite(cost[best]):
            self.select([self.drawing.nodes[best].id])

    def _choose(self, ids: Sequence[str]) -> None:
        if list(ids) != self.selected:
            self.selected = list(ids)
            self.selection_changed.emit(list(ids))
        self.update()

    def _reveal(self, row: int) -> None:
        x, y = places(self.drawing, self.view)[row]
        low_x, high_x, low_y, high_y = self._left(), self.width() - 40, 24, self.height() - 30
        dx = low_x - x if x < low_x else high_x - x if x > high_x else 0.0
        dy = low_y - y if y < low_y else high_y - y if y > high_y else 0.0
        if dx or dy:
            self.pan(dx, dy)


def _image(pixels: NDArray[np.uint8]) -> QImage:
    held = np.ascontiguousarray(pixels, dtype=np.uint8)
    high, wide, _ = held.shape
    return QImage(held.data, wide, high, 3 * wide, QImage.Format.Format_RGB888).copy()
