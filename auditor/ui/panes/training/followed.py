"""A training that is followed: what it told since the last look is drawn on, not drawn anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.ui.bridge import LiveJob, Series

if TYPE_CHECKING:
    from auditor.ui.panes.training.curves import Curves

_FIGURES = ("loss", "fvu", "l0", "dead")


class Followed:
    """One training, of one dictionary or of a sweep; `number` tells it from others with the same title."""

    def __init__(self, live: LiveJob, number: int, dead_after: int) -> None:
        self.live = live
        self._number, self._dead_after = number, dead_after
        self._drawn: dict[tuple[str, str], int] = {}
        self._densities: dict[str, int] = {}

    def runs(self) -> list[str]:
        """The labels of its dictionaries: one empty label where it trains only one."""
        labels = [run for kind, run in self.live.series if kind == "curve"]
        return labels or ([""] if self.live.metrics else [])

    def name(self, run: str) -> str:
        """What the curve of one of its dictionaries is called."""
        return f"{run or self.live.title}, run {self._number}"

    def names(self) -> list[str]:
        return [self.name(run) for run in self.runs()]

    def draw(self, curves: Curves) -> None:
        """Draw what has come."""
        runs = self.runs()
        if runs and "" not in runs and self.name("") in curves.runs():  # the first of a sweep was told of alone
            curves.keep([name for name in curves.runs() if name != self.name("")])
        for run in runs:
            series: Series = self.live.series[("curve", run)] if run else self.live.metrics
            for figure in _FIGURES:
                steps, values = series.get(figure, ([], []))
                begun = self._drawn.get((run, figure), 0)
                if len(steps) > begun:
                    curves.grow(self.name(run), figure, steps[begun:], values[begun:])
                    self._drawn[run, figure] = len(steps)
            self._draw_aside(curves, run)

    def _draw_aside(self, curves: Curves, run: str) -> None:
        density = self.live.latest.get(("density", run), {})
        if density and self._densities.get(run) != density["step"]:
            self._densities[run] = density["step"]
            curves.draw_density(self.name(run), density, dead_after=self._dead_after)
        spliced = self.live.series.get(("spliced", run), {})
        told = sum(len(steps) for steps, _ in spliced.values())
        if told != self._drawn.get((run, "spliced"), 0):
            self._drawn[run, "spliced"] = told
            curves.draw_spliced(self.name(run), spliced)
