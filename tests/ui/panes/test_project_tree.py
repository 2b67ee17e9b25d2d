"""The project tree: artefacts are offered to the case from their card, and what is unfinished goes on or is removed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtWidgets import QApplication, QLabel, QPushButton, QTreeWidgetItem
from pytestqt.qtbot import QtBot

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.ui.panes.project_tree import ProjectTree
from auditor.ui.panes.project_tree.unfinished import Leftovers
from auditor.ui.session import Session


def pins(pane: ProjectTree) -> list[QPushButton]:
    return [found for found in pane.findChildren(QPushButton) if found.text() == "Add to case"]


def test_that_a_store_and_a_dictionary_go_to_the_case_from_their_card(qtbot: QtBot, indexed: Session) -> None:
    pane = ProjectTree(indexed)
    qtbot.addWidget(pane)
    pane.show()
    for kind, evidence in (("store", "other"), ("dictionary", "reconstruction")):
        indexed.select_artefact(indexed.artefacts(kind)[-1].id)
        with qtbot.waitSignal(indexed.evidence_offered, timeout=20_000) as told:
            pins(pane)[-1].click()
        assert told.args[0]["kind"] == evidence and told.args[0]["inputs"]
    indexed.select_artefact(indexed.artefacts("model")[-1].id)
    qtbot.waitUntil(lambda: not pins(pane))


def test_that_figures_of_a_card_are_written_as_everywhere(qtbot: QtBot, indexed: Session) -> None:
    store, project = indexed.artefacts("store")[-1], indexed.project
    assert project is not None
    project.note(store, fvu=0.14267790222789967, rows=12, held={"a": 1})
    indexed.refresh()
    pane = ProjectTree(indexed)
    qtbot.addWidget(pane)
    pane.show()
    indexed.select_artefact(store.id)
    qtbot.waitUntil(lambda: bool(pins(pane)))
    told = {label.text() for label in pane.findChildren(QLabel)}
    assert {"0.143", "12", '{"a": 1}'} <= told


@pytest.fixture
def left(project_session: Session) -> Path:
    """What a stopped test of edits left in the session's project."""
    project = project_session.project
    assert project is not None
    (project.folder / "notes.txt").write_text("one")
    project.add("samples", "notes", project.folder / "notes.txt")
    run = project.catalogue.begin_run("experiment", {}, {})
    place = project.keyed_path("result", "edits", "ab12cd34").with_suffix(".unfinished")
    project.catalogue.begin_at(run, place, {"edit": ["freeze"]})
    project.catalogue.end_run(run, "cancelled", {}, [], "stopped by the person")
    place.write_bytes(b'{"values": 4}\n[0.5, 1.5]\n')
    project_session.refresh()
    return place


def branch(pane: ProjectTree) -> list[QTreeWidgetItem]:
    """The lines under “Unfinished”."""
    tops = [pane.tree.topLevelItem(at) for at in range(pane.tree.topLevelItemCount())]
    return [top.child(at) for top in tops if top and top.text(0) == "Unfinished" for at in range(top.childCount())]


def buttons(pane: ProjectTree) -> dict[str, QPushButton]:
    """The buttons in view by what they say."""
    QApplication.processEvents()  # a layout shows what was put into it a moment later
    return {held.text(): held for held in pane.findChildren(QPushButton) if held.isVisible()}


@pytest.fixture
def tree(qtbot: QtBot, left: Path, project_session: Session) -> ProjectTree:
    """The pane with the card of what is left."""
    pane = ProjectTree(project_session)
    qtbot.addWidget(pane)
    pane.show()
    qtbot.waitUntil(lambda: len(branch(pane)) == 1, timeout=20_000)
    pane.tree.setCurrentItem(branch(pane)[0])
    return pane


def test_that_what_is_unfinished_is_listed_with_its_card_and_removing_asks_first(
    tree: ProjectTree, left: Path, qtbot: QtBot
) -> None:
    (line,) = branch(tree)
    assert line.text(0) == "edits-ab12cd34" and "2 of 4 runs" in line.toolTip(0)
    tree.session.refresh()  # the card stays
    buttons(tree)["Remove…"].click()
    assert left.exists()
    buttons(tree)["Keep"].click()
    assert left.exists() and buttons(tree)["Go on"].isEnabled()
    buttons(tree)["Remove…"].click()
    buttons(tree)["Remove"].click()
    qtbot.waitUntil(lambda: not branch(tree), timeout=20_000)
    assert not left.exists() and not buttons(tree)


