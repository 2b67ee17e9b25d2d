"""The training pane: a real small run with its curves, paused, resumed and stopped; finished runs beside it."""

from __future__ import annotations

import errno
import json
import re
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QImage
from pytestqt.qtbot import QtBot

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.sae import memory
from auditor.sae.arch_settings import USES, settings_of
from auditor.sae.presets import PRESETS
from auditor.sae.train_config import ARCHS, TrainConfig
from auditor.ui import theme
from auditor.ui.bridge import LiveJob
from auditor.ui.panes.jobs import JobRow, Jobs
from auditor.ui.panes.recording import Recording
from auditor.ui.panes.training import Training
from auditor.ui.panes.training.facts import lines_of
from auditor.ui.panes.training.kept import read_kept
from auditor.ui.panes.training.runs import COLUMNS
from auditor.ui.panes.training.settings import described
from auditor.ui.panes.verb import Verb
from auditor.ui.pictures import take_training
from auditor.ui.session import Session
from auditor.ui.widgets import numbers
from tests.ui.conftest import settle
from tests.ui.panes.conftest import HOOK

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


def test_that_a_pane_made_anew_keeps_the_settings(pane: Training, qtbot: QtBot) -> None:
    pane.form.set_all({"arch": "jumprelu", "d_sae": 384, "steps": 7})
    anew = Training(pane.session)
    qtbot.addWidget(anew)
    anew.keep(pane.kept())
    assert anew.form.values() == pane.form.values() and anew.form.values()["arch"] == "jumprelu"


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


def test_that_a_run_that_was_stopped_and_went_on_is_one_curve(pane: Training, qtbot: QtBot) -> None:
    live = start(pane, steps=200, checkpoint_every=20)
    qtbot.waitUntil(lambda: pane.plots["loss"].points("Train topk 64, run 1") > 3, timeout=60_000)
    live.stop()
    qtbot.waitUntil(lambda: live.outcome == "cancelled", timeout=20_000)
    again = start(pane, steps=200, checkpoint_every=20)
    qtbot.waitUntil(lambda: again.outcome == "done" and not pane.session.busy, timeout=120_000)
    assert sorted(pane.curves.runs()) == sorted(artefact.name for artefact in pane.session.artefacts("dictionary"))


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


def test_that_the_weights_are_told_of_the_stores_width_and_not_where_that_is_unknown(pane: Training) -> None:
    store, project = pane.session.artefacts("store")[-1], pane.session.project
    assert project is not None
    project.note(store, hook_points={"blocks.0.resid_post": 8, HOOK: 576})
    pane.session.refresh()
    pane.form.set("hook", HOOK)
    pane.form.set("d_sae", 1024)
    assert numbers.size(4 * (2 * 576 + 1) * 1024) in pane.planner.figures.text("disk")
    project.note(store, hook_points={})
    pane.session.refresh()
    pane.form.set("d_sae", 512)
    assert pane.planner.figures.text("disk").startswith("–")


def test_that_a_plan_is_cancelled_at_once(pane: Training, qtbot: QtBot) -> None:
    for name, value in SMALL.items():
        pane.form.set(name, value)
    pane.plan()
    assert pane.planner.cancel_button.isVisible()
    pane.planner.cancel_button.click()
    assert pane.planner.plan_button.isVisible() and pane.planner.told.text() == "The plan was cancelled."
    pane.plan()
    pane.form.set("steps", 12)  # what is measured is no longer what is asked for
    assert "training.plan" not in pane.session.reading and not pane.planner.cancel_button.isVisible()
    pane.plan()
    qtbot.waitUntil(lambda: pane.planner.plan_button.isEnabled(), timeout=60_000)
    assert pane.planner.told.text() == "It fits."


def test_that_the_store_that_is_chosen_elsewhere_is_trained_on(pane: Training, qtbot: QtBot) -> None:
    project, (first,) = pane.session.project, pane.session.artefacts("store")
    assert project is not None
    project.add("store", "second", first.path)
    pane.session.refresh()
    for chosen in pane.session.artefacts("store"):
        pane.session.select_artefact(chosen.id)
        pane.session.commands.run("train.store")
        qtbot.waitUntil(lambda: not pane.session.reading, timeout=10_000)
        assert pane.form.values()["store"] == chosen.id and f"“{chosen.name}”" in pane.planner.told.text()


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


