"""Curves and histograms that follow the theme.

Import it inside `build`, not at the top of a pane: pyqtgraph takes a quarter of a second to load.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import ArrayLike, NDArray
from PySide6.QtCore import QTimer, Signal
from PySide6.QtWidgets import QWidget

from auditor.ui import theme
from auditor.ui.widgets.curve import Curve, Symbol
from auditor.ui.widgets.numbers import count, figure
from auditor.ui.widgets.plain_text import visible
from auditor.ui.widgets.plot_frame import PlotFrame
from auditor.ui.widgets.plot_key import Entry, Look

_NO_LIMIT = -1e307  # pyqtgraph's own; None makes it fail


class LinePlot(PlotFrame):
    """Curves of several runs over the same steps; hover reads all of them at one step. Drag pans, the wheel zooms, a
    double click shows all again."""

    step_hovered = Signal(float)
    left = Signal()

    def __init__(
        self, title: str = "", x_label: str = "step", y_label: str = "", *, log_y: bool = False,
        least: float = 0.0, parent: QWidget | None = None,
    ) -> None:  # fmt: skip
        self._x_label = x_label
        self._curves: dict[str, Curve] = {}
        self._colours: dict[str, int] = {}
        self._dashed: set[str] = set()
        self._apart: set[str] = set()
        self._measured: dict[str, str] = {}
        self._least = least
        self._log = (False, log_y)
        super().__init__(title, "", y_label, parent)
        self.set_log(y=log_y)
        self._reader = QTimer(self)
        self._reader.setSingleShot(True)
        self._reader.timeout.connect(self._read_again)
        self._named = title
        self._view.scene().sigMouseClicked.connect(self._clicked)

    def set_series(
        self, name: str, x: ArrayLike, y: ArrayLike, *, dashed: bool = False, colour: int | None = None,
        symbol: Symbol = "", ends: tuple[ArrayLike, ArrayLike] | None = None, joined: bool = True, of: str = "",
    ) -> None:  # fmt: skip
        """Draw or replace the curve called `name`; its colour follows the order of coming unless it is given. Where
        there are more runs than colours, those that take a colour again are dotted. `ends` are those of each point's
        95 % interval; points that are not `joined` are read after the curves. `of` says what they are measured on."""
        if dashed:
            self._dashed.add(name)
        if not joined:
            self._apart.add(name)
        self._measured[name] = of
        self._curve(name, colour, symbol).set_points(x, y, ends)
        self._told()

    def add_points(self, name: str, x: ArrayLike, y: ArrayLike, *, colour: int | None = None) -> None:
        """Draw on the curve called `name`, or begin it; a step that is not beyond its end cuts it there."""
        self._curve(name, colour).add_points(x, y)
        self._told()

    def points(self, name: str) -> int:
        """How many points the curve called `name` has."""
        return len(self._curves[name].x) if name in self._curves else 0

    def show_series(self, name: str, on: bool) -> None:
        """Show or hide a curve; the axes follow what is shown."""
        if name in self._curves and self._curves[name].isVisible() != on:
            self._curves[name].setVisible(on)
            self._item.vb.updateAutoRange()
            self._rest()

    def set_log(self, *, x: bool | None = None, y: bool | None = None) -> None:
        """Make an axis logarithmic, or linear."""
        self._log = (self._log[0] if x is None else x, self._log[1] if y is None else y)
        # A curve that hardly moves is not blown up to the whole height.
        held = bool(self._least) and not self._log[1]
        self._item.vb.setLimits(minYRange=self._least if held else None, yMin=0.0 if held else _NO_LIMIT)
        self._item.setLogMode(*self._log)
        self._item.enableAutoRange()

    def remove(self, name: str) -> None:
        """Take a curve away."""
        if name in self._curves:
            self._item.removeItem(self._curves.pop(name))
            self._colours.pop(name)
            self._dashed.discard(name)
            self._apart.discard(name)
            self._measured.pop(name, None)
            self._rest()

    def clear(self) -> None:
        for name in list(self._curves):
            self.remove(name)

    def names(self) -> list[str]:
        return list(self._curves)

    def colour_of(self, name: str) -> str:
        """The curve's colour as `#rrggbb`, for a legend."""
        return theme.series(self._colours[name]).name()

    def entry_of(self, name: str) -> Entry:
        """The curve's line in a key."""
        return Entry(self._colours[name], name, self._look(name), off=not self._curves[name].isVisible())

    def look_at(self, x: float) -> None:
        """Read the curves at `x`, as hovering there does; it is not told on."""
        self._cross.setVisible(True)
        self._cross.setPos(self._placed(x))
        self._show_values(x, self._step(x))

    def look_away(self) -> None:
        """Read the last values again."""
        self._cross.setVisible(False)
        self._rest()

    def read_at(self, x: float) -> str:
        told = [f"{visible(name)} {figure(_value(curve, x))}" for name, curve in self._drawn()]
        return f"{self._step(x)}:  " + "   ".join(told) if told else ""

    def _told(self) -> None:
        """Read the last values again, once for all that is drawn in one turn of the event loop."""
        if not self._reader.isActive():
            self._reader.start(0)

    def _read_again(self) -> None:
        self._reader.stop()
        if not self._cross.isVisible():
            self._rest()

    @property
    def reading(self) -> str:
        if self._reader.isActive():
            self._read_again()
        return super().reading

    def _curve(self, name: str, colour: int | None, symbol: Symbol = "") -> Curve:
        if name not in self._curves:
            free = _free_colour(self._colours[held] for held in self._curves)
            self._colours[name] = free if colour is None else colour
            self._curves[name] = Curve(symbol, self._least, joined=name not in self._apart)
            self._item.addItem(self._curves[name])
            self._curves[name].setLogMode(*self._log)
            self._paint(name)
        return self._curves[name]

    def _drawn(self) -> list[tuple[str, Curve]]:
        """What is shown; what is not dashed comes first, points that are not joined last."""
        shown = [(name, held) for name, held in self._curves.items() if len(held.x) and held.isVisible()]
        return sorted(shown, key=lambda pair: (pair[0] in self._apart, pair[0] in self._dashed))

    def _placed(self, x: float) -> float:
        return float(np.log10(max(x, 1e-12))) if self._log[0] else x

    def _step(self, x: float) -> str:
        """The step nearest to x that a curve has."""
        at = [float(curve.x[_nearest(curve.x, x)]) for _, curve in self._drawn()]
        return f"{self._x_label} {count(int(min(at, key=lambda step: abs(step - x))))}" if at else ""

    def _show_values(self, x: float, lead: str) -> None:
        self._reader.stop()
        drawn = self._drawn()
        values = [
            Entry(self._colours[name], figure(_value(curve, x)), self._look(name), self._tip(name, curve, x))
            for name, curve in drawn
        ]
        self._reading.set_entries(values, lead)

    def _tip(self, name: str, curve: Curve, x: float) -> str:
        """What is said of a value beside it: whose it is, its interval, and what it was measured on."""
        low, high = (float(end) for end in curve.ends[:, _nearest(curve.x, x)])
        known = np.isfinite([low, high, _value(curve, x)]).all()
        between = f"95 % interval {figure(low)} to {figure(high)}" if known else ""
        return ", ".join(part for part in (name, between, self._measured.get(name, "")) if part)

    def _read(self, x: float) -> None:
        """Of what the mouse is over: the values of all, and in the title which curve is nearest."""
        drawn = self._drawn()
        step = min(10**x if self._log[0] else x, max((float(curve.x[-1]) for _, curve in drawn), default=0.0))
        if len(drawn) > 1:
            there = 10**self._mouse_y if self._log[1] else self._mouse_y
            apart = [abs(_distance(_value(curve, step), there, self._log[1])) for _, curve in drawn]
            self._title.setText(drawn[int(np.argmin(apart))][0])
        self._show_values(step, self._step(step))
        self.step_hovered.emit(step)

    def _rest(self) -> None:
        self._show_values(np.inf, f"last {self._x_label}" if self._drawn() else "")

    def _leave(self) -> None:
        self._title.setText(self._named)
        self._rest()
        self.left.emit()

    def _clicked(self, event: Any) -> None:
        if event.double():
            self._item.enableAutoRange()

    def _look(self, name: str) -> Look:
        if name in self._dashed:
            return "dashed"
        return "dotted" if self._colours[name] >= theme.n_series() else "solid"

    def _paint(self, name: str) -> None:
        self._curves[name].dress(theme.series(self._colours[name]), self._look(name))

    def _redraw(self) -> None:
        for name in self._curves:
            self._paint(name)


class HistogramPlot(PlotFrame):
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
    """Place of the step nearest to x, of `steps` in ascending order."""
    after = int(np.searchsorted(steps, x))
    if after == 0 or after == len(steps):
        return min(after, len(steps) - 1)
    return after if steps[after] - x < x - steps[after - 1] else after - 1


def _value(curve: Curve, x: float) -> float:
    """The value at the step nearest to x, the last at ∞; not a number beyond the curve's end."""
    steps = curve.x
    apart = steps[-1] - steps[-2] if len(steps) > 1 else 0.0
    if np.isfinite(x) and x > steps[-1] + apart:
        return float("nan")
    return float(curve.y[_nearest(steps, x)])


def _distance(a: float, b: float, log: bool) -> float:
    """How far apart two values are drawn; what is not drawn is farthest."""
    if log:
        return float(np.log10(a / b)) if a > 0 and b > 0 else np.inf
    return a - b if np.isfinite(a) else np.inf


def _free_colour(taken: Iterable[int]) -> int:
    """The least number whose colour no curve has, so that a curve that goes away gives its colour back."""
    held = set(taken)
    return next(number for number in range(len(held) + 1) if number not in held)
