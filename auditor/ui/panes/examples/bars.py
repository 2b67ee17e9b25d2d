"""A short list of names with a bar and a number each, drawn by hand: logits, neighbours, features at a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QRect, QSize, Qt, Signal
from PySide6.QtGui import QFontMetrics, QHelpEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from auditor.ui import theme
from auditor.ui.widgets.numbers import figure
from auditor.ui.widgets.plain_text import token_text, tooltip

_LINE = 18


@dataclass(frozen=True)
class Bar:
    """One line: `key` is what a click gives, `lead` stands before the text in tabular figures."""

    text: str
    value: float
    key: int = -1
    lead: str = ""


class Bars(QWidget):
    """Lines with bars on one scale 0…largest magnitude; `chosen` gives the key of the line that was clicked."""

    chosen = Signal(int)

    def __init__(self, name: str, unit: str = "", *, clickable: bool = False) -> None:
        super().__init__()
        self._bars: list[Bar] = []
        self._unit = unit
        self._clickable = clickable
        self._at = -1
        self.setAccessibleName(name)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMouseTracking(True)
        if clickable:
            self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        theme.signals.changed.connect(self.update)

    def set_bars(self, bars: Sequence[Bar]) -> None:
        self._bars, self._at = list(bars), -1
        self.updateGeometry()
        self.update()

    @property
    def bars(self) -> list[Bar]:
        return list(self._bars)

    def sizeHint(self) -> QSize:
        return QSize(theme.px(120), theme.px(_LINE) * max(1, len(self._bars)))

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(80), self.sizeHint().height())

    def describe(self, at: int) -> str:
        """What hover says of a line."""
        bar = self._bars[at]
        return f"{bar.lead} {token_text(bar.text)}\n{figure(bar.value, self._unit)}".strip()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        face = theme.font("table")
        painter.setFont(face)
        metrics = QFontMetrics(face)
        line, gap = theme.px(_LINE), theme.px(6)
        numbers = [figure(bar.value) for bar in self._bars]
        room = max((metrics.horizontalAdvance(text) for text in numbers), default=0)
        lead = max((metrics.horizontalAdvance(bar.lead) + gap for bar in self._bars if bar.lead), default=0)
        largest = max((abs(bar.value) for bar in self._bars), default=0.0) or 1.0
        for at, (bar, number) in enumerate(zip(self._bars, numbers, strict=True)):
            area = QRect(0, at * line, self.width(), line)
            if at == self._at:
                painter.fillRect(area, theme.color("hover"))
            text_wide = max(0, area.width() - room - lead - gap)
            painter.setPen(theme.color("muted"))
            middle = int(Qt.AlignmentFlag.AlignVCenter)
            painter.drawText(QRect(0, area.top(), lead, line), middle, bar.lead)
            painter.setPen(theme.color("accent" if self._clickable else "text"))
            shown = metrics.elidedText(token_text(bar.text), Qt.TextElideMode.ElideRight, text_wide)
            painter.drawText(QRect(lead, area.top(), text_wide, line), middle, shown)
            painter.setPen(theme.color("text"))
            painter.drawText(area, middle | int(Qt.AlignmentFlag.AlignRight), number)
            wide = max(1, round((self.width() - lead) * abs(bar.value) / largest))
            ink = theme.color("positive" if bar.value >= 0 else "negative")
            painter.fillRect(QRect(lead, area.bottom() - 1, wide, 2), ink)
        if self.hasFocus():
            painter.setPen(QPen(theme.color("accent"), 1))
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        painter.end()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self._move(self._line_at(event.position().y()))

    def leaveEvent(self, event: QEvent) -> None:
        self._move(-1)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        at = self._line_at(event.position().y())
        if self._clickable and at >= 0:
            self.chosen.emit(self._bars[at].key)
        else:
            super().mousePressEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        step = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1}.get(Qt.Key(event.key()), 0)
        if step and self._bars:
            self._move(min(len(self._bars) - 1, max(0, self._at + step)))
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space) and self._at >= 0:
            self.chosen.emit(self._bars[self._at].key)
        else:
            super().keyPressEvent(event)

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            at = self._line_at(event.pos().y())
            if at >= 0:
                QToolTip.showText(event.globalPos(), tooltip(self.describe(at)), self)
            return True
        return super().event(event)

    def _line_at(self, y: float) -> int:
        at = int(y // theme.px(_LINE))
        return at if 0 <= at < len(self._bars) else -1

    def _move(self, at: int) -> None:
        if self._clickable and at != self._at:
            self._at = at
            self.setCursor(Qt.CursorShape.PointingHandCursor if at >= 0 else Qt.CursorShape.ArrowCursor)
            self.update()