def test_that_a_preset_fills_the_form_and_the_form_says_what_was_changed(pane: Training) -> None:
    assert pane.settings.preset == "balanced" and pane.settings.buttons["balanced"].isChecked()
    pane.settings.buttons["publication"].click()
    assert pane.settings.value() == TrainConfig(preset="publication")
    assert pane.settings.told.text() == PRESETS["publication"].help
    pane.form.set("d_sae", 300)
    assert pane.settings.told.text() == "Changed from “Publication”: features."
    assert not any(made.isChecked() for made in pane.settings.buttons.values())
    pane.settings.buttons["quick-look"].click()
    assert pane.settings.preset == "quick-look" and pane.form.values()["sweep"] == ""


@pytest.mark.parametrize("arch", ARCHS)
def test_that_only_settings_that_concern_the_architecture_are_shown(pane: Training, arch: str) -> None:
    pane.form.set("arch", arch)
    shown = {name for name in TrainConfig.model_fields if pane.form.shown(name)}
    assert shown == settings_of(arch) - {"preset"}
    particular = {name for names in USES.values() for name in names}
    hidden = next(iter(particular - set(USES[arch])))
    assert hidden not in pane.form.values() and pane.form._fields[hidden].editor.isHidden()
    assert pane.form._fields["arch"].note.text()


def test_that_what_a_hidden_field_holds_neither_counts_nor_stands_in_the_way(pane: Training) -> None:
    pane.form.set("l1", "many")
    pane.form.set("arch", "relu")
    assert pane.form._fields["l1"].note.text() == "This is not a number"
    pane.form.set("arch", "topk")
    assert pane.settings.value().l1 == TrainConfig().l1


def test_that_a_sweep_that_cannot_be_read_is_refused_before_anything_starts(pane: Training) -> None:
    told: list[str] = []
    pane.session.message.connect(lambda level, sentence, hint, trace: told.append(f"{level} {sentence} {hint}"))
    pane.form.set("sweep", "k=few")
    pane.planner.start_button.click()
    assert told and told[0].startswith("bad “Sweep”: “few” is no number") and not pane.session.jobs
    assert pane.form._fields["sweep"].note.text().startswith("“few” is no number")


class Told:
    """A training that tells what a test wants, and ends when it is told to."""

    def __init__(self, session: Session) -> None:
        self.go_on, self.end = threading.Semaphore(0), threading.Event()
        self.script: list[Callable[[Reporter], None]] = []
        self.live = session.run("Train a dictionary", self._work)

    def say(self, act: Callable[[Reporter], None]) -> None:
        self.script.append(act)
        self.go_on.release()

    def _work(self, reporter: Reporter) -> dict[str, Any]:
        reporter.started("Training", 1000, "steps")
        while not self.end.is_set():
            if self.go_on.acquire(timeout=0.01):
                self.script.pop(0)(reporter)
            reporter.check()
        return {}


@pytest.fixture
def told(pane: Training, qtbot: QtBot) -> Iterator[Told]:
    made = Told(pane.session)
    yield made
    made.end.set()
    qtbot.waitUntil(lambda: not pane.session.busy, timeout=10_000)


