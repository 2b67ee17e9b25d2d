"""The training pane: a real small run with its curves, paused, resumed and stopped; finished runs beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
from PySide6.QtCore import QPoint
from pytestqt.qtbot import QtBot

from auditor.ui import theme
from auditor.ui.bridge import LiveJob
from auditor.ui.panes.jobs import JobRow, Jobs
from auditor.ui.panes.recording import Recording
from auditor.ui.panes.training import Training
from auditor.ui.panes.training.runs import COLUMNS
from auditor.ui.session import Session

Take = Callable[[Session], None]
SIZE = (1026, 594)  # the pane's part of a window of 1280 × 720
SMALL = {"d_sae": 64, "k": 4, "batch_size": 64, "device": "cpu", "evaluate_rows": 128, "metrics_every": 1}


@pytest.fixture
def pane(qtbot: QtBot, indexed: Session, take_commands: Take) -> Training:
    take_commands(indexed)
    made = Training(indexed)
    indexed.pane_of = lambda _: made
    qtbot.addWidget(made)
    made.resize(*SIZE)
    made.show()
    qtbot.waitUntil(lambda: not indexed.reading, timeout=30_000)
    return made


def start(pane: Training, **values: object) -> LiveJob:
    for name, value in {**SMALL, **values}.items():
        pane.form.set(name, value)
    before = len(pane.session.jobs)
    pane.planner.start_button.click()
    assert len(pane.session.jobs) == before + 1
    return pane.session.jobs[-1]


def test_that_a_run_is_drawn_live_and_can_be_paused_resumed_and_stopped(pane: Training, qtbot: QtBot) -> None:
    jobs = Jobs(pane.session)
    qtbot.addWidget(jobs)
    jobs.show()
    live = start(pane, steps=100_000)
    row = jobs.findChild(JobRow)
    assert row is not None
    qtbot.waitUntil(lambda: pane.plots["loss"].points("Train topk 64, run 1") > 3, timeout=60_000)
    assert {"Train topk 64, run 1", "topk-128"} <= set(pane.curves.runs())
    assert "Train topk 64, run 1" in pane.curves.key.text()
    row._pause.click()
    qtbot.waitUntil(lambda: live.state == "paused" and row._pause.text() == "Resume", timeout=10_000)
    qtbot.wait(150)
    reached = live.done_units
    qtbot.wait(300)
    assert live.done_units == reached > 0
    row._pause.click()
    qtbot.waitUntil(lambda: live.done_units > reached, timeout=10_000)
    row._stop.click()
    qtbot.waitUntil(lambda: live.outcome == "cancelled", timeout=20_000)
    assert "Stopped" in pane.planner.told.text()
    assert "Train topk 64, run 1" in pane.curves.runs()
    qtbot.waitUntil(lambda: not pane.session.busy, timeout=20_000)


def test_that_finished_runs_take_the_place_of_live_ones_with_figures_and_baselines(
    pane: Training, qtbot: QtBot
) -> None:
    for seed in (1, 2):
        live = start(pane, steps=20, seed=seed)
        qtbot.waitUntil(lambda held=live: held.outcome == "done", timeout=120_000)  # type: ignore[misc]
    qtbot.waitUntil(lambda: not pane.session.busy, timeout=20_000)
    assert pane.planner.told.text().startswith("Trained: FVU") and pane.planner.index_button.isVisible()
    names = [artefact.name for artefact in pane.session.artefacts("dictionary")]
    assert sorted(pane.curves.runs()) == sorted(names) and len(names) == 3
    row = [pane.table.model().index(0, column).data() for column in range(pane.table.model().columnCount())]
    told = dict(zip([column.field for column in COLUMNS], row, strict=True))
    assert told["name"] == names[-1] and told["step"] == "Index" and told["arch"] == "topk"
    assert all(told[name] != "–" for name in ("fvu", "l0", "dead", "alive", "fvu_pca", "fvu_random", "fvu_neurons"))
    keys = {plot.colour_of(name) for plot in (pane.plots["fvu"],) for name in plot.names()}
    assert len(keys) == 3
    pane.plots["loss"]._read(10)
    assert all(plot.reading.startswith("step 1") for plot in pane.plots.values())
    pane.plots["loss"]._leave()
    assert all(plot.reading.startswith("last step") for plot in pane.plots.values())


def test_that_the_plan_is_measured_on_the_newest_store_and_moves_no_button(pane: Training, qtbot: QtBot) -> None:
    for name, value in SMALL.items():
        pane.form.set(name, value)
    assert pane.planner.figures.text("rows") != "–"
    place = pane.planner.start_button.mapTo(pane, QPoint(0, 0))
    pane.plan()
    qtbot.waitUntil(lambda: pane.planner.plan_button.isEnabled(), timeout=60_000)
    assert pane.planner.told.text() == "It fits."
    for name in ("rows", "memory", "disk", "time"):
        assert "–" not in pane.planner.figures.text(name), name
    qtbot.wait(20)
    assert pane.planner.start_button.mapTo(pane, QPoint(0, 0)) == place


def test_that_without_a_store_finished_dictionaries_are_still_shown(pane: Training, qtbot: QtBot) -> None:
    project = pane.session.project
    assert project is not None
    folder = project.folder
    pane.session.close_project()
    assert pane.state == "empty" and not pane.curves.runs()
    import sqlite3

    with sqlite3.connect(folder / "catalogue.sqlite") as catalogue:
        catalogue.execute("delete from artefacts where kind = 'store'")
    shutil.rmtree(folder / "stores")
    pane.session.open_project(folder)
    qtbot.waitUntil(lambda: "topk-128" in pane.curves.runs(), timeout=10_000)
    assert pane.state == "ready" and pane.table.model().rowCount() == 1
    assert not pane.planner.start_button.isEnabled() and pane.planner.record_button.isVisible()
    assert pane.planner.told.text().startswith("Nothing is recorded yet")


def test_that_the_form_and_the_header_are_never_cut_sideways(pane: Training, qtbot: QtBot) -> None:
    from PySide6.QtWidgets import QScrollArea

    (area,) = [held for held in pane.findChildren(QScrollArea) if held.isAncestorOf(pane.form)]
    qtbot.wait(20)
    assert area.viewport().width() >= area.widget().minimumSizeHint().width()
    assert not area.horizontalScrollBar().isVisible()


def test_that_at_twice_the_text_size_the_pane_still_fits_a_small_window(
    qtbot: QtBot, indexed: Session, take_commands: Take
) -> None:
    take_commands(indexed)
    theme.apply("light", 200)
    for kind in (Training, Recording):
        made = kind(indexed)
        qtbot.addWidget(made)
        made.show()
        qtbot.waitUntil(lambda: not indexed.reading, timeout=30_000)
        least = made.minimumSizeHint()
        assert least.height() < 400 and least.width() < 800, kind.__name__
