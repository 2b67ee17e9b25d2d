"""What panes share: selection and its history, reads off the GUI thread, jobs, words to the person."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QThread
from pytestqt.qtbot import QtBot

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.ui.session import Session


def test_that_a_selection_arrives_everywhere_and_back_and_forward_work(session: Session) -> None:
    heard: list[tuple[str, int]] = []
    session.feature_selected.connect(lambda dictionary, feature: heard.append((dictionary, feature)))
    session.select_feature("d1", 1412)
    session.select_feature("d1", 977)
    session.set_prompt("The capital of France is")
    session.back()
    session.back()
    assert session.feature == ("d1", 1412)
    assert not session.can_go_back
    session.forward()
    assert heard == [("d1", 1412), ("d1", 977), ("d1", 977), ("d1", 1412), ("d1", 977)]
    session.select_feature("d2", 3)
    assert not session.can_go_forward


def test_that_a_read_computes_elsewhere_and_arrives_here(session: Session, qtbot: QtBot) -> None:
    here = threading.get_ident()
    found: list[tuple[int, int]] = []
    session.read("where", threading.get_ident, lambda there: found.append((there, threading.get_ident())))
    qtbot.waitUntil(lambda: bool(found), timeout=3000)
    assert found[0][0] != here
    assert found[0][1] == here


def test_that_of_one_key_only_the_newest_read_arrives(session: Session, qtbot: QtBot) -> None:
    gate = threading.Event()
    found: list[int] = []
    other: list[str] = []

    def slow(value: int) -> int:
        gate.wait(3)
        return value

    for value in range(5):
        session.read("card", lambda value=value: slow(value), found.append)
    session.read("list", lambda: "list", other.append)
    gate.set()
    qtbot.waitUntil(lambda: bool(found and other), timeout=3000)
    qtbot.waitUntil(lambda: not session.busy, timeout=3000)
    assert found == [4]
    assert other == ["list"]


def test_that_what_is_measured_arrives_though_it_tells_how_far_it_is(session: Session, qtbot: QtBot) -> None:
    arrived: list[object] = []

    def measure(reporter: Reporter) -> int:
        reporter.started("Count the tokens", 3, "texts")
        for number in range(3):
            reporter.step(number + 1, 3)
            a_while()
        return 7

    def fail(reporter: Reporter) -> int:
        reporter.started("Count the tokens", 3, "texts")
        raise AuditorError("It is gone.", "Look elsewhere.")

    session.measure("number", measure, arrived.append, arrived.append)
    qtbot.waitUntil(lambda: arrived == [7], timeout=5_000)
    session.measure("number", fail, arrived.append, arrived.append)
    qtbot.waitUntil(lambda: len(arrived) == 2, timeout=5_000)
    assert isinstance(arrived[1], AuditorError) and not session.reading


def a_while() -> None:
    time.sleep(0.05)  # longer than the bridge's tick


def test_that_a_failed_read_is_told_as_sentence_and_hint(session: Session, qtbot: QtBot) -> None:
    told: list[tuple[str, ...]] = []
    session.message.connect(lambda *words: told.append(words))

    def fail() -> None:
        raise AuditorError("The index is cut off.", "Build it again.")

    session.read("broken", fail, told.append)
    qtbot.waitUntil(lambda: bool(told), timeout=3000)
    assert told == [("bad", "The index is cut off.", "Build it again.", "")]


def test_that_a_bug_keeps_its_trace(session: Session, qtbot: QtBot) -> None:
    told: list[tuple[str, ...]] = []
    session.message.connect(lambda *words: told.append(words))
    session.read("bug", lambda: 1 // 0, told.append)
    qtbot.waitUntil(lambda: bool(told), timeout=3000)
    assert "ZeroDivisionError" in told[0][1]
    assert "Traceback" in told[0][3]


def test_that_thirty_thousand_steps_become_few_changes_and_no_figure_is_lost(session: Session, qtbot: QtBot) -> None:
    changes: list[None] = []

    def work(reporter: Reporter) -> dict[str, Any]:
        reporter.started("train", 30_000, "steps")
        for step in range(30_000):
            reporter.step(step + 1, 30_000)
            if step % 100 == 0:
                reporter.metric(step, fvu=1 / (1 + step))
        return {"fvu": 0.1}

    live = session.run("Train", work)
    live.changed.connect(lambda: changes.append(None))
    with qtbot.waitSignal(live.done, timeout=20_000) as done:
        pass
    assert done.args == [{"fvu": 0.1}]
    assert live.state == "done"
    assert live.done_units == live.total == 30_000
    assert len(live.metrics["fvu"][0]) == 300
    assert 0 < len(changes) < 600


def test_that_a_job_says_that_it_opens_a_model_until_it_goes_on(session: Session, qtbot: QtBot) -> None:
    seen, go = list[str](), threading.Event()

    def work(reporter: Reporter) -> dict[str, object]:
        reporter.partial("opens", model="clip", place="/m/clip", message="Opening the model “clip” from /m/clip…")
        go.wait(20)
        reporter.step(1, 4)
        return {}

    live = session.run("Test", work)
    live.changed.connect(lambda: seen.append(live.note))
    qtbot.waitUntil(lambda: live.note == "Opening the model “clip” from /m/clip…", timeout=20_000)
    go.set()
    qtbot.waitUntil(lambda: live.outcome == "done", timeout=20_000)
    assert live.note == "" and seen[-1] == ""


def test_that_a_job_pauses_resumes_and_stops_within_a_tenth_of_a_second(session: Session, qtbot: QtBot) -> None:
    def work(reporter: Reporter) -> None:
        while True:
            reporter.step(1, 10)
            QThread.msleep(1)

    took = []
    while not took or (min(took) >= 0.1 and len(took) < 5):  # other work may hold one of them up
        live = session.run("Endless", work)
        qtbot.waitUntil(lambda job=live: job.state == "running" and job.done_units == 1, timeout=10_000)
        live.pause()
        assert live.state == "paused"
        live.resume()
        assert live.state == "running"
        began = time.monotonic()
        with qtbot.waitSignal(live.ended, timeout=10_000):
            live.stop()
        took.append(time.monotonic() - began)
        assert live.state == "cancelled"
    assert min(took) < 0.1


def test_that_the_timer_sleeps_when_nothing_is_under_way(session: Session, qtbot: QtBot) -> None:
    session.read("once", lambda: 1, lambda _: None)
    assert session._bridge._timer.isActive()
    qtbot.waitUntil(lambda: not session.busy, timeout=3000)
    qtbot.waitUntil(lambda: not session._bridge._timer.isActive(), timeout=3000)


def test_that_needs_follow_the_project_and_the_selection(session: Session, tmp_path: Path) -> None:
    assert session.has("") and not session.has("project") and not session.has("store")
    session.create_project(tmp_path / "p")
    assert session.has("writable")
    assert session.project is not None
    path = session.project.new_path("store", "rows")
    path.write_bytes(b"rows")
    session.project.add("store", "rows", path)
    session.refresh()
    assert session.has("store") and not session.has("feature")
    session.select_feature("d", 1)
    assert session.has("feature")
    session.close_project()
    assert not session.has("feature") and not session.has("project")


def test_that_a_verb_needs_a_project(session: Session) -> None:
    from auditor.base.config import Config

    with pytest.raises(AuditorError, match="No project is open"):
        session.run_task("train", Config())


def test_that_a_project_held_by_another_program_opens_for_reading(session: Session, tmp_path: Path) -> None:
    told: list[tuple[str, ...]] = []
    session.create_project(tmp_path / "p")
    other = Session()
    other.message.connect(lambda *words: told.append(words))
    other.open_project(tmp_path / "p")
    assert other.has("project") and not other.has("writable")
    assert told[0][0] == "warn"
    other.close()
    other.deleteLater()
