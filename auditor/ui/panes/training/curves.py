"""The curves of runs laid over one another: loss, FVU, L0 and dead features; hovering one reads all at that step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtWidgets import QGridLayout, QWidget

from auditor.ui import theme
from auditor.ui.widgets import controls
from auditor.ui.widgets.plot_key import PlotKey
from auditor.ui.widgets.plots import LinePlot

_CURVES = {
    "loss": ("Loss", "loss", True, 0.0),
    "fvu": ("Fraction of variance unexplained", "FVU", True, 0.0),
    "l0": ("Active features", "a row", False, 2.0),
    "dead": ("Dead features", "share", False, 0.01),
}
_NONE = "The curves of a run are drawn here while it trains; those of finished dictionaries stay beside them."
Curve = Mapping[str, tuple[Sequence[float], Sequence[float]]]


class Curves(QWidget):
    """Four plots under one key. Live runs are drawn in full, finished ones dashed."""

    def __init__(self) -> None:
        super().__init__()
        self.key = PlotKey()
        self.plots = {
            name: LinePlot(title, "step", unit, log_y=log, least=least)
            for name, (title, unit, log, least) in _CURVES.items()
        }
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(theme.space("small"))
        for at, plot in enumerate(self.plots.values()):
            grid.addWidget(plot, at // 2, at % 2)
            plot.step_hovered.connect(lambda x, plot=plot: self._look_at(x, plot))
            plot.left.connect(self._look_away)
        whole = controls.column(self.key, grid, gap="small")
        whole.setStretch(1, 1)
        self.setLayout(whole)
        self._list()

    def draw(self, run: str, curve: Curve, *, finished: bool = False, tip: str = "") -> None:
        """Draw or draw on the curves of a run."""
        new = run not in self.runs()
        for figure, plot in self.plots.items():
            if figure in curve:
                plot.set_series(run, *curve[figure], dashed=finished)
        if new:
            self._list()

    def keep(self, runs: Sequence[str]) -> None:
        """Take away the curves of every run but these."""
        for plot in self.plots.values():
            for name in plot.names():
                if name not in runs:
                    plot.remove(name)
        self._list()

    def runs(self) -> list[str]:
        return list(dict.fromkeys(name for plot in self.plots.values() for name in plot.names()))

    def _list(self) -> None:
        first = next(iter(self.plots.values()))
        names = first.names()
        self.key.set_entries([first.entry_of(name) for name in names], "" if names else _NONE)

    def _look_at(self, x: float, where: LinePlot) -> None:
        for plot in self.plots.values():
            if plot is not where:
                plot.look_at(x)

    def _look_away(self) -> None:
        for plot in self.plots.values():
            plot.look_away()


def kept_curves(paths: Mapping[str, Path]) -> dict[str, Curve]:
    """The curves that finished dictionaries keep in their files, by name; runs off the GUI thread."""
    import json

    found: dict[str, Curve] = {}
    for name, path in paths.items():
        try:
            facts: dict[str, Any] = json.loads((path / "cfg.json").read_text("utf-8"))
            curve = facts["metadata"]["auditor"]["curve"]
            rows = np.array(curve["rows"], dtype=float).reshape(-1, len(curve["columns"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a dictionary from elsewhere keeps no curve
        columns = {column: rows[:, at].tolist() for at, column in enumerate(curve["columns"])}
        steps = columns.pop("step", [])
        found[name] = {figure: (steps, values) for figure, values in columns.items()}
    return found
