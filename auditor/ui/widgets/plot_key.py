"""The key of a plot: a stroke in each curve's colour with its name or value beside it, in as many lines as needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PySide6.QtCore import QEvent, QPoint, QRect, QSize, Qt, Signal
from PySide6.QtGui import (
    QFocusEvent,
    QFontMetrics,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from auditor.ui import theme
from auditor.ui.widgets.plain_text import tooltip, visible

_LINE = 16
_STROKE = 16
_WIDEST = 260
_COUNT = 28
Look = Literal["solid", "dashed", "dotted"]
# Pixels drawn and left out in turn.
PATTERNS: dict[Look, tuple[int, int]] = {"solid": (1, 0), "dashed": (6, 4), "dotted": (2, 3)}


@dataclass(frozen=True)
class Entry:
    """One curve: the number of its colour, its stroke, what stands beside it, what hover adds, and whether it is
    hidden."""

    series: int
    text: str
    look: Look = "solid"
    tip: str = ""
    off: bool = False


class PlotKey(QWidget):
    """Entries side by side, after a `lead` such as the step that is read.

    They take as many lines as they need, or so many `lines`: then those that are left are counted, and a click on their
    number shows them. Where it is a `switch`, a click on an entry, or a space where the arrow keys have led, tells its
    number through `chosen`.
    """

    chosen = Signal(int)

    def __init__(self, *, switch: bool = False, lines: int = 0) -> None:
        super().__init__()
        self._lead = ""
        self._lines, self._few = lines, lines
        self._entries: list[Entry] = []
        self._switch, self._at = switch, 0
        if switch:
            self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            self.setMouseTracking(True)
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        theme.signals.changed.connect(self.update)

    def set_entries(self, entries: Sequence[Entry], lead: str = "") -> None:
        if (self._entries, self._lead) == (list(entries), lead):
            return
        self._entries, self._lead = list(entries), lead
        self._at = min(self._at, max(0, len(self._entries) - 1))
        self.setAccessibleName(self.text())
        self.setMinimumHeight(self.heightForWidth(max(self.width(), theme.px(120))))
        self.update()

    def show_all(self, on: bool) -> None:
        """Take as many lines as are needed, or only those that were asked for."""
        self._lines = 0 if on else self._few
        self.setMinimumHeight(self.heightForWidth(self.width()))
        self.updateGeometry()
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
        places = self._places(self.width())
        for entry, place in zip(self._entries, places, strict=False):
            pen = QPen(theme.color("edge") if entry.off else theme.series(entry.series), 2)
            if entry.look != "solid":
                pen.setDashPattern([length / 2 for length in PATTERNS[entry.look]])
                pen.setCapStyle(Qt.PenCapStyle.FlatCap)
            painter.setPen(pen)
            height = place.center().y() + 1
            painter.drawLine(place.left(), height, place.left() + stroke - theme.px(2), height)
            painter.setPen(theme.color("muted" if entry.off else "text"))
            inside = place.adjusted(stroke + theme.px(2), 0, 0, 0)
            face = theme.font("small")
            face.setStrikeOut(entry.off)
            painter.setFont(face)
            shown = metrics.elidedText(visible(entry.text), Qt.TextElideMode.ElideMiddle, inside.width())
            painter.drawText(inside, middle, shown)
        painter.setFont(theme.font("small"))
        if len(places) < len(self._entries):
            painter.setPen(theme.color("accent" if self._switch else "muted"))
            painter.drawText(self._after(places), middle, f"+ {len(self._entries) - len(places)}")
        if self._switch and self.hasFocus() and places:
            painter.setPen(QPen(theme.color("accent"), 2))
            painter.drawRect(places[min(self._at, len(places) - 1)].adjusted(-1, 1, 1, -1))
        painter.end()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        place = event.position().toPoint()
        at, places = self._entry_at(place), self._places(self.width())
        if self._switch and len(places) < len(self._entries) and self._after(places).contains(place):
            self.show_all(True)
        elif self._switch and at >= 0 and event.button() == Qt.MouseButton.LeftButton:
            self._at = at
            self.chosen.emit(at)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        place, places = event.position().toPoint(), self._places(self.width())
        more = len(places) < len(self._entries) and self._after(places).contains(place)
        over = self._switch and (more or self._entry_at(place) >= 0)
        self.setCursor(Qt.CursorShape.PointingHandCursor if over else Qt.CursorShape.ArrowCursor)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if not (self._switch and self._entries):
            super().keyPressEvent(event)
        elif event.key() in (Qt.Key.Key_Space, Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.chosen.emit(self._at)
        elif event.key() in (Qt.Key.Key_Left, Qt.Key.Key_Right):
            step = 1 if event.key() == Qt.Key.Key_Right else -1
            self._at = (self._at + step) % len(self._entries)
            if self._at >= len(self._places(self.width())):
                self.show_all(True)
            self.update()
        else:
            super().keyPressEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        super().focusInEvent(event)
        self.update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        self.update()

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            at = self._entry_at(event.pos())
            if at >= 0:
                entry = self._entries[at]
                act = ("Click to show it" if entry.off else "Click to hide it") if self._switch else ""
                told = "\n".join(part for part in (entry.text, entry.tip, act) if part)
                QToolTip.showText(event.globalPos(), tooltip(told), self)
            elif self._lines:
                told = "\n".join(f"{entry.text}  {entry.tip}" for entry in self._entries)
                QToolTip.showText(event.globalPos(), tooltip(told), self)
            return True
        return super().event(event)

    def _entry_at(self, place: QPoint) -> int:
        """The number of the entry there, -1 for none."""
        found = (at for at, entry in enumerate(self._places(self.width())) if entry.contains(place))
        return next(found, -1)

    def _lead_width(self, metrics: QFontMetrics) -> int:
        return metrics.horizontalAdvance(self._lead) + theme.px(8) if self._lead else 0

    def _after(self, places: Sequence[QRect]) -> QRect:
        """Where the number of those that are left stands."""
        left = places[-1].right() + theme.px(8) if places else self._lead_width(QFontMetrics(theme.font("small")))
        return QRect(left, places[-1].y() if places else 0, theme.px(_COUNT), theme.px(_LINE))

    def _places(self, width: int) -> list[QRect]:
        metrics = QFontMetrics(theme.font("small"))
        line, gap, stroke = theme.px(_LINE), theme.px(12), theme.px(_STROKE + 4)
        x, y = self._lead_width(metrics), 0
        places: list[QRect] = []
        for at, entry in enumerate(self._entries):
            need = min(metrics.horizontalAdvance(visible(entry.text)) + 1, theme.px(_WIDEST), max(0, width - stroke))
            last = self._lines and y + line >= self._lines * line
            room = width - (theme.px(_COUNT) if last and at + 1 < len(self._entries) else 0)
            if x > 0 and x + stroke + need > room:
                if last:
                    break
                x, y = 0, y + line
            places.append(QRect(x, y, stroke + need, line))
            x += stroke + need + gap
        return places
