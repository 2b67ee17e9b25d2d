"""What every plot has: axes and colours of the theme, a cross under the mouse, and a line of text that reads it.

Import it inside `build`, not at the top of a pane: pyqtgraph takes a quarter of a second to load.
"""

from __future__ import annotations

import html

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QEvent, QPointF, QSize, Qt
from PySide6.QtGui import QPen
from PySide6.QtWidgets import QVBoxLayout, QWidget

from auditor.ui import theme
from auditor.ui.widgets.plain_text import ElidedLabel
from auditor.ui.widgets.plot_key import PlotKey

pg.setConfigOptions(antialias=True)
_TICK = {"left": 18, "bottom": 46}


class _View(pg.PlotWidget):  # type: ignore[misc]
    """Asks for a modest room: pyqtgraph's own wish is 640 × 480."""

    def sizeHint(self) -> QSize:
        return QSize(theme.px(320), theme.px(150))


class _Axis(pg.AxisItem):  # type: ignore[misc]
    """On a logarithmic scale a tick at 1, 2 and 5 of each decade, or fewer where they would run into one another."""

    def tickValues(self, low: float, high: float, size: float) -> list[tuple[float, list[float]]]:
        if not self.logMode:
            found: list[tuple[float, list[float]]] = super().tickValues(low, high, size)
            return found
        room = max(2, int(size // theme.px(_TICK[self.orientation])))
        decades = range(int(np.floor(low)), int(np.ceil(high)) + 1)
        for parts in ((1, 2, 5), (1, 3), (1,)):
            ticks = [decade + float(np.log10(part)) for decade in decades for part in parts]
            ticks = [tick for tick in ticks if low <= tick <= high]
            if len(ticks) <= room:
                break
        return [(1.0, ticks[:: -(-len(ticks) // room) or 1])]

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        if not self.logMode:
            told: list[str] = super().tickStrings(values, scale, spacing)
            return told
        return [f"{round(10**value, 9):g}" for value in values]


class PlotFrame(QWidget):
    """A themed plot with a line of plain text below that reads the values under the mouse; `view` is pyqtgraph's."""

    def __init__(self, title: str, x_label: str, y_label: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._labels = (x_label, y_label)
        self._mouse_y = 0.0
        self._title = ElidedLabel(title, "strong")
        self._title.setVisible(bool(title))
        self._reading = PlotKey(lines=1)
        self._view = _View(axisItems={"left": _Axis("left"), "bottom": _Axis("bottom")})
        self._item = self._view.getPlotItem()
        self._item.hideButtons()
        self._item.setContentsMargins(0, theme.px(6), theme.px(8), 0)  # half of an axis' outermost number
        self._item.setMenuEnabled(False)
        self._cross = pg.InfiniteLine(angle=90, movable=False)
        self._cross.setVisible(False)
        self._item.addItem(self._cross, ignoreBounds=True)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(theme.space("tight"))
        for widget in (self._title, self._view, self._reading):
            column.addWidget(widget)
        column.setStretch(1, 1)
        self.setMinimumHeight(theme.px(120))
        self._view.scene().sigMouseMoved.connect(self._moved)
        theme.signals.changed.connect(self._dress)
        self._dress()

    @property
    def reading(self) -> str:
        """What the line below says."""
        return self._reading.text()

    def read_at(self, x: float) -> str:
        """The values of everything drawn at `x`, as one line."""
        return ""

    def _moved(self, place: QPointF) -> None:
        inside = self._item.sceneBoundingRect().contains(place)
        self._cross.setVisible(inside)
        if inside:
            at = self._item.vb.mapSceneToView(place)
            self._mouse_y = at.y()
            self._cross.setPos(at.x())
            self._read(at.x())
        else:
            self._leave()

    def leaveEvent(self, event: QEvent) -> None:
        self._cross.setVisible(False)
        self._leave()

    def _leave(self) -> None:
        self._rest()

    def _read(self, x: float) -> None:
        """Write the values at `x` below the plot."""

    def _rest(self) -> None:
        """Write below the plot what holds while nothing is hovered."""

    def _dress(self) -> None:
        self._view.setBackground(theme.color("surface"))
        self._cross.setPen(QPen(theme.color("muted"), 0, Qt.PenStyle.DashLine))
        for side, text in zip(("bottom", "left"), self._labels, strict=True):
            axis = self._item.getAxis(side)
            axis.setPen(theme.color("border"))
            axis.setTextPen(theme.color("muted"))
            axis.setTickFont(theme.font("small"))
            axis.setStyle(tickLength=-4)
            axis.setSIPrefixEnableRanges(())  # else a theme change would show 0.3 as 300
            axis.enableAutoSIPrefix(False)
            style = {"color": theme.hex_color("muted"), "font-size": f"{theme.px(11)}px"}
            if text:
                axis.setLabel(html.escape(text), **style)
        self._redraw()

    def _redraw(self) -> None:
        """Draw again in the colours of the theme."""
