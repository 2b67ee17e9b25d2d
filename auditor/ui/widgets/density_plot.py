"""How many features of a dictionary fire how often: a histogram over the log of the share of rows, the silent ones
apart, and a mark where a feature counts as dead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import Qt
from PySide6.QtGui import QPen

from auditor.ui import theme
from auditor.ui.widgets.numbers import count, share
from auditor.ui.widgets.plain_text import visible
from auditor.ui.widgets.plot_frame import PlotFrame
from auditor.ui.widgets.plot_key import Entry

_APART = 1.0  # decades from the least edge to the end of the silent ones' bar
_WIDE = 0.5
_NONE = "no run here tells it"
_USUAL = (-7.0, 0.0)
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass
class _Held:
    edges: NDArray[np.float64]
    counts: NDArray[np.float64]
    silent: int
    colour: int
    dashed: bool
    item: Any


class DensityPlot(PlotFrame):
    """Histograms of several runs: one that trains alone is filled, finished ones are dashed."""

    def __init__(self, title: str = "How often features fire") -> None:
        self._held: dict[str, _Held] = {}
        self._limit: float | None = None
        super().__init__(title, "", "features")
        self._item.setMouseEnabled(x=False, y=False)
        self._item.vb.setLimits(yMin=0)
        self._mark = pg.InfiniteLine(angle=90, movable=False)
        self._mark.setVisible(False)
        self._item.addItem(self._mark, ignoreBounds=True)
        self._scale_axis()
        self._redraw()
        self._rest()

    def set_density(
        self, name: str, edges: Sequence[float], counts: Sequence[float], silent: int, *, colour: int = 0,
        dashed: bool = False,
    ) -> None:  # fmt: skip
        """Draw or replace a run: `counts` [n] features between `edges` [n + 1] (log10 of the share of rows in which
        they fire), `silent` of them below."""
        held = self._held.get(name)
        if held is None:
            item = pg.PlotDataItem(stepMode="center")
            self._item.addItem(item)
            held = self._held[name] = _Held(np.zeros(0), np.zeros(0), 0, colour, dashed, item)
        new_axis = len(held.edges) != len(edges)
        held.edges, held.counts = np.asarray(edges, dtype=np.float64), np.asarray(counts, dtype=np.float64)
        held.silent, held.colour, held.dashed = int(silent), colour, dashed
        if new_axis:
            self._scale_axis()
            self._redraw()
        self._paint(held)
        if not self._cross.isVisible():
            self._rest()

    def set_limit(self, rows: int) -> None:
        """Mark the share of one in `rows`: a feature that is silent for so many rows counts as dead; 0 takes the mark
        away."""
        self._limit = -float(np.log10(rows)) if rows else None
        self._mark.setVisible(self._limit is not None)
        if self._limit is not None:
            self._mark.setPos(self._limit)
        self._rest()

    def show_series(self, name: str, on: bool) -> None:
        if name in self._held and self._held[name].item.isVisible() != on:
            self._held[name].item.setVisible(on)
            self._item.vb.updateAutoRange()
            self._rest()

    def remove(self, name: str) -> None:
        if name in self._held:
            self._item.removeItem(self._held.pop(name).item)
            self._rest()

    def names(self) -> list[str]:
        return list(self._held)

    def below_limit(self, name: str) -> int:
        """Features that fire, but more rarely than the limit."""
        held = self._held[name]
        if self._limit is None:
            return 0
        middles = (held.edges[:-1] + held.edges[1:]) / 2
        return int(held.counts[middles < self._limit].sum())

    def read_at(self, x: float) -> str:
        lead, values = self._values(x)
        return f"{lead}:  " + "   ".join(f"{visible(e.tip)} {e.text}" for e in values) if values else ""

    def _drawn(self) -> list[tuple[str, _Held]]:
        """What is shown; the runs that train come first."""
        shown = [(name, held) for name, held in self._held.items() if held.item.isVisible()]
        return sorted(shown, key=lambda pair: pair[1].dashed)

    def _values(self, x: float) -> tuple[str, list[Entry]]:
        drawn, lead, found = self._drawn(), "", []
        for name, held in drawn:
            if x < held.edges[0] - _APART + _WIDE:
                lead, number = "silent", held.silent
            elif held.edges[0] <= x < held.edges[-1]:
                at = int(np.searchsorted(held.edges, x, side="right")) - 1
                lead = f"{share(10 ** held.edges[at])} to {share(10 ** held.edges[at + 1])}"
                number = int(held.counts[at])
            else:
                continue
            found.append(Entry(held.colour, count(number), "dashed" if held.dashed else "solid", name))
        return lead, found

    def _read(self, x: float) -> None:
        lead, values = self._values(x)
        if values:
            self._reading.set_entries(values, lead)

    def _rest(self) -> None:
        values = []
        for name, held in self._drawn():
            of = int(held.counts.sum()) + held.silent
            told = f"silent {count(held.silent)}, rarer than the mark {count(self.below_limit(name))}, of {count(of)}"
            values.append(Entry(held.colour, count(held.silent + self.below_limit(name)),
                                "dashed" if held.dashed else "solid", f"{name}: {told}"))  # fmt: skip
        lead = ("left of the mark" if self._limit is not None else "silent") if values else _NONE
        self._reading.set_entries(values, lead)

    def _scale_axis(self) -> None:
        low = min((float(held.edges[0]) for held in self._held.values()), default=_USUAL[0])
        high = max((float(held.edges[-1]) for held in self._held.values()), default=_USUAL[1])
        ticks = [(low - _APART + _WIDE / 2, "silent")]
        ticks += [(float(at), "1" if at == 0 else f"10{str(at).translate(_SUPERSCRIPTS)}")
                  for at in range(int(low) + 1, int(high) + 1, 2)]  # fmt: skip
        axis = self._item.getAxis("bottom")
        axis.setStyle(hideOverlappingLabels=False)  # else “silent” is left out for standing at the edge
        axis.setTicks([ticks])
        self._item.vb.setXRange(low - _APART, high, padding=0.02)

    def _paint(self, held: _Held) -> None:
        low = held.edges[0] - _APART
        edges = np.concatenate([[low, low + _WIDE], held.edges])
        counts = np.concatenate([[held.silent, 0], held.counts])
        ink = theme.series(held.colour)
        style = Qt.PenStyle.DashLine if held.dashed else Qt.PenStyle.SolidLine
        fill = None
        if not held.dashed and sum(not other.dashed for other in self._held.values()) == 1:
            fill = theme.series(held.colour)
            fill.setAlpha(80)
        held.item.setData(
            edges, counts, stepMode="center", pen=pg.mkPen(ink, width=1.5, style=style), brush=fill,
            fillLevel=None if fill is None else 0.0,
        )  # fmt: skip

    def _redraw(self) -> None:
        for held in self._held.values():
            self._paint(held)
        if hasattr(self, "_mark"):
            self._mark.setPen(QPen(theme.color("bad"), 0, Qt.PenStyle.DashLine))
