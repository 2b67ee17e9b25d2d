"""Wrapping text whose tokens are coloured by an activation on one scale; painted by hand for thousands of tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QFontMetricsF, QHelpEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from auditor.ui import theme
from auditor.ui.widgets.numbers import figure
from auditor.ui.widgets.plain_text import token_text, tooltip

_MOST_WIDTHS = 16


@dataclass(frozen=True)
class _Box:
    token: int
    area: QRectF
    text: str


class TokenView(QWidget):
    """Tokens with their activations; hover says the value, a click or Enter gives the token's number.

    `lines` cuts the view after so many lines (0: all); it then shows the part around `focus`.
    """

    token_clicked = Signal(int)
    token_hovered = Signal(int)

    def __init__(self, parent: QWidget | None = None, *, mono: bool = False, lines: int = 0) -> None:
        super().__init__(parent)
        self._mono = mono
        self._lines = lines
        self._texts: list[str] = []
        self._breaks: list[bool] = []
        self._values: list[float] | None = None
        self._low, self._high = 0.0, 0.0
        self._unit = ""
        self._focus = -1
        self._cursor = -1
        self._hover = -1
        self._boxes: list[_Box] = []
        self._tops: list[float] = []
        self._height = 0
        self._laid_for = -1
        # Layouts of layouts ask for the heights at a handful of widths, each many times over.
        self._laid: dict[int, tuple[list[_Box], list[float], int]] = {}
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        theme.signals.changed.connect(self._lay_again)

    def set_tokens(
        self,
        tokens: Sequence[str],
        values: Sequence[float] | None = None,
        *,
        low: float = 0.0,
        high: float | None = None,
        unit: str = "",
        focus: int = -1,
    ) -> None:
        """Show tokens; `values` colour them on the scale `low`…`high` (default: their largest; a negative `low`
        makes a diverging scale about 0); `focus` underlines one token."""
        self._texts = [token_text(token) for token in tokens]
        self._breaks = [token.endswith("\n") for token in tokens]
        self._values = None if values is None else [float(value) for value in values]
        if self._values is not None and len(self._values) != len(self._texts):
            raise ValueError(f"{len(self._texts)} tokens but {len(self._values)} values")
        self._low = low
        self._high = max(self._values or [0.0]) if high is None else high
        self._unit, self._focus = unit, focus
        self._cursor = self._hover = -1
        self._lay_again()

    def set_scale(self, low: float, high: float) -> None:
        """Change the colour scale and keep the tokens."""
        self._low, self._high = low, high
        self.update()

    def token_at(self, point: QPointF) -> int:
        """Number of the token under a point, −1 for none."""
        self._lay(self.width())
        first = bisect_left(self._tops, point.y() - self._line_height())
        for box in self._boxes[first:]:
            if box.area.top() > point.y():
                break
            if box.area.contains(point):
                return box.token
        return -1

    def area_of(self, token: int) -> QRectF:
        """Where a token is drawn (its first piece); empty where it is cut off."""
        self._lay(self.width())
        return next((box.area for box in self._boxes if box.token == token), QRectF())

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        self._lay(width)
        return self._height

    def sizeHint(self) -> QSize:
        return QSize(theme.px(320), self.heightForWidth(self.width() if self.width() > 80 else theme.px(320)))

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(80), self.heightForWidth(max(self.width(), theme.px(80))))

    def paintEvent(self, event: QPaintEvent) -> None:
        self._lay(self.width())
        painter = QPainter(self)
        face = theme.font("table" if self._mono else "body", mono=self._mono)
        painter.setFont(face)
        plain = theme.color("text")
        metrics = QFontMetricsF(face)
        base = (self._line_height() - 2 + metrics.ascent() - metrics.descent()) / 2
        shown = event.rect()
        steps, kind = theme.heat_steps(np.array(self._values or [0.0]), self._low, self._high)
        inks = theme.inks(kind)
        first = bisect_left(self._tops, shown.top() - self._line_height())
        for box in self._boxes[first:]:
            if box.area.top() > shown.bottom():
                break
            ink = plain
            if self._value(box.token):
                ground, ink = inks[steps[box.token]]
                painter.fillRect(box.area, ground)
            painter.setPen(ink)
            painter.drawText(QPointF(box.area.left(), box.area.top() + base), box.text)
            self._mark(painter, box)
        painter.end()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._lay(self.width())
        if self._height != self.minimumHeight():
            self.setMinimumHeight(self._height)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        token = self.token_at(event.position())
        if token != self._hover:
            self._hover = token
            self.setCursor(Qt.CursorShape.PointingHandCursor if token >= 0 else Qt.CursorShape.ArrowCursor)
            self.token_hovered.emit(token)
            self.update()

    def leaveEvent(self, event: QEvent) -> None:
        if self._hover >= 0:
            self._hover = -1
            self.token_hovered.emit(-1)
            self.update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        token = self.token_at(event.position())
        if token >= 0 and event.button() == Qt.MouseButton.LeftButton:
            self._cursor = token
            self.update()
            self.token_clicked.emit(token)
        else:
            super().mousePressEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        step = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}.get(Qt.Key(event.key()), 0)
        if step and self._texts:
            self._cursor = min(len(self._texts) - 1, max(0, self._cursor + step))
            self.update()
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space) and self._cursor >= 0:
            self.token_clicked.emit(self._cursor)
        else:
            super().keyPressEvent(event)

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            token = self.token_at(QPointF(event.pos()))
            if token >= 0:
                QToolTip.showText(event.globalPos(), tooltip(self.describe(token)), self)
            else:
                QToolTip.hideText()
            return True
        return super().event(event)

    def describe(self, token: int) -> str:
        """What hover says of a token: its text, its activation and its place."""
        value = self._value(token)
        told = f"{figure(value)} {self._unit}".strip() if value is not None else "no activation"
        return f"“{self._texts[token]}”   {told}\ntoken {token + 1} of {len(self._texts)}"

    def _value(self, token: int) -> float | None:
        return None if self._values is None else self._values[token]

    def _mark(self, painter: QPainter, box: _Box) -> None:
        if box.token == self._focus:
            painter.fillRect(QRectF(box.area.left(), box.area.bottom() - 2, box.area.width(), 2), theme.color("text"))
        if box.token == self._hover or (box.token == self._cursor and self.hasFocus()):
            painter.setPen(QPen(theme.color("accent"), 2))
            painter.drawRect(box.area.adjusted(1, 1, -1, -1))

    def _line_height(self) -> float:
        return float(theme.px(20))

    def _lay_again(self) -> None:
        self._laid_for = -1
        self._laid.clear()
        self._lay(self.width())
        self.setMinimumHeight(self._height)
        self.updateGeometry()
        self.update()

    def _lay(self, width: int) -> None:
        """Have every token placed for this width."""
        if width == self._laid_for:
            return
        if width not in self._laid:
            if len(self._laid) >= _MOST_WIDTHS:
                self._laid.clear()
            self._laid[width] = self._placed(width)
        self._boxes, self._tops, self._height = self._laid[width]
        self._laid_for = width

    def _placed(self, width: int) -> tuple[list[_Box], list[float], int]:
        """Boxes, their tops and the height at this width: broken at spaces and line feeds, what is wider than the line
        cut."""
        metrics = QFontMetricsF(theme.font("table" if self._mono else "body", mono=self._mono))
        wide: dict[str, float] = {}
        height, room = self._line_height(), max(float(width), 40.0)
        boxes: list[_Box] = []
        x = y = 0.0
        for text in self._texts:
            if text not in wide:
                wide[text] = metrics.horizontalAdvance(text)
        words = self._word_widths(wide)
        for number, text in enumerate(self._texts):
            if x > 0 and x + words[number] > room >= words[number]:
                x, y = 0.0, y + height
            for piece in [text] if wide[text] <= room else _pieces(text, metrics, room):
                need = wide[piece] if piece in wide else metrics.horizontalAdvance(piece)
                if x > 0 and x + need > room:
                    x, y = 0.0, y + height
                boxes.append(_Box(number, QRectF(x, y + 1, need, height - 2), piece))
                x += need
            if self._breaks[number]:
                x, y = 0.0, y + height
        kept = self._cut(boxes, height)
        return kept, [box.area.top() for box in kept], int(kept[-1].area.bottom() + 1) if kept else int(height)

    def _word_widths(self, wide: dict[str, float]) -> list[float]:
        """For a token that begins a word the width of that word, else 0: words are kept together where they fit."""
        widths = [0.0] * len(self._texts)
        held = 0.0
        for number in range(len(self._texts) - 1, -1, -1):
            held += wide[self._texts[number]]
            if self._texts[number][:1] == " " or number == 0 or self._breaks[number - 1]:
                widths[number], held = held, 0.0
        return widths

    def _cut(self, boxes: list[_Box], height: float) -> list[_Box]:
        if not self._lines or not boxes or boxes[-1].area.bottom() <= self._lines * height:
            return boxes
        at = next((box.area.top() // height for box in boxes if box.token == self._focus), 0)
        last = boxes[-1].area.top() // height
        first = max(0, min(at - self._lines // 2, last - self._lines + 1))
        kept = [box for box in boxes if first <= box.area.top() // height < first + self._lines]
        return [_Box(box.token, box.area.translated(0, -first * height), box.text) for box in kept]


def _pieces(text: str, metrics: QFontMetricsF, room: float) -> list[str]:
    pieces, held = [], ""
    for char in text:
        if held and metrics.horizontalAdvance(held + char) > room:
            pieces.append(held)
            held = ""
        held += char
    return [*pieces, held]
