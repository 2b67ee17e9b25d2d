"""A map of figures by row and column, such as layers × heads: hover and the arrow keys read a cell, a click chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QFocusEvent,
    QFontMetrics,
    QHelpEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
)
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from auditor.ui import theme
from auditor.ui.widgets.plain_text import tooltip, visible

_HIGH, _HEAD, _MOST_LABEL, _PAD = 18, 18, 150, 6
_MOVES = {
    Qt.Key.Key_Left: (0, -1), Qt.Key.Key_Right: (0, 1), Qt.Key.Key_Up: (-1, 0), Qt.Key.Key_Down: (1, 0),
}  # fmt: skip


class HeatMap(QWidget):
    """`values` [rows, columns], not a number where there is none; 0 is the middle of the colours where any is negative.

    `describe(row, column)` says the whole of a cell; `read` carries that of the one under the mouse or chosen by key.
    """

    chosen = Signal(int, int)
    read = Signal(str)

    def __init__(
        self, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]],
        describe: Callable[[int, int], str],
    ) -> None:  # fmt: skip
        super().__init__()
        self.rows, self.columns = list(rows), list(columns)
        self.values = np.array([[np.nan if v is None else v for v in row] for row in values], dtype=np.float64)
        self._describe = describe
        self._at: tuple[int, int] | None = None
        self._picked: tuple[int, int] | None = None
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Map of effects")
        theme.signals.changed.connect(self.update)

    def sizeHint(self) -> QSize:
        return QSize(theme.px(320), theme.px(_HEAD + _HIGH * len(self.rows) + 2))

    minimumSizeHint = sizeHint

    def cell_at(self, point: QPointF) -> tuple[int, int] | None:
        """Row and column under a point; None beside the map and where there is no figure."""
        area = self._area()
        if not area.contains(point) or not self.values.size:
            return None
        row = min(len(self.rows) - 1, int((point.y() - area.top()) / theme.px(_HIGH)))
        column = min(len(self.columns) - 1, int((point.x() - area.left()) / area.width() * len(self.columns)))
        return (row, column) if np.isfinite(self.values[row, column]) else None

    def choose(self, row: int, column: int) -> None:
        """Frame a cell and say it."""
        self._picked = self._at = (row, column)
        self._say()
        self.chosen.emit(row, column)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter, area = QPainter(self), self._area()
        low, high = (float(f(self.values, initial=0.0)) for f in (np.nanmin, np.nanmax))
        colours = theme.heat_rgba(self.values, low, high).copy()
        colours[~np.isfinite(self.values), 3] = 0
        wide, tall = len(self.columns), len(self.rows)
        painter.drawImage(area, QImage(colours.tobytes(), wide, tall, 4 * wide, QImage.Format.Format_RGBA8888).copy())
        painter.setFont(theme.font("small"))
        painter.setPen(theme.color("muted"))
        self._write_labels(painter, area)
        for cell, pen in ((self._at, 1), (self._picked, 2)):
            if cell is not None:
                painter.setPen(QPen(theme.color("text"), theme.px(pen)))
                painter.drawRect(self._cell_area(*cell))
        if self.hasFocus():
            painter.setPen(QPen(theme.color("accent"), 1, Qt.PenStyle.DotLine))
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        painter.end()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self._go(self.cell_at(event.position()))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        cell = self.cell_at(event.position())
        if cell is not None:
            self.choose(*cell)

    def leaveEvent(self, event: QEvent) -> None:
        self._go(self._picked)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        move = _MOVES.get(Qt.Key(event.key()))
        if move is None or not self.values.size:
            super().keyPressEvent(event)
            return
        row, column = self._picked or (0, 0)
        if self._picked is not None:
            row, column = (row + move[0]) % len(self.rows), (column + move[1]) % len(self.columns)
        self.choose(row, column)

    def focusInEvent(self, event: QFocusEvent) -> None:
        super().focusInEvent(event)
        self.update()

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            cell = self.cell_at(QPointF(event.pos()))
            if cell is not None:
                QToolTip.showText(event.globalPos(), tooltip(self._describe(*cell)), self)
            return True
        return super().event(event)

    def _go(self, cell: tuple[int, int] | None) -> None:
        if cell != self._at:
            self._at = cell
            self._say()

    def _say(self) -> None:
        told = self._describe(*self._at) if self._at is not None else ""
        self.setAccessibleDescription(told)
        self.read.emit(told)
        self.update()

    def _area(self) -> QRectF:
        left = min(theme.px(_MOST_LABEL), self._label_width()) + theme.px(_PAD)
        return QRectF(left, theme.px(_HEAD), max(1, self.width() - left - 2), theme.px(_HIGH) * len(self.rows))

    def _label_width(self) -> int:
        metrics = QFontMetrics(theme.font("small"))
        return max((metrics.horizontalAdvance(visible(name)) for name in self.rows), default=0) + theme.px(_PAD)

    def _cell_area(self, row: int, column: int) -> QRectF:
        area, high = self._area(), theme.px(_HIGH)
        wide = area.width() / len(self.columns)
        return QRectF(area.left() + column * wide, area.top() + row * high, wide, high)

    def _write_labels(self, painter: QPainter, area: QRectF) -> None:
        metrics, flags = painter.fontMetrics(), Qt.AlignmentFlag
        left, high = int(area.left()) - theme.px(_PAD), theme.px(_HIGH)
        for at, name in enumerate(self.rows):
            told = metrics.elidedText(visible(name), Qt.TextElideMode.ElideMiddle, left)
            place = QRectF(0, area.top() + at * high, left, high)
            painter.drawText(place, int(flags.AlignRight | flags.AlignVCenter), told)
        wide = area.width() / max(1, len(self.columns))
        need = max((metrics.horizontalAdvance(visible(name)) for name in self.columns), default=0) + theme.px(_PAD)
        every = max(1, -(-need // max(1, int(wide))))
        for at in range(0, len(self.columns), every):
            place = QRectF(area.left() + at * wide, 0, max(wide, need), area.top())
            where = flags.AlignHCenter if every == 1 else flags.AlignLeft
            painter.drawText(place, int(where | flags.AlignVCenter), visible(self.columns[at]))
