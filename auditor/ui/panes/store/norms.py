"""How long rows are: the distribution of their norms, ordinary rows on one scale, and what is beyond it in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtWidgets import QWidget

from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.plain_text import PlainLabel
from auditor.ui.widgets.plots import HistogramPlot

if TYPE_CHECKING:
    from auditor.store.facts import Facts

_BINS = 60
_BEYOND = 0.999  # the few longest rows would press all others into one bin


class Norms(QWidget):
    """A histogram and a line for each kind of row."""

    def __init__(self) -> None:
        super().__init__()
        self.plot = HistogramPlot("Norms of rows", x_label="norm", y_label="rows")
        self.told = PlainLabel("", "small", wrap=True)
        whole = controls.column(self.plot, self.told, gap="tight")
        whole.setStretch(0, 1)
        self.setLayout(whole)

    def show_facts(self, facts: Facts) -> None:
        """Show those of a hook point."""
        usual = {kind: norms for kind, norms in facts.norms.items() if kind != "special"} or facts.norms
        every = np.concatenate(list(usual.values())) if usual else np.zeros(1)
        top, low = float(np.quantile(every, _BEYOND)) * 1.02 or 1.0, float(every.min())
        edges = np.linspace(low if low < top else 0.0, top, _BINS + 1)
        self.plot.set_counts(edges, {kind: np.histogram(norms, edges)[0].tolist() for kind, norms in usual.items()})
        self.told.setText("\n".join(line_of(kind, norms, edges) for kind, norms in facts.norms.items()))


def line_of(kind: str, norms: np.ndarray, edges: np.ndarray) -> str:
    """Median, spread and the longest of one kind, over how many rows; how many are beyond the plot."""
    low, middle, high = np.quantile(norms, (0.05, 0.5, 0.95))
    beyond = int((norms > edges[-1]).sum())
    some = "" if beyond == len(norms) else f"{numbers.count(beyond)} "
    where = f", {some}beyond the plot" if beyond else ""
    return (
        f"{kind.capitalize()}: median {numbers.figure(float(middle))}, 90 % between {numbers.figure(float(low))} and "
        f"{numbers.figure(float(high))}, longest {numbers.figure(float(norms.max()))} "
        f"(n = {numbers.count(len(norms))}{where})"
    )
