"""The page that composes edits, over a real small model: a list with undo, forms, and a run in the background."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from auditor.analysis.editing import KINDS
from auditor.ui.panes.examples import Examples
from auditor.ui.panes.examples.edits import EditsPage
from auditor.ui.panes.examples.sweep import SweepCard
from auditor.ui.panes.examples.trial import tokens_card
from auditor.ui.session import Session
from auditor.ui.widgets.plain_text import PlainLabel
from tests.ui.panes.conftest import TEXTS

Take = Callable[[Session], None]


@pytest.fixture
def page(qtbot: QtBot, indexed: Session, take_commands: Take) -> EditsPage:
    take_commands(indexed)
    pane = Examples(indexed)
    indexed.pane_of = lambda _: pane
    qtbot.addWidget(pane)
    pane.resize(490, 900)
    pane.show()
    assert pane.state == "empty"  # no feature is needed
    indexed.commands.run("experiment.edits")
    assert pane.state == "ready" and pane._pages.currentWidget() is pane.edits
    qtbot.waitUntil(lambda: pane.edits.settings is not None, timeout=20_000)
    page = pane.edits
    page.pane = pane  # type: ignore[attr-defined]
    return page


def shown(page: EditsPage) -> list[str]:
    return [page.list.item(row).text() for row in range(page.list.count())]


def test_that_each_kind_can_be_added_and_says_what_it_does(page: EditsPage) -> None:
    for kind in KINDS.names():
        page.add(kind)
        assert page.form is not None and page.form.kind is KINDS.get(kind)
    assert len(shown(page)) == len(KINDS.names())
    assert shown(page)[0].startswith("1. Puts zero in the place of")
    assert any("Weight" in text and "missing" in text for text in shown(page))  # told in the list, not refused


def test_that_edits_are_changed_moved_switched_and_removed_with_undo(page: EditsPage) -> None:
    undo = page._session.undo
    page.add("scale")
    page.add("freeze")
    page.list.setCurrentRow(0)
    assert page.form is not None
    hook = page.entries[0].values["hook"]
    page.form.set("factor", "0")
    page.form.set("at", "last")
    assert shown(page)[0] == f"1. Multiplies {hook} at the last position by 0."
    page.shift(1)
    assert [entry.kind for entry in page.entries] == ["freeze", "scale"] and page.list.currentRow() == 1
    page.list.item(0).setCheckState(Qt.CheckState.Unchecked)
    assert page.lines() == (f"scale {hook} at=last factor=0",)
    page.list.setCurrentRow(0)
    page.remove()
    assert [entry.kind for entry in page.entries] == ["scale"]
    after = page.entries
    undo.undo()
    undo.undo()
    assert [entry.on for entry in page.entries] == [True, True]
    undo.undo()
    undo.undo()  # what was typed in one form is one step
    assert shown(page)[0] == f"1. Multiplies {hook} by 0.5." and page.form is not None
    assert page.form.values()["factor"] == "0.5"
    while undo.canUndo():
        undo.undo()
    assert page.entries == () and page.form is None
    while undo.canRedo():
        undo.redo()
    assert page.entries == after


def test_that_a_hook_point_is_picked_from_those_of_the_model(page: EditsPage) -> None:
    page.add("ablate")
    assert page.form is not None
    box = page.form._fields["hook"].editor
    box.showPopup()  # type: ignore[attr-defined]
    names = [box.itemText(at) for at in range(box.count())]  # type: ignore[attr-defined]
    box.hidePopup()  # type: ignore[attr-defined]
    assert {"blocks.1.resid_post", "blocks.0.z"} <= set(names)


def test_that_the_list_runs_in_the_background_and_shows_tokens_beside_controls(
    page: EditsPage, qtbot: QtBot, tmp_path: Path
) -> None:
    project = page._session.project
    assert project is not None and page.settings is not None
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(TEXTS))
    project.add("samples", "texts", texts)
    page._session.refresh()
    for name, value in (("samples", "texts"), ("n", 3), ("n_random", 5)):
        page.settings.set(name, value)
    page.add("ablate", hook="blocks.1.z", head="3", mode="mean")
    page.add("weight")
    page.list.item(1).setCheckState(Qt.CheckState.Unchecked)  # what is not complete does not stand in the way
    page.trial.start()
    qtbot.waitUntil(lambda: page.trial.live is not None and not page.trial.live.live, timeout=120_000)
    assert page.trial.live is not None and page.trial.live.outcome == "done", page.trial.told.text()
    told = [label.text() for label in page.findChildren(PlainLabel)]
    assert "Next-token probabilities" in told and any("5 controls of equal size" in text for text in told)
    assert "3 samples" in told
    offer = next(b for b in page.findChildren(QPushButton) if b.text() == "Add to case")
    with qtbot.waitSignal(page._session.evidence_offered, timeout=20_000) as signal:
        offer.click()
    evidence = signal.args[0]
    assert evidence["recipe"].config["edit"] == ["ablate blocks.1.z head=3 mean"]
    assert "head 3 of blocks.1.z" in evidence["note"] and len(evidence["table"].rows) == 12


def test_that_all_is_written_as_a_word_and_several_are_planned_and_shown_as_a_map_and_a_table(
    page: EditsPage, qtbot: QtBot
) -> None:
    assert page.settings is not None
    for name, value in (("prompt", "The capital of France is"), ("n_random", 5)):
        page.settings.set(name, value)
    page.add("ablate", hook="blocks.*.z")
    assert page.form is not None and page.form.values()["head"] == "all"
    page.form.set("head", "-1")
    assert page.lines() == ("ablate 'blocks.*.z'",)
    page.form.set("head", "*")
    assert shown(page) == ["1. Puts zero in the place of each head of blocks.*.z."]
    assert page.trial.plan_button.isVisible()

    def run(act: Callable[[], None]) -> None:
        act()
        qtbot.waitUntil(lambda: page.trial.live is not None and not page.trial.live.live, timeout=120_000)
        assert page.trial.live is not None and page.trial.live.outcome == "done", page.trial.told.text()

    run(page.trial.plan)
    told = [label.text() for label in page.findChildren(PlainLabel)]
    assert any(text.startswith("18 edits on 1 sample,") and "108 runs" in text for text in told)
    run(page.trial.start)
    qtbot.waitUntil(lambda: bool(page.findChildren(SweepCard)), timeout=20_000)
    card = page.findChildren(SweepCard)[0]
    assert any("5 controls of equal size" in label.text() for label in page.findChildren(PlainLabel))
    assert card.map.rows == ["blocks.0.z", "blocks.1.z"] and card.map.values.shape == (2, 9)
    assert card.told.text().startswith("Largest: head ")
    card.map.choose(1, 4)
    assert card.told.text().startswith("head 4 of blocks.1.z: ") and "controls" in card.told.text()
    assert card.table.selected == 13
    card.table.selectRow(0)
    assert card.told.text().startswith("head ")
    page.form.set("head", "3")
    assert page.trial.plan_button.isVisible()  # of every block
    page.form.set("hook", "blocks.1.z")
    assert not page.trial.plan_button.isVisible()


def test_that_what_a_sweep_measured_before_it_was_stopped_is_shown(
    page: EditsPage, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.analysis.editing import sweep

    own, told = sweep.edited, list[int]()

    def stopped(*given):  # type: ignore[no-untyped-def]
        told.append(1)
        while page.trial.live is None:
            time.sleep(0.001)
        if len(told) == 6:  # four of the plan, and the second of three edits
            page.trial.live.job.cancel()
        return own(*given)

    monkeypatch.setattr(sweep, "edited", stopped)
    monkeypatch.setattr(sweep, "MOST_TOKENS", 36)
    assert page.settings is not None
    for name, value in (("prompt", "The capital of France is"), ("n_random", 5)):
        page.settings.set(name, value)
    page.add("ablate", hook="blocks.1.z", head="0:3")
    page.trial.start()
    qtbot.waitUntil(lambda: page.trial.live is not None and not page.trial.live.live, timeout=120_000)
    assert page.trial.live is not None and page.trial.live.outcome == "cancelled", page.trial.told.text()
    assert page.trial.told.text() == "Stopped. Kept as “edits”: 2 of 3 edits. The same settings go on from there."
    qtbot.waitUntil(lambda: bool(page.findChildren(SweepCard)), timeout=20_000)
    assert page.findChildren(SweepCard)[0].map.values.shape == (1, 2)


def test_that_an_edit_that_is_not_complete_is_told_at_the_start(page: EditsPage) -> None:
    page.add("weight")
    heard: list[str] = []
    page._session.message.connect(lambda *parts: heard.append(" ".join(parts)))
    page.trial.start()
    assert page.trial.live is None and any("Weight" in text for text in heard)


def test_that_a_list_is_saved_and_opened_again(page: EditsPage, qtbot: QtBot, tmp_path: Path) -> None:
    page.add("scale", factor="3")
    page.add("freeze")
    page.save(str(tmp_path / "list.json"))
    before = page.lines()
    page.remove()
    page.load(str(tmp_path / "list.json"))
    qtbot.waitUntil(lambda: len(page.entries) == 2, timeout=10_000)
    assert page.lines() == before
    (tmp_path / "bad.toml").write_text("[[edit]")
    page.load(str(tmp_path / "bad.toml"))
    qtbot.waitUntil(lambda: "not sound TOML" in page.trial.told.text(), timeout=10_000)
    assert page.lines() == before


def test_that_leaving_goes_back_to_where_one_was(page: EditsPage) -> None:
    pane = page.pane  # type: ignore[attr-defined]
    page.closed.emit()
    assert pane.state == "empty" and pane._pages.currentIndex() == 0
    page._session.commands.run("experiment.edits")
    assert pane.state == "ready"


def test_that_classes_are_shown_as_such(qtbot: QtBot) -> None:
    row = {"before": 0.3, "after": 0.1, "change": -0.2, "low": -0.3, "high": -0.1, "control low": None}
    for of, title in (("class", "Probabilities of classes"), ("token", "Next-token probabilities")):
        card = tokens_card([{of: "tabby cat", **row}])
        qtbot.addWidget(card)
        told = [label.text() for label in card.findChildren(PlainLabel)]
        assert {title, of, "tabby cat"} <= set(told) and "None" not in told
        assert any(text.startswith("At the last position") for text in told) == (of == "token")
