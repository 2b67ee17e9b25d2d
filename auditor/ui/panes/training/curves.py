"""Runs laid over one another: loss, FVU, L0, dead features, what the network loses, how often features fire.

Hovering one plot reads all at that step, and the key hides and shows a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtWidgets import QGridLayout, QWidget

from auditor.ui import theme
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.curve import Symbol
from auditor.ui.widgets.density_plot import DensityPlot
from auditor.ui.widgets.plot_key import Entry, Look, PlotKey
from auditor.ui.widgets.plots import LinePlot

_CURVES = {
    "loss": ("Loss", "loss", True, 0.0),
    "fvu": ("Variance unexplained", "FVU", True, 0.0),
    "l0": ("Active features", "a row", False, 2.0),
    "dead": ("Dead features", "share", False, 0.01),
}
# What is measured with the reconstruction in the model: the figure, what it is called, and its mark.
_SPLICED: dict[str, tuple[str, Symbol]] = {
    "ce_increase": ("CE", "circle"), "kl": ("KL", "square"), "kl_pca": ("KL of PCA", ""),
}  # fmt: skip
# The FVU on the samples that the network is run on.
_LOOK = " · on samples"
_KEY_LINES = 2
_LOW = 98
_NONE = "The curves of a run are drawn here while it trains; those of finished dictionaries stay beside them."
Curve = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def _ends(curve: Curve, figure: str) -> tuple[list[float], list[float]]:
    """The ends of the intervals of a figure, one for each of its steps; not numbers where there is none."""
    found = [dict(zip(*curve.get(f"{figure}{end}", ([], [])), strict=False)) for end in ("_low", "_high")]
    low, high = ([of.get(step, float("nan")) for step in curve[figure][0]] for of in found)
    return low, high


def _measured_on(curve: Curve) -> str:
    """How many tokens and samples the last look was at."""
    told = {name: curve[name][1][-1] for name in ("tokens", "samples") if name in curve and len(curve[name][1])}
    return " of ".join(f"{numbers.count(int(value))} {name}" for name, value in told.items() if value == value)


class Curves(QWidget):
    """Plots under one key. Runs that train are drawn in full, finished ones dashed. `switches` are buttons that make
    axes logarithmic, to be placed by who shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.key = PlotKey(switch=True, lines=_KEY_LINES)
        self.key.chosen.connect(self._switch)
        self.plots = {
            name: LinePlot(title, "step", unit, log_y=log, least=least)
            for name, (title, unit, log, least) in _CURVES.items()
        }
        self.spliced = LinePlot("Model: ● CE, ■ KL, - - PCA", "step", "nats", log_y=True)
        self.spliced.setToolTip("Increase of the cross-entropy, and KL from the clean network, with the reconstruction "
                                "in place of the activations, in nats a token; 95 % intervals over the samples as "
                                "bands. Dashed: the KL with as many principal components")  # fmt: skip
        self.plots["fvu"].setToolTip("Of each batch. Points with bars: on the samples that the model is run on, with "
                                     "95 % intervals over them")  # fmt: skip
        self.density = DensityPlot()
        self._runs: dict[str, bool] = {}  # by name, whether it is finished
        self._inks: dict[str, int] = {}
        self._hidden: set[str] = set()
        self._log_x = controls.button("log steps", slim=True, tip="Steps on a logarithmic axis")
        self._log_y = controls.button("log values", slim=True, tip="Loss, FVU, CE and KL on logarithmic axes")
        for made, on, act in ((self._log_x, False, self._log_steps), (self._log_y, True, self._log_values)):
            made.setCheckable(True)
            made.setChecked(on)
            made.toggled.connect(act)
        self.switches = (self._log_x, self._log_y)
        self._lay()
        self._list()

    def draw(self, run: str, curve: Curve, *, finished: bool = False) -> None:
        """Draw or replace the curves of a run."""
        self._begin(run, finished)
        for figure, plot in self.plots.items():
            if figure in curve:
                plot.set_series(run, *curve[figure], dashed=finished, colour=self._inks[run])
                plot.show_series(run, run not in self._hidden)

    def grow(self, run: str, figure: str, steps: Sequence[float], values: Sequence[float]) -> None:
        """Draw on a run's curve of one figure."""
        self._begin(run, False)
        self.plots[figure].add_points(run, steps, values, colour=self._inks[run])
        self.plots[figure].show_series(run, run not in self._hidden)

    def draw_spliced(self, run: str, curve: Curve, *, finished: bool = False) -> None:
        """Draw or replace what the network loses with the run's reconstruction in place, and the FVU there; each with
        its interval."""
        self._begin(run, finished)
        of = _measured_on(curve)
        for figure, (title, mark) in _SPLICED.items():
            if figure in curve:
                name = f"{run} · {title}"
                dashed = finished or not mark
                self.spliced.set_series(
                    name, *curve[figure], dashed=dashed, colour=self._inks[run], symbol=mark,
                    ends=_ends(curve, figure) if mark else None, of=of,
                )  # fmt: skip
                self.spliced.show_series(name, run not in self._hidden)
        if "fvu" in curve:
            name, plot = f"{run}{_LOOK}", self.plots["fvu"]
            plot.set_series(
                name, *curve["fvu"], dashed=finished, colour=self._inks[run], symbol="circle",
                ends=_ends(curve, "fvu"), joined=False, of=of,
            )  # fmt: skip
            plot.show_series(name, run not in self._hidden)
        self._show_aside()

    def draw_density(self, run: str, told: Mapping[str, Any], *, finished: bool = False, dead_after: int = 0) -> None:
        """Draw or replace how often the run's features fire; `dead_after` rows of silence make one dead."""
        if "log10" not in told or "counts" not in told:
            return
        self._begin(run, finished)
        self.density.set_density(
            run, told["log10"], told["counts"], int(told.get("silent", 0)), colour=self._inks[run], dashed=finished
        )
        self.density.show_series(run, run not in self._hidden)
        self._show_aside()
        if dead_after:
            self.density.set_limit(dead_after)

    def keep(self, runs: Sequence[str]) -> None:
        """Take away every run but these."""
        for name in [name for name in self._runs if name not in runs]:
            for plot in self.plots.values():
                plot.remove(name)
            self.plots["fvu"].remove(f"{name}{_LOOK}")
            self.density.remove(name)
            for title, _ in _SPLICED.values():
                self.spliced.remove(f"{name} · {title}")
            del self._runs[name], self._inks[name]
        self._show_aside()
        self._list()

    def succeed(self, run: str, by: str) -> None:
        """The run is now known as `by`, and keeps its colour."""
        if run in self._inks and by not in self._inks:
            self._inks[by] = self._inks[run] % theme.n_series()
            if run in self._hidden:
                self._hidden.add(by)

    def runs(self) -> list[str]:
        return list(self._runs)

    def hidden(self) -> set[str]:
        """The runs that the key has switched off."""
        return self._hidden & set(self._runs)

    def _begin(self, run: str, finished: bool) -> None:
        if run not in self._inks:
            self._inks[run] = self._free_ink(finished)
        if self._runs.get(run) != finished:
            self._runs[run] = finished
            self._list()

    def _free_ink(self, finished: bool) -> int:
        """A colour that no run has, from the first on for those that train, from the last on for finished ones; where
        there is none left, one that only runs of the other sort have: they are told apart by their strokes."""
        every = list(range(theme.n_series()))[:: -1 if finished else 1]
        alike = {self._inks[run] for run, ended in self._runs.items() if ended == finished}
        free = [number for number in every if number not in self._inks.values()]
        free = free or [number for number in every if number not in alike]
        if finished:
            return free[0] if free else len(alike) % theme.n_series()
        return free[0] if free else next(number for number in range(len(alike) + 1) if number not in alike)

    def _lay(self) -> None:
        grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(theme.space("small"))
        for at, plot in enumerate(self.plots.values()):
            grid.addWidget(plot, at // 2, at % 2)
        self._aside = controls.box(controls.column(self.density, self.spliced, gap="small"))
        grid.addWidget(self._aside, 0, 2, 2, 1)
        for column in range(2):
            grid.setColumnStretch(column, 1)
        self._grid = grid
        self._show_aside()
        for made in (*self.plots.values(), self.density, self.spliced):
            made.setMinimumHeight(theme.px(_LOW))
        for line in (*self.plots.values(), self.spliced):
            line.step_hovered.connect(lambda x, line=line: self._look_at(x, line))
            line.left.connect(self._look_away)
        whole = controls.column(self.key, grid, gap="small")
        whole.setStretch(1, 1)
        self.setLayout(whole)

    def _in_order(self) -> list[str]:
        """The runs as the key lists them: those that train first."""
        return sorted(self._runs, key=lambda run: self._runs[run])

    def _show_aside(self) -> None:
        """Densities and what the network loses take room only where a run tells of them."""
        self.density.setVisible(bool(self.density.names()))
        self.spliced.setVisible(bool(self.spliced.names()))
        some = bool(self.density.names() or self.spliced.names())
        self._aside.setVisible(some)
        self._grid.setColumnStretch(2, int(some))

    def _list(self) -> None:
        entries = [self._entry(name) for name in self._in_order()]
        self.key.set_entries(entries, "" if entries else _NONE)

    def _entry(self, run: str) -> Entry:
        look: Look = "dashed" if self._runs[run] else "dotted" if self._inks[run] >= theme.n_series() else "solid"
        return Entry(self._inks[run], run, look, off=run in self._hidden)

    def _switch(self, at: int) -> None:
        name = self._in_order()[at]
        self._hidden ^= {name}
        on = name not in self._hidden
        for plot in self.plots.values():
            plot.show_series(name, on)
        self.plots["fvu"].show_series(f"{name}{_LOOK}", on)
        self.density.show_series(name, on)
        for title, _ in _SPLICED.values():
            self.spliced.show_series(f"{name} · {title}", on)
        self._list()

    def _log_steps(self, on: bool) -> None:
        for plot in (*self.plots.values(), self.spliced):
            plot.set_log(x=on)

    def _log_values(self, on: bool) -> None:
        for plot in (self.plots["loss"], self.plots["fvu"], self.spliced):
            plot.set_log(y=on)

    def _look_at(self, x: float, where: LinePlot) -> None:
        for plot in (*self.plots.values(), self.spliced):
            if plot is not where:
                plot.look_at(x)

    def _look_away(self) -> None:
        for plot in (*self.plots.values(), self.spliced):
            plot.look_away()