def test_that_work_that_was_broken_off_is_told_of_once_when_its_project_is_opened(
    qtbot: QtBot, project_session: Session, left: Path
) -> None:
    session, told = project_session, list[str]()
    session.message.connect(lambda level, sentence, *_: told.append(f"{level}: {sentence}"))
    project = session.project
    assert project is not None
    with qtbot.waitSignal(Leftovers(session, session).changed, timeout=20_000):
        pass
    assert not told  # the person stopped it
    project.catalogue.end_run(project.runs()[0].id, "failed", {}, [], "the program ended before it did")
    session.close_project()
    session.open_project(project.folder)
    for _ in range(2):
        pane = ProjectTree(session)
        qtbot.addWidget(pane)
        qtbot.waitUntil(lambda pane=pane: bool(pane.leftovers.held), timeout=20_000)  # type: ignore[misc]
    sentence = "“edits-ab12cd34” was broken off. Go on with it from “Unfinished” in the project."
    assert told == [f"warn: {sentence}"]
    pane.show_unfinished()
    texts = [label.text() for label in pane.findChildren(QLabel)]
    assert "Why it ended: the program ended before it did" in texts


def test_that_how_it_was_begun_is_told_in_names_and_plain_words(
    tree: ProjectTree, left: Path, project_session: Session, qtbot: QtBot
) -> None:
    project = project_session.project
    assert project is not None
    (notes,) = project.artefacts("samples")
    settings = {"samples": f"{notes.id}?by=line", "model": "m", "edit": ["freeze"]}
    project.catalogue.begin_at(project.runs()[0].id, left, settings)
    left.write_bytes(b'{"values": 4000}\n' + b"0.5\n" * 1234)
    project_session.refresh()
    qtbot.waitUntil(lambda: "notes?by=line" in {label.text() for label in tree.findChildren(QLabel)}, timeout=20_000)
    texts = [label.text() for label in tree.findChildren(QLabel)]
    assert "m" in texts and '["freeze"]' in texts


