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
    assert plot.reading == "last step  0.200   0.300"
    plot.look_at(110)
    assert plot.reading == "step 100  0.400   0.500"
    plot.look_away()
    assert plot.reading == "last step  0.200   0.300"
    colours = {plot.colour_of(name) for name in plot.names()}
    assert len(colours) == 2
    kept = plot.colour_of("relu <b>")
    plot.remove("topk")
    assert plot.names() == ["relu <b>"]
    assert plot.colour_of("relu <b>") == kept
    plot.set_series("l1", [0], [1])
    assert plot.colour_of("l1") != kept


def test_that_a_histogram_reads_both_series_of_a_bin(qtbot: QtBot) -> None:
    plot = HistogramPlot()
    qtbot.addWidget(plot)
    plot.set_counts(np.array([0.0, 1.0, 2.0]), {"text": [1200, 3], "image": [7, 0]})
    assert plot.read_at(0.5) == "0 to 1.00:  text 1\u202f200   image 7"
    assert plot.read_at(5.0) == ""
    assert plot.reading == "activation  text 1\u202f203   image 7"


def test_that_plots_follow_the_theme(qtbot: QtBot) -> None:
    plot = LinePlot()
    qtbot.addWidget(plot)
    plot.set_series("run", [0, 1], [0, 1])
    plot.resize(300, 200)
    plot.show()
    theme.apply("dark")
    corner = plot._view.grab().toImage().pixelColor(2, 2)
    assert corner.name().upper() == theme.hex_color("surface")


def test_that_a_logarithmic_axis_keeps_its_ticks_apart_at_any_height() -> None:
    axis = LinePlot(log_y=True)._item.getAxis("left")
    for low, high in ((-3.2, 2.7), (1.4, 2.3), (-0.9, -0.2), (0.0, 0.05)):
        for size in (60, 100, 400):
            ((_, ticks),) = axis.tickValues(low, high, size)
            assert len(ticks) * 18 <= max(size, 36)
            assert all(low <= tick <= high for tick in ticks)
    assert axis.tickStrings([-1.0, 2.0], 1, 1) == ["0.1", "100"]
