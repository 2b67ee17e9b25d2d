"""The colour scale 0…max that the texts and images of a feature's card share, in the width that it is given."""

from __future__ import annotations

from PySide6.QtCore import QRect, QSize, Qt
from PySide6.QtGui import QLinearGradient, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from auditor.ui import theme
from auditor.ui.widgets.numbers import figure

_HEAD = "activation"
_BAR = 110
_LEAST = 36


class Legend(QWidget):
    """One line: the word, 0, the ramp, the largest. Where it is narrow the word goes first."""

    def __init__(self) -> None:
        super().__init__()
        self._high = 0.0
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.signals.changed.connect(self.update)

    def set_scale(self, high: float) -> None:
        self._high = high
        self.setAccessibleName(f"Colour scale from 0 to {figure(high)}")
        self.setToolTip(f"Texts and images share one colour scale, from 0 to {figure(high)}, its largest activation.")
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(theme.px(220), theme.px(16))

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(90), theme.px(16))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setFont(theme.font("small"))
        metrics = painter.fontMetrics()
        gap, most = theme.px(6), figure(self._high)
        words = metrics.horizontalAdvance(_HEAD) + gap
        ends = metrics.horizontalAdvance("0") + metrics.horizontalAdvance(most) + 2 * gap
        told = self.width() - words - ends >= theme.px(_LEAST)
        wide = min(theme.px(_BAR), self.width() - ends - (words if told else 0) - 2)
        x = self.width() - wide - ends - (words if told else 0)
        middle = int(Qt.AlignmentFlag.AlignVCenter)
        painter.setPen(theme.color("muted"))
        if told:
            painter.drawText(self.rect().adjusted(x, 0, 0, 0), middle, _HEAD)
            x += words
        painter.drawText(self.rect().adjusted(x, 0, 0, 0), middle, "0")
        x += metrics.horizontalAdvance("0") + gap
        bar = QRect(x, (self.height() - theme.px(10)) // 2, wide, theme.px(10))
        ramp = QLinearGradient(bar.left(), 0, bar.right(), 0)
        for step in range(9):
            ramp.setColorAt(step / 8, theme.heat(step / 8, 0, 1))
        painter.fillRect(bar, ramp)
        painter.setPen(theme.color("border"))
        painter.drawRect(bar)
        painter.setPen(theme.color("muted"))
        painter.drawText(self.rect().adjusted(bar.right() + gap, 0, 0, 0), middle, most)
        painter.end()
