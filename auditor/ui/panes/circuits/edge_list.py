"""A short list of nodes to click: a weight, a bar of its size and sign, the node's words and where it stands."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QFontMetricsF, QHelpEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from auditor.ui import theme
from auditor.ui.panes.circuits.source import EdgeEnd
from auditor.ui.widgets import controls
from auditor.ui.widgets.plain_text import tooltip, visible

_FIRST = 6


class EdgeList(QWidget):
    """Edges strongest first, six of them until more are asked for; `chosen` carries the other node's id."""

    chosen = Signal(str)

    def __init__(self, name: str) -> None:
        super().__init__()
        self._title = controls.heading("")
        self.rows = EdgeRows(name)
        self.rows.chosen.connect(self.chosen)
        self._more = controls.button("", self._show_all, link=True)
        self.setLayout(controls.column(self._title, self.rows, controls.row(self._more, None), gap="tight"))

    def set_edges(self, title: str, edges: Sequence[EdgeEnd]) -> None:
        """Show these edges; nothing at all where there is none."""
        self._edges = tuple(edges)
        self._title.setText(title)
        self.rows.set_edges(self._edges[:_FIRST])
        self._more.setText(f"All {len(edges)}")
        self._more.setVisible(len(edges) > _FIRST)
        self.setVisible(bool(edges))

    def _show_all(self) -> None:
        self.rows.set_edges(self._edges)
        self._more.hide()


class EdgeRows(QWidget):
    """The painted rows; arrows and Enter work like the mouse."""

    chosen = Signal(str)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.edges: tuple[EdgeEnd, ...] = ()
        self._at = -1
        self.setAccessibleName(f"edges {name}")
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_edges(self, edges: Sequence[EdgeEnd]) -> None:
        self.edges, self._at = tuple(edges), -1
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(theme.px(200), theme.px(20) * len(self.edges))

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(120), theme.px(20) * len(self.edges))

    def row_at(self, point: QPointF) -> int:
        row = int(point.y() // theme.px(20))
        return row if 0 <= row < len(self.edges) else -1

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        face = theme.font("table")
        metrics = QFontMetricsF(face)
        painter.setFont(face)
        high, number, bar = theme.px(20), theme.px(52), theme.px(36)
        largest = max((abs(edge.weight) for edge in self.edges), default=1.0) or 1.0
        for row, edge in enumerate(self.edges):
            top = row * high
            if row == self._at:
                painter.fillRect(QRectF(0, top, self.width(), high), theme.color("hover"))
            painter.setPen(theme.color("text"))
            middle = int(Qt.AlignmentFlag.AlignVCenter)
            painter.drawText(QRectF(0, top, number - 6, high), int(Qt.AlignmentFlag.AlignRight) | middle, edge.told)
            long = max(2.0, bar * abs(edge.weight) / largest)
            colour = theme.color("positive" if edge.weight > 0 else "negative")
            painter.fillRect(QRectF(number, top + high / 2 - 3, long, 6), colour)
            left = number + bar + 6
            room = self.width() - left - 4
            place = metrics.elidedText(visible(edge.place), Qt.TextElideMode.ElideRight, room * 0.5)
            taken = metrics.horizontalAdvance(place)
            words = metrics.elidedText(visible(edge.words), Qt.TextElideMode.ElideRight, room - taken - 8)
            painter.drawText(QRectF(left, top, room - taken - 6, high), middle, words)
            painter.setPen(theme.color("muted"))
            painter.drawText(QRectF(left + room - taken, top, taken + 1, high), middle, place)
        if self.hasFocus():
            painter.setPen(theme.color("accent"))
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        painter.end()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self._at = self.row_at(event.position())
        self.setCursor(Qt.CursorShape.PointingHandCursor if self._at >= 0 else Qt.CursorShape.ArrowCursor)
        self.update()

    def leaveEvent(self, event: QEvent) -> None:
        self._at = -1
        self.update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        row = self.row_at(event.position())
        if row >= 0:
            self.chosen.emit(self.edges[row].node)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        step = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1}.get(Qt.Key(event.key()), 0)
        if step and self.edges:
            self._at = min(len(self.edges) - 1, max(0, self._at + step))
            self.update()
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and 0 <= self._at < len(self.edges):
            self.chosen.emit(self.edges[self._at].node)
        else:
            super().keyPressEvent(event)

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            row = self.row_at(QPointF(event.pos()))
            if row >= 0:
                QToolTip.showText(event.globalPos(), tooltip(self.edges[row].tip), self)
            return True
        return super().event(event)
