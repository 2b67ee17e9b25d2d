"""One curve: what is painted is what all its points would paint, and 100,000 of them pan within a frame."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from auditor.ui.widgets.curve import Curve, decimated
from auditor.ui.widgets.plots import LinePlot

FRAME_S = 0.033


def test_that_each_pixel_keeps_the_least_and_the_greatest_of_its_points() -> None:
    rng = np.random.default_rng(3)
    x, y = np.sort(rng.random(50_000)), rng.standard_normal(50_000)
    y[rng.integers(0, 50_000, 100)] = np.nan
    shown_x, shown_y = decimated(x, y, 0.2, 0.7, 200)
    assert len(shown_x) <= 2 * 203
    for column in range(200):
        low, high = 0.2 + 0.5 * column / 200, 0.2 + 0.5 * (column + 1) / 200
        inside, kept = (x >= low) & (x < high), (shown_x >= low) & (shown_x < high)
        assert np.nanmin(shown_y[kept]) == np.nanmin(y[inside])
        assert np.nanmax(shown_y[kept]) == np.nanmax(y[inside])
    few = decimated(x[:50], y[:50], x[10], x[20], 200)
    assert np.array_equal(few[0], x[9:22])


def test_that_a_training_that_goes_back_cuts_its_curve_there(qtbot: QtBot) -> None:
    curve = Curve()
    for step in range(10, 3000, 10):
        curve.add_points([step], [step / 10])
    curve.add_points([3000, 500, 510], [300.0, -1.0, -2.0])
    assert curve.x.tolist() == [*range(10, 500, 10), 500, 510]
    assert curve.y[-3:].tolist() == [49.0, -1.0, -2.0]
    assert curve.dataBounds(1) == (-2.0, 49.0)
    curve.setLogMode(False, True)
    assert curve.dataBounds(1) == (0.0, float(np.log10(49)))


def test_that_a_hundred_thousand_points_of_several_runs_pan_within_a_frame(qtbot: QtBot) -> None:
    plot = LinePlot("Loss", log_y=True)
    qtbot.addWidget(plot)
    plot.resize(340, 240)
    plot.show()
    rng = np.random.default_rng(0)
    steps = np.arange(1, 100_001) * 10.0
    for run in range(3):
        loss = np.exp(-steps / 4e5) + 0.05 * rng.random(len(steps))
        plot.set_series(f"run {run}", steps, loss, dashed=run == 2)
    assert plot.points("run 1") == 100_000
    QApplication.processEvents()
    assert min(pan_s(plot) for _ in range(3)) < FRAME_S


def pan_s(plot: LinePlot) -> float:
    """Median seconds of a frame while the plot is panned."""
    frames = []
    for _ in range(15):
        begin = time.perf_counter()
        plot._item.vb.translateBy(x=5000)
        plot._view.viewport().repaint()
        frames.append(time.perf_counter() - begin)
    return statistics.median(frames)


def test_that_intervals_are_drawn_as_a_band_and_alone_as_bars(qtbot: QtBot) -> None:
    plot = LinePlot("KL", log_y=True)
    qtbot.addWidget(plot)
    plot.resize(400, 300)
    plot.show()

    def inked() -> int:
        image = plot._view.grab().toImage().convertToFormat(QImage.Format.Format_RGB32)
        rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), -1, 4)
        return int((np.ptp(rows[..., :3].astype(int), axis=2) > 12).sum())

    steps, values = [100, 200, 300], [1.0, 0.5, 0.4]
    plot.set_series("a", steps, values, ends=([0.5, 0.25, 0.2], [2.0, 1.0, 0.8]), of="4 samples")
    assert "0.40" in plot.reading and "95 % interval 0.200 to 0.800, 4 samples" in plot._reading._entries[0].tip
    (low, high), drawn = plot._curves["a"].dataBounds(1), inked()
    assert (low, high) == pytest.approx((np.log10(0.2), np.log10(2.0)))
    plot.set_series("a", steps, values)
    assert plot._curves["a"].dataBounds(1) == pytest.approx((np.log10(0.4), 0.0))
    plot.set_series("a", steps, values, ends=([np.nan] * 3, [np.nan] * 3))
    without = inked()
    assert drawn > 4 * without > 0
    plot.set_series("b", steps, values, ends=([0.0, 0.25, 0.2], [2.0, 1.0, 0.8]), joined=False, symbol="circle")
    bars = inked()
    assert without < bars < drawn
    assert [name for name, _ in plot._drawn()] == ["a", "b"]
    assert plot._curves["b"].dataBounds(1)[0] == pytest.approx(np.log10(0.2))  # a low end of 0 has no logarithm
