"""Curves and histograms that follow the theme; the one file that knows pyqtgraph.

Import it inside `build`, not at the top of a pane: pyqtgraph takes a quarter of a second to load.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QSize, Qt, Signal
from PySide6.QtGui import QPen
from PySide6.QtWidgets import QVBoxLayout, QWidget

from auditor.ui import theme
from auditor.ui.widgets.numbers import count, figure
from auditor.ui.widgets.plain_text import PlainLabel, visible

pg.setConfigOptions(antialias=True)


class _View(pg.PlotWidget):  # type: ignore[misc]
    """Asks for a modest room: pyqtgraph's own wish is 640 × 480."""

    def sizeHint(self) -> QSize:
        return QSize(theme.px(320), theme.px(150))


class _Plot(QWidget):
    """A themed plot with a line of plain text below that reads the values under the mouse."""

    def __init__(self, title: str, x_label: str, y_label: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._labels = (x_label, y_label)
        self._title = PlainLabel(title, "strong")
        self._title.setVisible(bool(title))
        self._reading = PlainLabel(" ", "small", wrap=True)
        self._view = _View()
        self._item = self._view.getPlotItem()
        self._item.hideButtons()
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
            x = self._item.vb.mapSceneToView(place).x()
            self._cross.setPos(x)
            self._reading.setText(self.read_at(x) or " ")
        else:
            self._reading.setText(self._resting())

    def _resting(self) -> str:
        return " "

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
            axis.setLabel(html.escape(text), **style)
        self._redraw()

    def _redraw(self) -> None:
        """Draw again in the colours of the theme."""


class LinePlot(_Plot):
    """Curves of several runs over the same steps; hover reads all of them at one step."""

    step_hovered = Signal(float)

    def __init__(
        self, title: str = "", x_label: str = "step", y_label: str = "", *, log_y: bool = False,
        parent: QWidget | None = None,
    ) -> None:  # fmt: skip
        self._series: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        self._curves: dict[str, Any] = {}
        self._dashed: set[str] = set()
        super().__init__(title, x_label, y_label, parent)
        self._item.setLogMode(y=log_y)
        self._item.setDownsampling(auto=True, mode="peak")
        self._item.setClipToView(True)

    def set_series(self, name: str, x: Sequence[float], y: Sequence[float], *, dashed: bool = False) -> None:
        """Draw or replace the curve called `name`; its colour follows the order of coming."""
        self._series[name] = (np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        if dashed:
            self._dashed.add(name)
        if name not in self._curves:
            self._curves[name] = self._item.plot([], [])
            self._paint(name)
        self._curves[name].setData(*self._series[name], connect="finite")
        if not self._cross.isVisible():
            self._reading.setText(self._resting())

    def remove(self, name: str) -> None:
        """Take a curve away."""
        if name in self._series:
            del self._series[name]
            self._item.removeItem(self._curves.pop(name))
            self._redraw()

    def clear(self) -> None:
        for name in list(self._series):
            self.remove(name)

    def names(self) -> list[str]:
        return list(self._series)

    def colour_of(self, name: str) -> str:
        """The curve's colour as `#rrggbb`, for a legend."""
        return theme.series(list(self._curves).index(name)).name()

    def read_at(self, x: float) -> str:
        told = []
        at = 0.0
        for name, (steps, values) in self._series.items():
            if len(steps):
                nearest = int(np.argmin(np.abs(steps - x)))
                at = float(steps[nearest])
                told.append(f"{visible(name)} {figure(float(values[nearest]))}")
        self.step_hovered.emit(at)
        return f"{self._labels[0]} {count(int(at))}:  " + "   ".join(told) if told else ""

    def _resting(self) -> str:
        last = [f"{visible(n)} {figure(float(y[-1]))}" for n, (_, y) in self._series.items() if len(y)]
        return "   ".join(last) or " "

    def _paint(self, name: str) -> None:
        style = Qt.PenStyle.DashLine if name in self._dashed else Qt.PenStyle.SolidLine
        pen = pg.mkPen(theme.series(list(self._curves).index(name)), width=1.5, style=style)
        self._curves[name].setPen(pen)

    def _redraw(self) -> None:
        for name in self._curves:
            self._paint(name)


class HistogramPlot(_Plot):
    """One or two histograms over the same edges: text filled in the accent, images as an outline in orange."""

    def __init__(
        self, title: str = "", x_label: str = "activation", y_label: str = "count", *, log_y: bool = True,
        parent: QWidget | None = None,
    ) -> None:  # fmt: skip
        self._edges: NDArray[np.float64] = np.zeros(0)
        self._counts: dict[str, NDArray[np.float64]] = {}
        self._drawn: list[Any] = []
        self._log = log_y
        super().__init__(title, x_label, f"log₁₀(1 + {y_label})" if log_y else y_label, parent)
        self._item.setMouseEnabled(x=False, y=False)

    def set_counts(self, edges: Sequence[float] | NDArray[Any], counts: Mapping[str, Sequence[float]]) -> None:
        """Bins between `edges` [n + 1]; `counts` maps a series' name (text, image) to [n] counts."""
        self._edges = np.asarray(edges, dtype=np.float64)
        self._counts = {name: np.asarray(held, dtype=np.float64) for name, held in counts.items()}
        self._redraw()

    def read_at(self, x: float) -> str:
        bin_ = int(np.searchsorted(self._edges, x, side="right")) - 1
        if not 0 <= bin_ < len(self._edges) - 1:
            return ""
        told = "   ".join(f"{visible(name)} {count(int(held[bin_]))}" for name, held in self._counts.items())
        return f"{figure(self._edges[bin_])} to {figure(self._edges[bin_ + 1])}:  {told}"

    def _resting(self) -> str:
        return "   ".join(f"{visible(n)} n = {count(int(held.sum()))}" for n, held in self._counts.items()) or " "

    def _redraw(self) -> None:
        for item in self._drawn:
            self._item.removeItem(item)
        self._drawn = []
        for number, held in enumerate(self._counts.values()):
            ink = theme.series(number)
            heights = np.log10(1 + held) if self._log else held
            fill = None
            if number == 0:
                fill = theme.series(0)
                fill.setAlpha(90)
            drawn = pg.PlotDataItem(
                self._edges, heights, stepMode="center", pen=pg.mkPen(ink, width=1.5), brush=fill, fillLevel=0.0
            )
            self._item.addItem(drawn)
            self._drawn.append(drawn)
        self._reading.setText(self._resting())
