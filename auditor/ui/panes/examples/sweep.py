"""The card of edits that were tested one by one: a map of their effects, and for each its interval and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PySide6.QtWidgets import QVBoxLayout, QWidget

from auditor.ui import theme
from auditor.ui.widgets import controls
from auditor.ui.widgets.big_table import BigTable, Column
from auditor.ui.widgets.heat_map import HeatMap
from auditor.ui.widgets.numbers import count, duration, figure
from auditor.ui.widgets.plain_text import PlainLabel

_TALL = 260
_MOST_SHOWN, _MAP_TALL = 30, 420
_FIGURES = ("effect", "low", "high", "control_low", "control_high", "p", "q")


class SweepCard(QWidget):
    """`data` of the result: `sweep` rows (edit, effect, low, high, control mean, low, high, p, q), `grid` the map.
    A cell and its row are chosen together."""

    def __init__(self, data: Mapping[str, Any], unit: str) -> None:
        super().__init__()
        self._rows: list[Sequence[Any]] = list(data["sweep"])
        self._edits, self._unit = data["grid"]["edits"], unit
        grid = data["grid"]
        self.map = HeatMap(grid["rows"], grid["columns"], grid["values"], self._cell)
        self.told = PlainLabel(self._rest(), "small", wrap=True)
        self.told.setMinimumHeight(theme.px(30))  # the table below stays where it is
        self.table = BigTable(_columns(unit))
        self.table.setMinimumHeight(theme.px(_TALL))
        self.table.set_rows(_array(self._rows), np.argsort([-abs(row[1]) for row in self._rows], kind="stable"))
        self.map.read.connect(lambda told: self.told.setText(told or self._rest()))
        self.map.chosen.connect(lambda row, column: self.table.select(self._edits[row][column]))
        self.table.row_selected.connect(self._find)
        told = PlainLabel(f"Effects in {unit}: a row for each place, a column for each number. In the table each has "
                          "its 95 % interval over the samples and the range of its controls.", "small",
                          wrap=True)  # fmt: skip
        place: QWidget = self.map
        if len(grid["rows"]) > _MOST_SHOWN:
            place = controls.scrolled(self.map)
            place.setFixedHeight(theme.px(_MAP_TALL))
        title = f"{count(len(self._rows))} edit{'' if len(self._rows) == 1 else 's'}, one by one"
        card = controls.card(PlainLabel(title, "heading"), told, place, self.told, self.table, gap="small")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(card)

    def _cell(self, row: int, column: int) -> str:
        number = self._edits[row][column]
        return "" if number is None else told_row(self._rows[number], self._unit)

    def _find(self, number: int) -> None:
        """Frame the cell of the row that was chosen."""
        for at, row in enumerate(self._edits):
            if number in row:
                self.map.choose(at, row.index(number))

    def _rest(self) -> str:
        largest = max(self._rows, key=lambda row: abs(row[1]))
        return f"Largest: {told_row(largest, self._unit)}"


def told_row(row: Sequence[Any], unit: str) -> str:
    """One line of a row."""
    name, effect, low, high, mean, least, most, p, q = row
    bounds = "" if low is None else f" [{figure(low)}, {figure(high)}]"
    null = "" if mean is None else f"; controls {figure(least)} to {figure(most)}, mean {figure(mean)}"
    chance = "" if p is None else f"; p {figure(p)}, q {figure(q)}"
    return f"{name}: {figure(effect)}{bounds} {unit}{null}{chance}"


def plan_card(result: Mapping[str, Any]) -> QWidget:
    """What edits that are tested one by one would take."""
    runs = f"{count(int(result['runs']))} runs, about {duration(60 * float(result['minutes']))} on this machine"
    n = int(result["samples"])
    on = f"{count(n)} sample{'' if n == 1 else 's'}"
    told = f"{count(int(result['edits']))} edits on {on}, each beside its controls: {runs}, measured on a few of them."
    return controls.card(PlainLabel("Plan", "heading"), PlainLabel(told, wrap=True, selectable=True), gap="tight")


def _columns(unit: str) -> list[Column]:
    between = "Mean of each control over the samples: the least and the greatest"
    return [
        Column("edit", "Edit", width=130, left=True),
        Column("effect", "Effect", bar=True, reach=1, width=76, tip=f"{unit}, mean over the samples"),
        Column("low", "Low", width=64, tip="95 % bootstrap interval over the samples"),
        Column("high", "High", width=64, tip="95 % bootstrap interval over the samples"),
        Column("control_low", "Controls", width=70, tip=between),
        Column("control_high", "to", width=64, tip=between),
        Column("p", "p", width=56, tip="Two-sided, against its own controls; at least 1 / (1 + controls)"),
        Column("q", "q", width=56, tip="p after Benjamini and Hochberg over the whole sweep"),
    ]


def _array(rows: Sequence[Sequence[Any]]) -> np.ndarray:
    wide = max((len(str(row[0])) for row in rows), default=1)
    made = np.zeros(len(rows), dtype=[("edit", f"U{wide}"), *((name, np.float64) for name in _FIGURES)])
    made["edit"] = [row[0] for row in rows]
    for name, at in zip(_FIGURES, (1, 2, 3, 5, 6, 7, 8), strict=True):
        made[name] = [np.nan if row[at] is None else row[at] for row in rows]
    return made
