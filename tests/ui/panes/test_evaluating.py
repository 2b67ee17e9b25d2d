"""Evaluating dictionaries in the training pane: measures are ticked, run in the background and laid side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from auditor.analysis.evaluation.absorption import Absorption
from auditor.analysis.evaluation.figures import Figure
from auditor.base.errors import AuditorError, Stop
from auditor.ui import theme
from auditor.ui.panes.training import Training
from auditor.ui.session import Session

Take = Callable[[Session], None]
SIZE = (1026, 594)


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


@pytest.fixture
def offered(pane: Training, qtbot: QtBot) -> Training:
    """The pane with its dictionary chosen and the measures shown."""
    pane.table.selectRow(0)
    qtbot.mouseClick(pane.finished.evaluate_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: pane.evaluating.start_button.isEnabled(), timeout=10_000)
    return pane


def figure(dictionary: str, name: str, of: str, estimate: float) -> dict[str, object]:
    return {
        "dictionary": dictionary, "measure": "probing", "name": name, "of": of, "estimate": estimate,
        "low": estimate - 0.1, "high": estimate + 0.1, "n": 1200, "unit": "samples", "seeds": 5, "spread": 0.0123,
    }  # fmt: skip


def test_that_absorption_is_measured_in_the_background_and_becomes_evidence(offered: Training, qtbot: QtBot) -> None:
    page = offered.evaluating
    assert page.isVisible() and page._title.text() == "topk-128" and page.form is not None
    assert not page.form.shown("threshold") and not page.form.shown("dictionaries")
    for name, check in page.checks.items():
        check.setChecked(name == "absorption")
    page.form.set_all({"words": 1200, "splits": 2})
    qtbot.mouseClick(page.start_button, Qt.MouseButton.LeftButton)
    live = offered.session.jobs[-1]
    assert live.title == "Evaluate topk-128" and not page.start_button.isEnabled()
    qtbot.waitUntil(lambda: live.outcome != "", timeout=200_000)
    assert live.outcome == "done", live.message
    qtbot.waitUntil(lambda: page.table is not None and page.table.isVisible(), timeout=10_000)
    assert page.table is not None
    model = page.table.model()
    lines = [[model.index(row, column).data() for column in range(model.columnCount())]
             for row in range(model.rowCount())]  # fmt: skip
    (absorbed,) = [line for line in lines if line[0] == "Absorption: words absorbed" and line[1] == "dictionary"]
    assert "[" in absorbed[2] and "±" in absorbed[2] and absorbed[3].endswith("words")
    assert {line[1] for line in lines} == {"dictionary", "random directions", "dense probe",
                                           "its decoder rows, exchanged"}  # fmt: skip
    qtbot.waitUntil(lambda: not offered.session.busy, timeout=10_000)
    (result,) = offered.session.artefacts("result")
    qtbot.mouseClick(page.pin_button, Qt.MouseButton.LeftButton)
    assert offered.session.artefact == result.id


def test_that_what_is_missing_is_said_and_the_page_is_ready_again(offered: Training, qtbot: QtBot) -> None:
    page, told = offered.evaluating, []
    offered.session.message.connect(lambda level, sentence, hint, trace: told.append(f"{level} {sentence} {hint}"))
    for name, check in page.checks.items():
        check.setChecked(name == "probing")
    qtbot.mouseClick(page.start_button, Qt.MouseButton.LeftButton)
    live = offered.session.jobs[-1]
    qtbot.waitUntil(lambda: live.outcome == "failed", timeout=60_000)
    assert "No label has 2 values with 20 samples" in live.message and "kept as labels" in live.hint
    assert page.told.text().startswith("They were not evaluated") and page.start_button.isEnabled()
    for check in page.checks.values():
        check.setChecked(False)
    qtbot.mouseClick(page.start_button, Qt.MouseButton.LeftButton)
    assert any(line.startswith("bad No measure is chosen") for line in told) and len(offered.session.jobs) == 1
    qtbot.waitUntil(lambda: not offered.session.busy, timeout=10_000)


def test_that_dictionaries_stand_side_by_side_beside_their_baselines(offered: Training) -> None:
    page, name = offered.evaluating, "balanced accuracy, k = 1"
    page.show_figures({
        "figures": [figure("one", name, "dictionary", 0.8), figure("one", name, "raw neurons", 0.6),
                    figure("two", name, "dictionary", 0.75)],
        "notes": [{"note": "<b>noted</b>"}], "artefacts": ["abc"],
    })  # fmt: skip
    assert page.table is not None and page.table.isVisible()
    model = page.table.model()
    heads = [model.headerData(at, Qt.Orientation.Horizontal) for at in range(model.columnCount())]
    assert heads == ["figure", "of", "one", "two", "n"]
    first, second = ([model.index(row, at).data() for at in range(5)] for row in range(2))
    assert first == [f"Probing: {name}", "dictionary", "0.800 [0.700, 0.900] ± 0.012",
                     "0.750 [0.650, 0.850] ± 0.012", "1\u202f200 samples"]  # fmt: skip
    assert second[3] == "–" and model.index(1, 1).data(Qt.ItemDataRole.ForegroundRole) == theme.color("muted")
    page.settings_button.click()
    assert not page.table.isVisible()
    page.settings_button.click()
    assert page.table.isVisible()
    offered.session.close_project()
    assert page.table is None and page.pin_button.isHidden() and not page.start_button.isEnabled()


@pytest.mark.parametrize(
    ("error", "outcome", "said"),
    [(Stop(), "cancelled", "Stopped."), (ValueError("x"), "failed", "Broken off; the reason is said below.")],
)
def test_that_what_was_measured_before_an_end_is_shown_with_what_is_missing(
    offered: Training, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: str, said: str
) -> None:
    measured = Figure("absorption", "words absorbed", "dictionary", 0.1, (0.0, 0.2), 99, "words", 2, 0.01, False)
    monkeypatch.setattr(
        "auditor.analysis.evaluation.absorption.absorption", lambda *_, **__: Absorption([measured], "ab", [])
    )

    def ended(*_: object) -> None:
        raise error

    monkeypatch.setattr("auditor.analysis.evaluation.entities.Asked", ended)
    page = offered.evaluating
    for name, check in page.checks.items():
        check.setChecked(name in ("absorption", "ravel"))
    assert page.form is not None
    page.form.set_all({"words": 500, "splits": 2})
    qtbot.mouseClick(page.start_button, Qt.MouseButton.LeftButton)
    live = offered.session.jobs[-1]
    qtbot.waitUntil(lambda: live.outcome == outcome, timeout=60_000)
    assert page.table is not None and page.table.isVisible() and not page.pin_button.isHidden()
    assert page.told.text() == (
        f"{said} Kept, but not all was measured; the notes say why. Missing: RAVEL of topk-128."
    )
    qtbot.waitUntil(lambda: not offered.session.busy, timeout=10_000)
    (result,) = offered.session.artefacts("result")
    assert result.name == "absorption of topk-128, unfinished" and page._result == result.id


def test_that_what_was_measured_is_kept_when_the_project_is_closed_and_shown_in_no_other(
    offered: Training, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, asked, closed = offered.session, threading.Event(), threading.Event()
    measured = Figure("absorption", "words absorbed", "dictionary", 0.1, (0.0, 0.2), 99, "words", 2, 0.01, False)
    monkeypatch.setattr(
        "auditor.analysis.evaluation.absorption.absorption", lambda *_, **__: Absorption([measured], "ab", [])
    )

    def waits(*_: object) -> None:
        asked.set()
        assert closed.wait(60)
        raise Stop

    monkeypatch.setattr("auditor.analysis.evaluation.entities.Asked", waits)
    page = offered.evaluating
    for name, check in page.checks.items():
        check.setChecked(name in ("absorption", "ravel"))
    assert page.form is not None and session.project is not None
    page.form.set_all({"words": 500, "splits": 2})
    qtbot.mouseClick(page.start_button, Qt.MouseButton.LeftButton)
    live, folder = session.jobs[-1], session.project.folder
    qtbot.waitUntil(asked.is_set, timeout=60_000)
    session.close_project()
    with pytest.raises(AuditorError, match="still being closed"):
        session.open_project(folder)
    closed.set()
    qtbot.waitUntil(lambda: live.outcome == "cancelled", timeout=60_000)
    assert page.table is None and page.pin_button.isHidden()
    session.open_project(folder)
    (result,) = session.artefacts("result")
    assert result.name == "absorption of topk-128, unfinished" and session.has("writable")
    qtbot.waitUntil(lambda: not session.busy, timeout=10_000)


def test_that_a_stopped_evaluation_leaves_nothing(offered: Training, qtbot: QtBot) -> None:
    page = offered.evaluating
    for name, check in page.checks.items():
        check.setChecked(name == "absorption")
    assert page.form is not None
    page.form.set("words", 50_000)
    qtbot.mouseClick(page.start_button, Qt.MouseButton.LeftButton)
    live = offered.session.jobs[-1]
    qtbot.waitUntil(lambda: live.done_units > 0, timeout=30_000)
    live.stop()
    qtbot.waitUntil(lambda: live.outcome == "cancelled", timeout=20_000)
    assert page.told.text() == "Stopped." and page.start_button.isEnabled()
    assert not offered.session.artefacts("result")
    qtbot.waitUntil(lambda: not offered.session.busy, timeout=10_000)
