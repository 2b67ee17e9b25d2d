"""The histogram of how often features fire."""

from __future__ import annotations

import numpy as np
from pytestqt.qtbot import QtBot

from auditor.ui.widgets.density_plot import DensityPlot


def test_that_the_silent_stand_apart_and_hover_reads_each_run(qtbot: QtBot) -> None:
    edges = np.linspace(-7, 0, 29)
    counts, _ = np.histogram(np.log10([0.001, 0.01, 0.1, 0.1, 0.9]), edges)
    plot = DensityPlot()
    qtbot.addWidget(plot)
    plot.set_density("a", edges.tolist(), counts.tolist(), 1, colour=0)
    plot.set_density("b", edges.tolist(), counts.tolist(), 0, colour=1, dashed=True)
    assert plot.read_at(-7.9) == "silent:  a 1   b 0"
    assert plot.read_at(-0.9) == "10.0 % to 17.8 %:  a 2   b 2"
    assert plot.read_at(-7.2) == "" and plot.read_at(5) == ""
    plot.show_series("b", False)
    assert plot.read_at(-0.9).endswith("a 2")


def test_that_what_lies_left_of_the_mark_is_counted(qtbot: QtBot) -> None:
    plot = DensityPlot()
    qtbot.addWidget(plot)
    edges = [-4.0, -3.0, -2.0, -1.0, 0.0]
    plot.set_density("a", edges, [5, 7, 11, 2], 3)
    assert plot.reading == "silent  3"
    plot.set_limit(1000)
    assert plot.below_limit("a") == 5 and plot.reading == "left of the mark  8"
    plot.set_limit(0)
    assert plot.reading == "silent  3"
