"""One curve of a plot: grows point by point and is drawn at two points a pixel, so that 100,000 points pan smoothly.

pyqtgraph's own curves are antialiased at 1.5 px by Qt's stroker: some 20 ms for 600 points that move up and down. Lines
of 1 px have a path of their own in Qt, a hundred times as fast; two of them half a pixel apart look alike.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPen, QPolygonF, QTransform

from auditor.ui.widgets.plot_key import PATTERNS, Look

Array = NDArray[np.float64]
Symbol = Literal["", "circle", "square"]
_FEW = 120  # points that Qt strokes at full quality without being felt
_SYMBOL = 3.0
_START = 1024
_BAND = 38  # of 255, how much of its ink a band of intervals has


class Curve(pg.GraphicsObject):  # type: ignore[misc]
    """Points with ascending x; those that are not finite leave a gap. Knows nothing of names and colours but its own.

    `symbol` marks each point; the range of y that is asked for is `least` wide or more where it is not logarithmic. The
    ends of each point's interval are drawn as a band, or where points are not `joined` as a bar through each.
    """

    def __init__(self, symbol: Symbol = "", least: float = 0.0, *, joined: bool = True) -> None:
        super().__init__()
        self._least, self._joined = least, joined
        self._raw = np.empty((4, _START))  # x, y, low, high
        self._shown = np.empty((4, _START))
        self._banded = False
        self._n = 0
        self._log = (False, False)
        self._bounds: list[tuple[float | None, float | None]] = []
        self._symbol = symbol
        self._ink = QColor()
        self._look: Look = "solid"

    @property
    def x(self) -> Array:
        return self._raw[0, : self._n]

    @property
    def y(self) -> Array:
        return self._raw[1, : self._n]

    @property
    def ends(self) -> Array:
        """[2, n]: the ends of each point's interval, not numbers where it has none."""
        return self._raw[2:, : self._n]

    def set_points(self, x: Any, y: Any, ends: tuple[Any, Any] | None = None) -> None:
        """Draw these in place of what was drawn; `ends` are those of each point's interval."""
        self._n = 0
        self.add_points(x, y, ends)

    def add_points(self, x: Any, y: Any, ends: tuple[Any, Any] | None = None) -> None:
        """Draw these too. Where x starts again before its end, as when a training went back, the curve is cut there."""
        none = np.full(np.size(x), np.nan)
        new = np.asarray([x, y, *(ends or (none, none))], dtype=np.float64).reshape(4, -1)
        self._banded = bool(np.isfinite(new[2:]).any()) or (self._banded and self._n > 0)
        backwards = np.flatnonzero(np.diff(new[0]) <= 0) + 1
        for part in np.split(new, backwards, axis=1):
            self._add(part)
        self._changed()

    def _add(self, new: Array) -> None:
        """Add points with ascending x."""
        if self._n and new.shape[1] and new[0, 0] <= self._raw[0, self._n - 1]:
            self._n = int(np.searchsorted(self.x, new[0, 0]))
        need = self._n + new.shape[1]
        if need > self._raw.shape[1]:
            grown = max(need, 2 * self._raw.shape[1])
            self._raw, self._shown = (np.concatenate([held[:, : self._n], np.empty((4, grown - self._n))], axis=1)
                                      for held in (self._raw, self._shown))  # fmt: skip
        self._raw[:, self._n : need] = new
        self._shown[:, self._n : need] = self._scaled(new)
        self._n = need

    def dress(self, ink: QColor, look: Look = "solid") -> None:
        self._ink, self._look = ink, look
        self.update()

    def setLogMode(self, x: bool, y: bool) -> None:
        """pyqtgraph's word for logarithmic axes."""
        if (x, y) != self._log:
            self._log = (bool(x), bool(y))
            self._shown[:, : self._n] = self._scaled(self._raw[:, : self._n])
            self._changed()

    def dataBounds(self, ax: int, frac: float = 1.0, orthoRange: Any = None) -> tuple[float | None, float | None]:
        """pyqtgraph's question for the range that shows it whole."""
        if not self.isVisible():
            return (None, None)
        if not self._bounds:
            held = self._shown[:, : self._n]
            # About a point that is alone there is room for whole steps.
            wide = 0.4 * abs(held[0, 0]) if self._n == 1 and not self._log[0] else 0.0
            leasts = (wide, 0.0 if self._log[1] else self._least)
            # No interval that reaches down to nothing may press the curves into the upper edge.
            lows = np.maximum(held[2], held[1] - 1.0) if self._log[1] else held[2]
            shown = (held[0], np.concatenate([held[1], held[3], lows]) if self._banded else held[1])
            self._bounds = [_bounds(values, least) for values, least in zip(shown, leasts, strict=True)]
        return self._bounds[ax]

    def pixelPadding(self) -> float:
        return 2.0 + _SYMBOL * bool(self._symbol)

    def boundingRect(self) -> QRectF:
        (left, right), (low, high) = self.dataBounds(0), self.dataBounds(1)
        if left is None or right is None or low is None or high is None:
            return QRectF()
        pad = self.pixelPadding()
        vectors = self.pixelVectors()
        dx, dy = (pad * abs(v.x() + v.y()) if v is not None else 0.0 for v in vectors)
        return QRectF(left - dx, low - dy, right - left + 2 * dx, high - low + 2 * dy)

    def paint(self, painter: QPainter, option: Any, widget: Any = None) -> None:
        if not self._n:
            return
        view = self.viewRect()
        place = painter.transform()
        wide = max(1, round(abs(view.width() * place.m11())))
        x, y = decimated(self._shown[0, : self._n], self._shown[1, : self._n], view.left(), view.right(), wide)
        x, y = x * place.m11() + place.dx(), y * place.m22() + place.dy()
        painter.save()
        painter.resetTransform()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if self._banded:
            self._span(painter, place, view)
        if not self._joined:
            pass
        elif len(x) <= _FEW:
            self._stroke(painter, x, y)
        else:
            self._sketch(painter, x, y)
        if self._symbol:
            self._mark(painter, x, y)
        painter.restore()

    def _span(self, painter: QPainter, place: QTransform, view: QRectF) -> None:
        """The intervals: a band between the points that have one, a bar through each that stands alone."""
        x, _, low, high = self._shown[:, : self._n]
        # What lies below all that is drawn, as a low end of 0 on a logarithmic axis, is drawn to the edge.
        low = np.where(np.isfinite(high) & ~np.isfinite(low), min(view.top(), view.bottom()), low)
        known = np.isfinite(low) & np.isfinite(high)
        x = x * place.m11() + place.dx()
        low, high = low * place.m22() + place.dy(), high * place.m22() + place.dy()
        for begin, end in _runs(known):
            if self._joined and end - begin > 1:
                corners = [*zip(x[begin:end], low[begin:end], strict=True)]
                corners += [*zip(x[begin:end], high[begin:end], strict=True)][::-1]
                ink = QColor(self._ink)
                ink.setAlpha(_BAND)
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(ink)
                painter.drawPolygon(QPolygonF([QPointF(*corner) for corner in corners]))
            else:
                painter.setPen(QPen(self._ink, 1.0))
                for at in range(begin, end):
                    painter.drawLine(QPointF(x[at], low[at]), QPointF(x[at], high[at]))

    def _stroke(self, painter: QPainter, x: Array, y: Array) -> None:
        pen = QPen(self._ink, 1.5)
        if self._look != "solid":
            pen.setDashPattern([length / 1.5 for length in PATTERNS[self._look]])
            pen.setCapStyle(Qt.PenCapStyle.FlatCap)
        painter.setPen(pen)
        painter.drawPath(pg.arrayToQPath(x, y, connect="finite"))

    def _sketch(self, painter: QPainter, x: Array, y: Array) -> None:
        on, off = PATTERNS[self._look]
        joined = np.isfinite(y) & np.isfinite(x)
        joined[:-1] &= joined[1:]
        if off:  # each point says whether it is joined to the next
            joined &= np.mod(x, on + off) < on
        path = pg.arrayToQPath(x, y, connect=joined.astype(np.int32))
        painter.setPen(QPen(self._ink, 1.0))
        for lower in (-0.25, 0.5):
            painter.translate(0, lower)
            painter.drawPath(path)

    def _mark(self, painter: QPainter, x: Array, y: Array) -> None:
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._ink)
        for at, height in zip(x, y, strict=True):
            if np.isfinite(height):
                if self._symbol == "square":
                    painter.drawRect(QRectF(at - _SYMBOL, height - _SYMBOL, 2 * _SYMBOL, 2 * _SYMBOL))
                else:
                    painter.drawEllipse(QPointF(at, height), _SYMBOL, _SYMBOL)

    def _scaled(self, points: Array) -> Array:
        made = points.copy()
        for axes, log, gap in ((slice(1), self._log[0], -np.inf), (slice(1, None), self._log[1], np.nan)):
            if log:  # x stays ascending
                positive = points[axes] > 0
                made[axes] = np.where(positive, np.log10(np.where(positive, points[axes], 1.0)), gap)
        return made

    def _changed(self) -> None:
        self._bounds = []
        self.prepareGeometryChange()
        self.informViewBoundsChanged()
        self.update()


def _runs(known: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Begin and end of each run of neighbours that are known."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _bounds(values: Array, least: float) -> tuple[float | None, float | None]:
    found = values[np.isfinite(values)]
    if not len(found):
        return None, None
    low, high = float(found.min()), float(found.max())
    wider = max(0.0, least - (high - low)) / 2
    return low - wider, high + wider


def decimated(x: Array, y: Array, left: float, right: float, columns: int) -> tuple[Array, Array]:
    """The points of x [n] (ascending), y [n] from `left` to `right` and the next beyond, or where there are many the
    least and the greatest y in each of so many columns: what is painted is the same."""
    first = max(0, int(np.searchsorted(x, left)) - 1)
    last = int(np.searchsorted(x, right, side="right")) + 1
    x, y = x[first:last], y[first:last]
    if len(x) <= 2 * columns or not right > left:
        return x, y
    starts = np.unique(np.searchsorted(x, np.linspace(left, right, columns + 1)))
    starts = np.unique(np.concatenate([[0], starts[starts < len(x)]]))
    low, high = np.fmin.reduceat(y, starts), np.fmax.reduceat(y, starts)
    return np.repeat(x[starts], 2), np.stack([low, high], axis=1).ravel()