def test_that_what_is_unfinished_is_seen_in_a_project_that_holds_nothing_else(
    qtbot: QtBot, project_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, empty = project_session.project, list[str]()
    assert project is not None
    monkeypatch.setattr(ProjectTree, "empty", lambda _, sentence, *__, **___: empty.append(sentence))
    project.keyed_path("result", "edits", "ab12cd34").with_suffix(".unfinished").write_bytes(b"[0.5]\n")
    pane = ProjectTree(project_session)
    qtbot.addWidget(pane)
    pane.show()
    qtbot.waitUntil(lambda: len(branch(pane)) == 1, timeout=20_000)
    pane.show_unfinished()
    assert pane.tree.isVisible() and "Remove…" in buttons(pane)
    empty.clear()
    pane.leftovers.remove(pane.leftovers.held[0])
    qtbot.waitUntil(lambda: "This project holds nothing yet." in empty, timeout=20_000)


def test_that_removing_a_second_one_does_not_drop_the_first(tree: ProjectTree, left: Path, qtbot: QtBot) -> None:
    other = left.with_name("more.unfinished")
    other.write_bytes(b"[0.5]\n")
    tree.session.refresh()
    qtbot.waitUntil(lambda: len(branch(tree)) == 2, timeout=20_000)
    busy = threading.Event()
    tree.session.measure("busy", lambda _: busy.wait(20), lambda _: None)
    for one in list(tree.leftovers.held):
        tree.leftovers.remove(one)
    busy.set()
    qtbot.waitUntil(lambda: not branch(tree), timeout=20_000)
    assert not left.exists() and not other.exists()


def test_that_what_could_not_be_removed_can_be_tried_again(
    tree: ProjectTree, left: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:

        def remove(*_: object) -> int:
            raise AuditorError("“edits” may not be written.")

        patched.setattr("auditor.tasks.unfinished.remove", remove)
        buttons(tree)["Remove…"].click()
        buttons(tree)["Remove"].click()
        qtbot.waitUntil(lambda: not tree.session.busy, timeout=20_000)
    buttons(tree)["Keep"].click()
    buttons(tree)["Remove…"].click()
    buttons(tree)["Remove"].click()
    qtbot.waitUntil(lambda: not left.exists(), timeout=20_000)


def test_that_going_on_is_a_job_and_takes_it_off_the_list(
    tree: ProjectTree, left: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def go_on(project: Any, name: str, reporter: Reporter) -> dict[str, Any]:
        ran.append(name)
        left.unlink()
        return {}

    monkeypatch.setattr("auditor.tasks.unfinished.go_on", go_on)
    buttons(tree)["Go on"].click()
    assert not branch(tree)
    (live,) = tree.session.jobs
    qtbot.waitUntil(lambda: live.outcome == "done", timeout=20_000)
    assert live.title == "Test edits-ab12cd34" and ran == ["edits-ab12cd34"]
    qtbot.waitUntil(lambda: not tree.session.busy, timeout=20_000)
    assert not branch(tree)


def test_that_starting_anew_asks_in_place_and_is_a_job(
    tree: ProjectTree, left: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def start_anew(project: Any, name: str, reporter: Reporter) -> dict[str, Any]:
        ran.append(name)
        left.unlink()
        return {}

    monkeypatch.setattr("auditor.tasks.unfinished.start_anew", start_anew)
    buttons(tree)["Start anew…"].click()
    assert "Go on" not in buttons(tree) and not tree.session.jobs and left.exists()
    buttons(tree)["Keep"].click()
    buttons(tree)["Start anew…"].click()
    buttons(tree)["Start anew"].click()
    (live,) = tree.session.jobs
    qtbot.waitUntil(lambda: live.outcome == "done", timeout=20_000)
    assert live.title == "Test edits-ab12cd34" and ran == ["edits-ab12cd34"]
    qtbot.waitUntil(lambda: not tree.session.busy, timeout=20_000)
    assert not branch(tree)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_that_what_it_became_is_shown_unless_something_else_was_chosen_meanwhile(
    tree: ProjectTree, left: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    session, chosen = tree.session, threading.Event()

    def go_on(project: Any, name: str, reporter: Reporter) -> dict[str, Any]:
        chosen.wait(20)
        made = left.with_suffix(".json")
        left.rename(made)
        return {"artefacts": [project.add("result", "edits", made).id]}

    monkeypatch.setattr("auditor.tasks.unfinished.go_on", go_on)
    buttons(tree)["Go on"].click()
    if elsewhere:
        session.select_artefact(session.artefacts("samples")[0].id)
    chosen.set()
    qtbot.waitUntil(lambda: session.jobs[0].outcome == "done", timeout=20_000)
    kind = "samples" if elsewhere else "result"
    assert session.artefact == session.artefacts(kind)[0].id
    qtbot.waitUntil(lambda: not session.busy, timeout=20_000)


def test_that_what_waits_to_go_on_is_not_offered_again_until_it_is_stopped(
    tree: ProjectTree, left: Path, qtbot: QtBot
) -> None:
    session, busy = tree.session, threading.Event()
    before = session.run("Busy", lambda _: {"went": busy.wait(20)})
    buttons(tree)["Go on"].click()
    waits = session.jobs[-1]
    for _ in range(2):
        tree.leftovers.look()
        qtbot.waitUntil(lambda: "project.unfinished" not in session.reading, timeout=20_000)
        assert not branch(tree) and waits.state == "waiting"
    waits.stop()
    busy.set()
    qtbot.waitUntil(lambda: bool(before.outcome and waits.outcome), timeout=20_000)
    qtbot.waitUntil(lambda: len(branch(tree)) == 1, timeout=20_000)
    assert waits.outcome == "cancelled" and left.exists() and "Go on" in buttons(tree)


def test_that_the_palette_leads_to_what_is_unfinished_and_says_where_nothing_is(
    tree: ProjectTree, left: Path, qtbot: QtBot
) -> None:
    tree.session.select_artefact(tree.session.artefacts("samples")[0].id)
    assert "Go on" not in buttons(tree)
    tree.show_unfinished()
    assert "Go on" in buttons(tree) and tree.tree.currentItem() is branch(tree)[0]
    left.unlink()
    tree.session.refresh()
    qtbot.waitUntil(lambda: not branch(tree), timeout=20_000)
    with qtbot.waitSignal(tree.session.message) as told:
        tree.show_unfinished()
    assert told.args[1] == "Nothing is unfinished."
