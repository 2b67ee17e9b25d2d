"""How long rows are: the distribution of their norms, ordinary rows on one scale, and what is beyond it in words."""

from __future__ import annotations

from PySide6.QtWidgets import QWidget

from auditor.ui.panes.store.source import Lengths
from auditor.ui.widgets import controls
from auditor.ui.widgets.plain_text import PlainLabel
from auditor.ui.widgets.plots import HistogramPlot


class Norms(QWidget):
    """A histogram and a line for each kind of row."""

    def __init__(self) -> None:
        super().__init__()
        self.plot = HistogramPlot("Norms of rows", x_label="norm", y_label="rows")
        self.told = PlainLabel("", "small", wrap=True)
        whole = controls.column(self.plot, self.told, gap="tight")
        whole.setStretch(0, 1)
        self.setLayout(whole)

    def show_lengths(self, lengths: Lengths) -> None:
        """Show those of a hook point."""
        self.plot.set_counts(lengths.edges, lengths.counts)
        self.told.setText("\n".join(lengths.lines))