def density(step: int) -> dict[str, Any]:
    counts, edges = np.histogram(np.random.default_rng(step).normal(-3, 0.6, 500), 28, (-7, 0))
    return {"step": step, "log10": edges.round(2).tolist(), "counts": counts.tolist(), "silent": step // 10}


def sweep_step(step: int) -> Callable[[Reporter], None]:
    def tell(reporter: Reporter) -> None:
        for number, run in enumerate(("k=4", "k=16", "k=64")):
            figures = {"loss": 100.0 / step, "fvu": 1.0 / (step + number), "l0": float(4 ** (number + 1)), "dead": 0.1}
            if number == 0:
                reporter.metric(step, **figures)
            reporter.partial("curve", run=run, step=step, **figures)
            reporter.partial("density", run=run, **density(step))
            if step % 20 == 0:
                reporter.partial("spliced", run=run, step=step, ce_increase=1.0 / step, kl=2.0 / step)
        reporter.step(step, 1000, unit="steps")

    return tell


def test_that_the_members_of_a_sweep_are_laid_over_one_another_and_the_key_hides_one(
    pane: Training, told: Told, qtbot: QtBot
) -> None:
    for step in range(10, 50, 10):
        told.say(sweep_step(step))
    names = [f"k={k}, run 1" for k in (4, 16, 64)]
    qtbot.waitUntil(lambda: pane.plots["fvu"].points(names[2]) == 4, timeout=10_000)
    qtbot.waitUntil(lambda: "40 of 1\u202f000" in pane.strip._far.text(), timeout=10_000)
    assert pane.curves.runs()[-3:] == names and "Train a dictionary, run 1" not in pane.curves.runs()
    assert len({pane.plots["fvu"].colour_of(name) for name in names}) == 3
    assert set(names) <= set(pane.curves.density.names())
    assert pane.curves.density.read_at(-7.9).startswith("silent:  " + "   ".join(f"{name} 4" for name in names))
    assert pane.curves.spliced.isVisible() and pane.curves.spliced.points("k=16, run 1 · KL") == 2
    pane.plots["fvu"]._read(20)
    assert pane.plots["loss"].read_at(20).startswith("step 20:  k=4, run 1 5.00")
    pane.curves.key.chosen.emit(1)
    assert pane.curves.hidden() == {names[1]}
    for plot in (*pane.plots.values(), pane.curves.density):
        assert names[1] not in plot.read_at(-2.9 if plot is pane.curves.density else 20)
    told.say(sweep_step(50))
    qtbot.waitUntil(lambda: pane.plots["fvu"].points(names[1]) == 5, timeout=10_000)
    assert pane.curves.hidden() == {names[1]}
    pane.curves.key.setFocus()
    qtbot.keyClick(pane.curves.key, Qt.Key.Key_Right)
    qtbot.keyClick(pane.curves.key, Qt.Key.Key_Space)
    assert not pane.curves.hidden()


def test_that_a_mishap_stays_in_view_and_the_curve_goes_back(pane: Training, told: Told, qtbot: QtBot) -> None:
    for step in range(10, 110, 10):
        told.say(lambda reporter, step=step: reporter.metric(step, loss=1.0, fvu=0.5, l0=4.0, dead=0.0))  # type: ignore[misc]
    name = "Train a dictionary, run 1"
    qtbot.waitUntil(lambda: pane.plots["loss"].points(name) == 10, timeout=10_000)
    assert pane.strip.warnings.isHidden()
    sentence = "The loss was not finite or leapt at step 105: back at step 50 with a learning rate of 0.0015."
    told.say(lambda reporter: reporter.partial("warning", step=105, run="", message=sentence))
    told.say(lambda reporter: reporter.metric(60, loss=0.5, fvu=0.5, l0=4.0, dead=0.0))
    qtbot.waitUntil(lambda: pane.plots["loss"].points(name) == 6, timeout=10_000)
    assert sentence in pane.strip.warnings.text() and pane.strip.warnings.isVisible()
    told.end.set()
    qtbot.waitUntil(lambda: told.live.outcome == "done", timeout=10_000)
    assert pane.strip.isVisible() and pane.strip.warnings.isVisible()


def test_that_what_went_wrong_in_a_training_can_be_closed_once_it_has_ended(
    pane: Training, told: Told, qtbot: QtBot
) -> None:
    told.say(lambda reporter: reporter.partial("warning", step=105, run="", message="The loss leapt."))
    qtbot.waitUntil(lambda: pane.strip.warnings.isVisible(), timeout=10_000)
    assert pane.strip.close_button.isHidden()
    told.end.set()
    qtbot.waitUntil(lambda: pane.strip.close_button.isVisible(), timeout=10_000)
    pane.strip.close_button.click()
    assert pane.strip.isHidden() and told.live in pane.session.jobs
    pane.session.catalogue_changed.emit()
    theme.apply("dark")
    assert pane.strip.isHidden()


def test_that_a_hundred_thousand_live_points_pan_within_a_frame(pane: Training, told: Told, qtbot: QtBot) -> None:
    def tell(reporter: Reporter) -> None:
        for step in range(1, 100_001):
            reporter.metric(step, loss=1 / step, fvu=0.5 + 1e-6 * (step % 777), l0=32.0, dead=0.0)

    told.say(tell)
    name = "Train a dictionary, run 1"
    qtbot.waitUntil(lambda: pane.plots["loss"].points(name) == 100_000, timeout=120_000)
    assert min(pan_s(pane) for _ in range(3)) < 0.033


def pan_s(pane: Training) -> float:
    """Median seconds of a frame while a plot is panned."""
    frames = []
    for _ in range(11):
        begin = time.perf_counter()
        pane.plots["fvu"]._item.vb.translateBy(x=2000)
        pane.plots["fvu"]._view.viewport().repaint()
        frames.append(time.perf_counter() - begin)
    return statistics.median(frames)


def test_that_pause_and_stop_stand_in_the_pane_too(pane: Training, told: Told, qtbot: QtBot) -> None:
    told.say(lambda reporter: reporter.step(100, 1000, unit="steps"))
    qtbot.waitUntil(lambda: pane.strip.isVisible() and told.live.state == "running", timeout=10_000)
    pane.strip.pause.click()
    qtbot.waitUntil(lambda: told.live.state == "paused" and pane.strip.pause.text() == "Resume", timeout=10_000)
    pane.strip.pause.click()
    qtbot.waitUntil(lambda: told.live.state == "running" and pane.strip.pause.text() == "Pause", timeout=10_000)
    pane.strip.stop.click()
    qtbot.waitUntil(lambda: told.live.outcome == "cancelled", timeout=10_000)
    assert pane.strip.pause.isHidden() and pane.strip.stop.isHidden()


def test_that_what_is_measured_after_the_steps_is_a_part_of_its_own(pane: Training, told: Told, qtbot: QtBot) -> None:
    def steps(reporter: Reporter) -> None:
        reporter.partial("planned", minutes=2.0, after_minutes=1.0)
        reporter.step(500, 1000, unit="steps")

    told.say(steps)
    qtbot.waitUntil(lambda: told.live.done_units == 500, timeout=10_000)
    assert told.live.seconds_left is None  # nothing was done since it was heard of first
    told.live.job.started -= 10  # type: ignore[misc]
    told.say(lambda reporter: reporter.step(600, 1000, unit="steps"))
    qtbot.waitUntil(lambda: pane.strip._far.text() == "step 600 of 1\u202f000", timeout=10_000)
    left = told.live.seconds_left
    assert left == pytest.approx(60 + 4 * (told.live.seconds_spent - told.live._begun[1]), rel=0.1)  # type: ignore[index]
    assert pane.strip._left.text() == f"{numbers.duration(left)} left"

    def measuring(reporter: Reporter) -> None:
        reporter.started("Measuring the dictionary", 4096, "rows")
        reporter.step(1024, 4096, unit="rows")

    told.say(measuring)
    qtbot.waitUntil(lambda: told.live.parts == 2 and told.live.done_units == 1024, timeout=10_000)
    qtbot.waitUntil(lambda: pane.strip._bar.value() == 250, timeout=10_000)
    assert pane.strip._far.text() == "Measuring the dictionary: 1\u202f024 of 4\u202f096 rows"
    assert told.live.seconds_left is None and not pane.strip._left.text()


def test_that_a_training_that_failed_says_why_where_its_bar_was(pane: Training, told: Told, qtbot: QtBot) -> None:
    def fail(reporter: Reporter) -> None:
        raise AuditorError("The store ran out of rows.", "Record more samples.")

    told.say(fail)
    qtbot.waitUntil(lambda: told.live.outcome == "failed", timeout=10_000)
    assert pane.strip.isVisible() and "The store ran out of rows. Record more samples." in pane.strip.warnings.text()


def test_that_the_form_greys_what_does_nothing_and_says_what_would_be_refused(pane: Training) -> None:
    form = pane.form
    (store,) = pane.session.artefacts("store")
    form.set("arch", "temporal")
    assert not form._fields["model"].editor.isEnabled() and "come from a store" in form._fields["model"].note.text()
    form.set("d_sae", 600)
    assert form._fields["d_sae"].note.text() == "Choose a multiple of 512, which is the bottleneck times the heads."
    with pytest.raises(AuditorError, match="“Features”: Choose a multiple of 512"):
        pane.settings.value()
    form.set("d_sae", 512)
    assert pane.settings.value().arch == "temporal"
    form.set("arch", "topk")
    model = pane.session.artefacts("model")[-1]
    form.set("store", store.id)
    form.set("model", model.id)
    assert not form._fields["store"].editor.isEnabled() and "store" not in form.values()
    assert form._fields["samples"].editor.isEnabled() and form._fields["samples"].note.text() == (
        "Choose what the model is run on."
    )
    assert not pane.planner.plan_button.isEnabled() and "not tried beforehand" in pane.planner.told.text()
    form.set("model", "")
    assert pane.planner.plan_button.isEnabled() and pane.settings.value().store == store.id
    form.set("sweep", "k=8,2048")
    assert form._fields["sweep"].note.text() == "With k=2048: There are only 512 features."


def test_that_a_change_of_the_text_size_while_a_run_goes_on_breaks_nothing(
    pane: Training, told: Told, qtbot: QtBot
) -> None:
    first = Training(pane.session)
    first.show()
    told.say(sweep_step(10))
    qtbot.waitUntil(lambda: first.plots["loss"].points("k=4, run 1") == 1, timeout=10_000)
    theme.apply("light", 150)
    first.close()
    first.deleteLater()
    settle()
    again = Training(pane.session)
    qtbot.addWidget(again)
    again.show()
    told.say(sweep_step(20))
    qtbot.waitUntil(lambda: again.plots["loss"].points("k=4, run 1") == 2, timeout=10_000)
    assert again.curves.isHidden() and again._tabs["settings"].isChecked()
    qtbot.mouseClick(again._tabs["curves"], Qt.MouseButton.LeftButton)
    assert again.curves.isVisible()


def test_that_fine_tuning_fills_in_what_makes_the_dictionary_fit_and_trains_it_on(
    pane: Training, qtbot: QtBot
) -> None:
    (dictionary,) = pane.session.artefacts("dictionary")
    pane.form.set("arch", "relu")
    pane.table.selectRow(0)
    qtbot.mouseClick(pane.finished.tune_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: pane.form.values().get("start_from") == dictionary.id, timeout=10_000)
    made = pane.settings.value()
    assert (made.arch, made.d_sae, made.k, made.store) == ("topk", 128, 8, pane.session.artefacts("store")[0].id)
    assert "Train goes on from “topk-128”" in pane.planner.told.text()
    live = start(pane, d_sae=128, k=8, steps=5)
    qtbot.waitUntil(lambda: live.outcome != "", timeout=120_000)
    assert live.outcome == "done", live.message
    qtbot.waitUntil(lambda: not pane.session.busy, timeout=20_000)
    assert len(pane.session.artefacts("dictionary")) == 2


def test_that_fine_tuning_asks_for_the_size_that_the_dictionary_was_made_with(pane: Training, qtbot: QtBot) -> None:
    live = start(pane, arch="abstopk", steps=5, seed=5)
    qtbot.waitUntil(lambda: live.outcome != "", timeout=120_000)
    assert live.outcome == "done", live.message
    qtbot.waitUntil(lambda: not pane.session.busy, timeout=20_000)
    dictionary = pane.session.artefacts("dictionary")[-1]
    assert dictionary.meta["features"] == 128  # both sides of each
    pane.table.selectRow(0)
    qtbot.mouseClick(pane.finished.tune_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: pane.form.values().get("start_from") == dictionary.id, timeout=10_000)
    made = pane.settings.value()
    assert (made.arch, made.d_sae, made.k) == ("abstopk", 64, 4)


def test_that_two_dictionaries_are_compared_by_what_differs_and_by_their_features(
    pane: Training, qtbot: QtBot
) -> None:
    live = start(pane, steps=10, d_sae=96)
    qtbot.waitUntil(lambda: live.outcome == "done", timeout=120_000)
    qtbot.waitUntil(lambda: not pane.session.busy, timeout=20_000)
    assert not pane.finished.compare_button.isEnabled()
    pane.table.selectAll()
    qtbot.waitUntil(lambda: len(pane.sheet._held) == 2, timeout=10_000)
    qtbot.mouseClick(pane.finished.compare_button, Qt.MouseButton.LeftButton)
    assert pane.sheet.isVisible()
    lines = {line[1]: line[2:] for line in pane.sheet.lines()}
    assert lines["Steps"] == ("10", "40") and "Normalisation" not in lines
    pane.sheet.all_button.click()
    assert "Normalisation" in {line[1] for line in pane.sheet.lines()}
    qtbot.mouseClick(pane.sheet.match_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "of random directions" in pane.sheet.told.text(), timeout=60_000)
    assert "of 96 features" in pane.sheet.told.text() or "of 128 features" in pane.sheet.told.text()
    qtbot.waitUntil(lambda: not pane.session.busy, timeout=20_000)
    assert pane.session.artefacts("result")


def test_that_the_doctors_verdict_is_a_column_with_its_sentence(pane: Training, qtbot: QtBot) -> None:
    project = pane.session.project
    assert project is not None
    (dictionary,) = pane.session.artefacts("dictionary")
    at = [column.field for column in COLUMNS].index("verdict")
    assert pane.table.isColumnHidden(at)
    sentence = "Read as ReLU it reconstructs nothing; as TopK its FVU is 0.12."
    path = project.new_path("dictionary", "brought <b>in</b>")
    shutil.copytree(dictionary.path, path)
    project.add("dictionary", "brought <b>in</b>", path, digest="ab" * 32, meta={
        "hook": "blocks.1.resid_post", "features": 128, "arch": "topk", "imported": "layer_1", "kl": 0.01,
        "ce_increase": 0.02, "fvu_linear": 0.5, "doctor": {"verdict": "another", "sentence": sentence, "table": [
            {"reading": "relu", "meaning": "plain ReLU", "fvu": 0.1, "low": 0.05, "high": 0.2, "l0": 70.0},
            {"reading": "as read", "meaning": "as read", "fvu": 0.345, "low": 0.3, "high": 0.4, "l0": 8.0}, 5]},
    })  # fmt: skip
    pane.session.refresh()
    assert not pane.table.isColumnHidden(at)
    cell = pane.table.model().index(0, at)
    assert cell.data() == "another" and sentence in cell.data(Qt.ItemDataRole.ToolTipRole)
    assert cell.data(Qt.ItemDataRole.ForegroundRole) == theme.color("warn")
    assert pane.table.model().index(1, at).data() == "–"
    pane.table.selectRow(0)
    qtbot.waitUntil(lambda: bool(pane.sheet._held), timeout=10_000)
    assert ("Dictionary", "Doctor", f"Another: {sentence}") in pane.sheet.lines()
    assert ("What the doctor tried", "plain ReLU", "FVU 0.100 [0.0500, 0.200], L0 70.0") in pane.sheet.lines()
    assert pane.table.model().index(0, [column.field for column in COLUMNS].index("fvu")).data() == "0.345"
    verdict = {"verdict": "as read", "sentence": "It is.", "store": "small", "rows": 2048, "table": [],
               "when": "2026-03-04T05:06:07+00:00"}  # fmt: skip
    brought = pane.session.find("brought <b>in</b>")
    project.note(brought, doctor=verdict, doctor_before=[{**brought.meta["doctor"], "store": "other", "rows": 512}])
    pane.session.refresh()
    lines = pane.sheet.lines()
    assert ("Dictionary", "Doctor", "As read: It is.") in lines
    (looked,) = (line[2] for line in lines if line[1] == "Doctor looked at")
    assert looked.startswith(f"small, {numbers.count(2048)} rows, 04 Mar")
    assert ("Dictionary", "Earlier verdict 1", "another, other, 512 rows") in lines
    pane.table.sort([column.field for column in COLUMNS].index("kl"), Qt.SortOrder.DescendingOrder)
    assert pane.table.order.tolist() == [0, 1]


def test_that_a_training_that_waits_for_room_says_so_and_can_be_stopped(
    pane: Training, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.store.disk import Disk
    from auditor.store.room import UntilRoom

    monkeypatch.setattr("auditor.store.room._LOOK_S", 0.02)

    def work(reporter: Reporter) -> dict[str, Any]:
        def full() -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        room = UntilRoom(tmp_path, reporter, 40, "steps")
        room.done = 20
        Disk(tmp_path / "d.sae", lambda: "step 10 is kept", room).surely(full, 1 << 60)
        return {}

    live = pane.session.run("Train topk 64", work)
    qtbot.waitUntil(lambda: pane.strip._state.text() == "waits for room on the disk", timeout=10_000)
    assert not pane.strip._left.text()
    told = pane.strip.warnings.text()
    assert "The disk is full: “d.sae” needs 1152921504.6 GB" in told and f"free in {tmp_path}" in told
    assert "step 10 is kept" in told and "goes on by itself" in told and "step 20 of 40" in pane.strip._far.text()
    pane.strip.stop.click()
    qtbot.waitUntil(lambda: live.outcome == "cancelled", timeout=5_000)


def test_that_the_doctor_is_called_from_the_table_of_finished_dictionaries(pane: Training, qtbot: QtBot) -> None:
    opened, verb = list[str](), Verb(pane.session)
    qtbot.addWidget(verb)
    pane.session.pane_of = lambda name: opened.append(name) or verb
    pane.table.selectRow(0)
    assert pane.finished.doctor_button.isEnabled() and "doctor" in pane.finished.doctor_button.toolTip()
    pane.finished.doctor_button.click()
    assert opened == ["verb"]


def test_that_one_click_leads_from_a_dictionary_to_its_features(pane: Training, qtbot: QtBot) -> None:
    (index,) = pane.session.artefacts("index")
    opened: list[str] = []
    pane.session.pane_wanted.connect(lambda name: opened.append(name) if name == "features" else None)
    link = [column.field for column in COLUMNS].index("step")
    cell = pane.table.model().index(0, link)
    assert cell.data() == "Features"
    qtbot.mouseClick(pane.table.viewport(), Qt.MouseButton.LeftButton, pos=pane.table.visualRect(cell).center())
    assert opened == ["features"] and pane.session.artefact == index.id
    live = start(pane, steps=5)
    qtbot.waitUntil(lambda: live.outcome == "done", timeout=120_000)
    qtbot.waitUntil(lambda: not pane.session.busy, timeout=20_000)
    assert pane.table.model().index(0, link).data() == "Index"
    pane.planner.index_button.click()
    assert pane.table.model().index(0, link).data() == "indexing…"
    qtbot.waitUntil(lambda: len(pane.session.artefacts("index")) == 2, timeout=120_000)
    qtbot.waitUntil(lambda: not pane.session.busy, timeout=20_000)
    assert opened == ["features", "features"]
    made = pane.session.artefacts("index")[-1]
    assert pane.session.artefact == made.id and made.meta["dictionary"] == pane.session.artefacts("dictionary")[-1].id
    assert pane.table.model().index(0, link).data() == "Features"


def test_that_what_a_training_took_stands_beside_what_was_planned(pane: Training, qtbot: QtBot) -> None:
    live = start(pane, steps=5)
    qtbot.waitUntil(lambda: live.outcome == "done", timeout=120_000)
    qtbot.waitUntil(lambda: not pane.session.busy, timeout=20_000)
    meta = pane.session.artefacts("dictionary")[-1].meta
    assert meta["took_minutes"] > 0 and meta["planned_minutes"] > 0
    assert pane.planner.figures.text("time").endswith("planned")


def test_that_the_sheet_tells_the_settings_that_did_something(pane: Training) -> None:
    told = dict(described({**TrainConfig(store="s").model_dump(), "start_from": ""}))
    assert told["Active features"] == "32" and not {"Context", "Shuffle buffer", "Adapter"} & set(told)
    told = dict(described(TrainConfig(model="m", samples="s").model_dump()))
    assert told["Context"] == "256"
    artefact = pane.session.artefacts("dictionary")[-1]
    lines = {line[:2]: line[2] for line in lines_of(artefact, read_kept(artefact.path))}
    assert ("Settings", "Steps") in lines and ("Settings", "Start from") not in lines


def test_that_memory_that_other_work_was_in_is_said_to_be_so(pane: Training, qtbot: QtBot) -> None:
    with memory.measured(torch.device("cpu")):
        live = start(pane, steps=5, seed=3)
        qtbot.waitUntil(lambda: live.outcome == "done", timeout=120_000)
    qtbot.waitUntil(lambda: not pane.session.busy, timeout=20_000)
    artefact = pane.session.artefacts("dictionary")[-1]
    assert artefact.meta["took_memory_shared"] == 1
    lines = {line[:2]: line[2] for line in lines_of(artefact, read_kept(artefact.path))}
    assert "together with other work of this program, planned" in lines["Training", "Memory"]


def test_that_every_figure_shows_its_interval_and_its_n(pane: Training, qtbot: QtBot) -> None:
    live = start(pane, steps=5, seed=4)
    qtbot.waitUntil(lambda: live.outcome == "done", timeout=120_000)
    qtbot.waitUntil(lambda: not pane.session.busy, timeout=20_000)
    artefact = pane.session.artefacts("dictionary")[-1]
    pca = {"ce": 3.0, "kl": 0.7, "intervals": {"kl": [0.5, 0.9]}}
    loss = {"kl": 0.2, "n": 900, "n_samples": 6, "intervals": {"kl": [0.1, 0.3]}, "baselines": {"pca": pca}}
    lines = {line[:2]: line[2] for line in lines_of(artefact, replace(read_kept(artefact.path), loss=loss))}
    assert lines["In the model", "KL"] == "0.200 [0.100, 0.300] nats a token, n 900"
    assert lines["In the model", "Measured on"] == "900 tokens of 6 samples"
    for name in (("Figures", "FVU"), ("Figures", "L0"), ("Baselines", "FVU of PCA"), ("In the model", "KL of PCA")):
        assert re.fullmatch(r".+ \[.+, .+\].*, n \d.*", lines[name]), lines[name]
    assert re.fullmatch(r"\d+ rows of \d+ samples, which .*", lines["Figures", "Measured on"])
    model = pane.table.model()
    for name in ("fvu", "l0", "dead", "fvu_pca", "fvu_neurons"):
        column = next(at for at, each in enumerate(COLUMNS) if each.field == name)
        tip = model.index(0, column).data(Qt.ItemDataRole.ToolTipRole)
        assert re.search(r"95 % interval .+ to .+, n \d+ (rows|tokens)", tip), tip


def test_that_files_that_say_nonsense_of_themselves_leave_the_pane_standing(pane: Training, qtbot: QtBot) -> None:
    (dictionary,) = pane.session.artefacts("dictionary")
    file = dictionary.path / "cfg.json"
    whole = json.loads(file.read_text("utf-8"))
    for nonsense in ({"curve": 5, "density": {"log10": [1], "counts": ["x"]}, "mishaps": [{"step": "a"}, 3]},
                     {"quality": {"intervals": [1], "by_kind": {"text": 4}}, "spliced": [{"kl": 1}], "train": []},
                     None, []):  # fmt: skip
        whole["metadata"]["auditor"] = nonsense
        file.write_text(json.dumps(whole), "utf-8")
        pane._kept.clear()
        pane.session.refresh()
        pane.table.selectRow(0)
        qtbot.waitUntil(lambda: not pane.session.reading, timeout=10_000)
        assert pane.state == "ready" and len(pane.sheet._held) == 1


def test_that_a_run_is_pictured_while_it_goes_on(qapp: object, indexed_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(indexed_folder, tmp_path / "p")
    settings = {**SMALL, "steps": 80, "metrics_every": 2}
    taken = take_training(tmp_path / "p", tmp_path / "pictures", settings, at=0.2, themes=("light",))
    assert [path.name for path in taken] == ["training-light.png", "trained-light.png"]
    assert all(QImage(str(path)).width() == 1280 for path in taken)
    with pytest.raises(AuditorError, match="settings already"):
        take_training(tmp_path / "p", tmp_path / "pictures", settings, themes=())


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
