"""Curves and histograms: what the line below them reads."""

from __future__ import annotations

import numpy as np
from pytestqt.qtbot import QtBot

from auditor.ui import theme
from auditor.ui.widgets.plots import HistogramPlot, LinePlot


def test_that_hover_reads_every_run_at_the_nearest_step(qtbot: QtBot) -> None:
    plot = LinePlot("FVU")
    qtbot.addWidget(plot)
    plot.set_series("topk", [0, 100, 200], [0.9, 0.4, 0.2])
    plot.set_series("relu <b>", [0, 100, 200], [0.8, 0.5, 0.3])
    assert plot.read_at(110) == "step 100:  topk 0.400   relu <b> 0.500"
    assert plot.reading == "topk 0.200   relu <b> 0.300"
    colours = {plot.colour_of(name) for name in plot.names()}
    assert len(colours) == 2
    plot.remove("topk")
    assert plot.names() == ["relu <b>"]


def test_that_a_histogram_reads_both_series_of_a_bin(qtbot: QtBot) -> None:
    plot = HistogramPlot()
    qtbot.addWidget(plot)
    plot.set_counts(np.array([0.0, 1.0, 2.0]), {"text": [1200, 3], "image": [7, 0]})
    assert plot.read_at(0.5) == "0 to 1.00:  text 1\u2009200   image 7"
    assert plot.read_at(5.0) == ""
    assert "n = 1\u2009203" in plot.reading


def test_that_plots_follow_the_theme(qtbot: QtBot) -> None:
    plot = LinePlot()
    qtbot.addWidget(plot)
    plot.set_series("run", [0, 1], [0, 1])
    plot.resize(300, 200)
    plot.show()
    theme.apply("dark")
    corner = plot._view.grab().toImage().pixelColor(2, 2)
    assert corner.name().upper() == theme.hex_color("surface")
