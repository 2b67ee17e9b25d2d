"""Curves and histograms that follow the theme; the one file that knows pyqtgraph.

Import it inside `build`, not at the top of a pane: pyqtgraph takes a quarter of a second to load.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QSize, Qt, Signal
from PySide6.QtGui import QPen
from PySide6.QtWidgets import QVBoxLayout, QWidget

from auditor.ui import theme
from auditor.ui.widgets.numbers import count, figure
from auditor.ui.widgets.plain_text import PlainLabel, visible
from auditor.ui.widgets.plot_key import Entry, PlotKey

pg.setConfigOptions(antialias=True)
_TICK = 18


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
        room = max(2, int(size // theme.px(_TICK)))
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


class _Plot(QWidget):
    """A themed plot with a line of plain text below that reads the values under the mouse."""

    def __init__(self, title: str, x_label: str, y_label: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._labels = (x_label, y_label)
        self._title = PlainLabel(title, "strong")
        self._title.setVisible(bool(title))
        self._reading = PlotKey()
        self._view = _View(axisItems={"left": _Axis("left")})
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
            x = self._item.vb.mapSceneToView(place).x()
            self._cross.setPos(x)
            self._read(x)
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


class LinePlot(_Plot):
    """Curves of several runs over the same steps; hover reads all of them at one step."""

    step_hovered = Signal(float)
    left = Signal()

    def __init__(
        self, title: str = "", x_label: str = "step", y_label: str = "", *, log_y: bool = False,
        least: float = 0.0, parent: QWidget | None = None,
    ) -> None:  # fmt: skip
        self._x_label = x_label
        self._series: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        self._curves: dict[str, Any] = {}
        self._colours: dict[str, int] = {}
        self._dashed: set[str] = set()
        super().__init__(title, "", y_label, parent)
        self._item.setLogMode(y=log_y)
        if least:  # a curve that hardly moves is not blown up to the whole height
            self._item.vb.setLimits(minYRange=least, yMin=0)
        self._item.setDownsampling(auto=True, mode="peak")
        self._item.setClipToView(True)

    def set_series(self, name: str, x: Sequence[float], y: Sequence[float], *, dashed: bool = False) -> None:
        """Draw or replace the curve called `name`; its colour follows the order of coming."""
        self._series[name] = (np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        if dashed:
            self._dashed.add(name)
        if name not in self._curves:
            self._colours.setdefault(name, _free_colour(self._colours[held] for held in self._curves))
            self._curves[name] = self._item.plot([], [])
            self._paint(name)
        self._curves[name].setData(*self._series[name], connect="finite")
        if not self._cross.isVisible():
            self._rest()

    def remove(self, name: str) -> None:
        """Take a curve away."""
        if name in self._series:
            del self._series[name]
            self._item.removeItem(self._curves.pop(name))
            self._colours.pop(name)
            self._dashed.discard(name)
            self._redraw()
            self._rest()

    def clear(self) -> None:
        for name in list(self._series):
            self.remove(name)

    def names(self) -> list[str]:
        return list(self._series)

    def colour_of(self, name: str) -> str:
        """The curve's colour as `#rrggbb`, for a legend."""
        return theme.series(self._colours[name]).name()

    def entry_of(self, name: str) -> Entry:
        """The curve's line in a key."""
        return Entry(self._colours[name], name, name in self._dashed)

    def look_at(self, x: float) -> None:
        """Read the curves at `x`, as hovering there does; it is not told on."""
        self._cross.setVisible(True)
        self._cross.setPos(x)
        self._reading.set_entries(self._values(x), self._step(x))

    def look_away(self) -> None:
        """Read the last values again."""
        self._cross.setVisible(False)
        self._rest()

    def read_at(self, x: float) -> str:
        told = [f"{visible(n)} {figure(float(y[_nearest(steps, x)]))}" for n, (steps, y) in self._drawn()]
        return f"{self._step(x)}:  " + "   ".join(told) if told else ""

    def _drawn(self) -> list[tuple[str, tuple[NDArray[np.float64], NDArray[np.float64]]]]:
        return [(name, held) for name, held in self._series.items() if len(held[0])]

    def _step(self, x: float) -> str:
        at = [float(steps[_nearest(steps, x)]) for _, (steps, _) in self._drawn()]
        return f"{self._x_label} {count(int(at[-1]))}" if at else ""

    def _values(self, x: float) -> list[Entry]:
        return [
            Entry(self._colours[name], figure(float(y[_nearest(steps, x)])), name in self._dashed, name)
            for name, (steps, y) in self._drawn()
        ]

    def _read(self, x: float) -> None:
        self._reading.set_entries(self._values(x), self._step(x))
        self.step_hovered.emit(x)

    def _rest(self) -> None:
        self._reading.set_entries(self._values(np.inf), f"last {self._x_label}" if self._drawn() else "")

    def _leave(self) -> None:
        self._rest()
        self.left.emit()

    def _paint(self, name: str) -> None:
        style = Qt.PenStyle.DashLine if name in self._dashed else Qt.PenStyle.SolidLine
        pen = pg.mkPen(theme.series(self._colours[name]), width=1.5, style=style)
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
        self._x_label = x_label
        super().__init__(title, "", f"log₁₀(1 + {y_label})" if log_y else y_label, parent)
        self._item.setMouseEnabled(x=False, y=False)

    def set_counts(self, edges: Sequence[float] | NDArray[Any], counts: Mapping[str, Sequence[float]]) -> None:
        """Bins between `edges` [n + 1]; `counts` maps a series' name (text, image) to [n] counts."""
        self._edges = np.asarray(edges, dtype=np.float64)
        self._counts = {name: np.asarray(held, dtype=np.float64) for name, held in counts.items()}
        self._redraw()

    def read_at(self, x: float) -> str:
        bin_ = self._bin(x)
        if bin_ < 0:
            return ""
        told = "   ".join(f"{visible(name)} {count(int(held[bin_]))}" for name, held in self._counts.items())
        return f"{figure(self._edges[bin_])} to {figure(self._edges[bin_ + 1])}:  {told}"

    def _read(self, x: float) -> None:
        bin_ = self._bin(x)
        if bin_ >= 0:
            held = enumerate(self._counts.items())
            shown = [Entry(at, count(int(counts[bin_])), tip=name) for at, (name, counts) in held]
            self._reading.set_entries(shown, f"{figure(self._edges[bin_])}–{figure(self._edges[bin_ + 1])}")

    def _rest(self) -> None:
        shown = [Entry(at, f"{n} {count(int(held.sum()))}") for at, (n, held) in enumerate(self._counts.items())]
        self._reading.set_entries(shown, self._x_label)

    def _bin(self, x: float) -> int:
        bin_ = int(np.searchsorted(self._edges, x, side="right")) - 1
        return bin_ if 0 <= bin_ < len(self._edges) - 1 else -1

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
        self._rest()


def _nearest(steps: NDArray[np.float64], x: float) -> int:
    return int(np.argmin(np.abs(steps - x))) if np.isfinite(x) else len(steps) - 1


def _free_colour(taken: Iterable[int]) -> int:
    """The least number whose colour no curve has, so that a curve that goes away gives its colour back."""
    held = set(taken)
    return next(number for number in range(len(held) + 1) if number not in held)
