"""The key of a plot: a stroke in each curve's colour with its name or value beside it, in as many lines as needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QRect, QSize, Qt
from PySide6.QtGui import QFontMetrics, QHelpEvent, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from auditor.ui import theme
from auditor.ui.widgets.plain_text import tooltip, visible

_LINE = 16
_STROKE = 16
_WIDEST = 260


@dataclass(frozen=True)
class Entry:
    """One curve: the number of its colour, whether it is dashed, what stands beside it, and what hover adds."""

    series: int
    text: str
    dashed: bool = False
    tip: str = ""


class PlotKey(QWidget):
    """Entries side by side, after a `lead` such as the step that is read."""

    def __init__(self) -> None:
        super().__init__()
        self._lead = ""
        self._entries: list[Entry] = []
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        theme.signals.changed.connect(self.update)

    def set_entries(self, entries: Sequence[Entry], lead: str = "") -> None:
        self._entries, self._lead = list(entries), lead
        self.setAccessibleName(self.text())
        self.setMinimumHeight(self.heightForWidth(max(self.width(), theme.px(120))))
        self.update()

    def text(self) -> str:
        """What it says, in one line."""
        told = "   ".join(visible(entry.text) for entry in self._entries)
        return f"{self._lead}  {told}".strip()

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        places = self._places(width)
        return (places[-1].bottom() + 1) if places else theme.px(_LINE)

    def sizeHint(self) -> QSize:
        return QSize(theme.px(200), self.heightForWidth(self.width() or theme.px(200)))

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(80), theme.px(_LINE))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.setMinimumHeight(self.heightForWidth(self.width()))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setFont(theme.font("small"))
        metrics = painter.fontMetrics()
        middle = int(Qt.AlignmentFlag.AlignVCenter)
        painter.setPen(theme.color("muted"))
        painter.drawText(QRect(0, 0, self._lead_width(metrics), theme.px(_LINE)), middle, self._lead)
        stroke = theme.px(_STROKE)
        for entry, place in zip(self._entries, self._places(self.width()), strict=True):
            style = Qt.PenStyle.DashLine if entry.dashed else Qt.PenStyle.SolidLine
            painter.setPen(QPen(theme.series(entry.series), 2, style))
            height = place.center().y() + 1
            painter.drawLine(place.left(), height, place.left() + stroke - theme.px(2), height)
            painter.setPen(theme.color("text"))
            inside = place.adjusted(stroke + theme.px(2), 0, 0, 0)
            shown = metrics.elidedText(visible(entry.text), Qt.TextElideMode.ElideMiddle, inside.width())
            painter.drawText(inside, middle, shown)
        painter.end()

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            for entry, place in zip(self._entries, self._places(self.width()), strict=True):
                if place.contains(event.pos()):
                    told = f"{entry.text}\n{entry.tip}" if entry.tip else entry.text
                    QToolTip.showText(event.globalPos(), tooltip(told), self)
            return True
        return super().event(event)

    def _lead_width(self, metrics: QFontMetrics) -> int:
        return metrics.horizontalAdvance(self._lead) + theme.px(8) if self._lead else 0

    def _places(self, width: int) -> list[QRect]:
        metrics = QFontMetrics(theme.font("small"))
        line, gap, stroke = theme.px(_LINE), theme.px(12), theme.px(_STROKE + 4)
        x, y = self._lead_width(metrics), 0
        places = []
        for entry in self._entries:
            need = min(metrics.horizontalAdvance(visible(entry.text)) + 1, theme.px(_WIDEST), max(0, width - stroke))
            if x > 0 and x + stroke + need > width:
                x, y = 0, y + line
            places.append(QRect(x, y, stroke + need, line))
            x += stroke + need + gap
        return places
