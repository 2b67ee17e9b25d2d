"""The window as a person meets it: start page, project, layouts, palette, messages, jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QMimeData, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QApplication, QDockWidget, QMenu, QMessageBox, QPushButton
from pytestqt.qtbot import QtBot

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.project import Project
from auditor.ui import theme
from auditor.ui.bridge import LiveJob
from auditor.ui.panes import AREAS, LAYOUTS, PANES
from auditor.ui.panes.jobs import JobRow, Jobs
from auditor.ui.panes.project_tree import ProjectTree
from auditor.ui.panes.verb import Verb
from auditor.ui.session import Session
from auditor.ui.window import Window
from tests.ui.conftest import settle


@pytest.fixture
def window(session: Session, qtbot: QtBot) -> Iterator[Window]:
    made = Window(session)
    qtbot.addWidget(made)
    made.show()
    yield made
    session.jobs.clear()


def fill(session: Session) -> str:
    project = session.project
    assert project is not None
    path = project.new_path("dictionary", "blocks.14")
    path.write_bytes(b"weights")
    run = project.catalogue.begin_run("train", {"k": 32}, {"torch": "2"})
    found = project.add("dictionary", "blocks.14", path, run=run, meta={"hook": "blocks.14.resid_post"})
    project.catalogue.end_run(run, "done", {"train-300k": "ab" * 32}, [found.id])
    session.refresh()
    return found.id


def test_that_the_list_of_panes_is_in_order() -> None:
    assert len({entry.id for entry in PANES}) == len(PANES)
    for entry in PANES:
        assert set(entry.places) <= set(LAYOUTS)
        assert set(entry.places.values()) <= set(AREAS)
        assert entry.load().id == entry.id


def test_that_the_start_page_gives_way_to_the_project_and_comes_back(window: Window, tmp_path: Path) -> None:
    assert window.start.isVisible()
    window.session.create_project(tmp_path / "Padlock")
    assert not window.start.isVisible()
    assert window.docks.docks["project"].isVisible()
    assert "Padlock" in window.windowTitle()
    window.session.close_project()
    assert window.start.isVisible()
    assert not window.docks.docks["project"].isVisible()
    assert any(b.text() == "Padlock" for b in window.start.findChildren(QPushButton))


def test_that_leaving_a_project_asks_before_it_stops_a_job(
    window: Window, tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, asked, answers = window.session, list[str](), ["Stay"] * 4 + ["Stop and leave"]
    Project.create(tmp_path / "other").close()

    def answer(question: QMessageBox) -> None:
        asked.append(question.text())
        wanted = answers[len(asked) - 1]
        next(button for button in question.buttons() if button.text() == wanted).click()

    monkeypatch.setattr(QMessageBox, "exec", answer)
    for ask, told in (("getExistingDirectory", str(tmp_path / "other")),
                      ("getSaveFileName", (str(tmp_path / "new"), ""))):  # fmt: skip
        monkeypatch.setattr(f"auditor.ui.window_commands.QFileDialog.{ask}", lambda *_, told=told: told)
    session.create_project(tmp_path / "Padlock")
    assert session.project is not None
    live = session.run("Wait", waiting)
    for command in ("file.open", "file.new", "file.sample", "file.close"):
        session.commands.run(command)
        assert session.project.name == "Padlock" and live.live
    session.commands.run("file.close")
    qtbot.waitUntil(lambda: not live.live, timeout=10_000)
    assert session.project is None and asked == ["A job is still running."] * 5
    session.commands.run("file.open")
    assert session.project.name == "other" and len(asked) == 5


def test_that_the_sample_audit_asks_before_it_stops_a_job_that_was_begun_while_it_was_prepared(
    window: Window, tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, asked, prepared = window.session, list[str](), threading.Event()
    Project.create(tmp_path / "sample-audit" / "project").close()

    def answer(question: QMessageBox) -> None:
        asked.append(question.text())
        next(button for button in question.buttons() if button.text() == "Stay").click()

    def prepare(folder: Path, reporter: Reporter) -> Project:
        prepared.wait(10)
        return Project.open(folder)

    monkeypatch.setattr(QMessageBox, "exec", answer)
    monkeypatch.setattr("auditor.ui.window_commands.build", lambda: tmp_path)
    monkeypatch.setattr("auditor.tasks.sample_audit.prepare", prepare)
    session.create_project(tmp_path / "Padlock")
    assert session.project is not None
    session.commands.run("file.sample")
    live = session.run("Wait", waiting)
    prepared.set()
    qtbot.waitUntil(lambda: bool(asked), timeout=10_000)
    assert live.live and session.project.name == "Padlock" and asked == ["A job is still running."]
    live.job.control.cancel()
    qtbot.waitUntil(lambda: not live.live, timeout=10_000)
    session.commands.run("file.sample")
    qtbot.waitUntil(lambda: session.project.folder == tmp_path / "sample-audit" / "project", timeout=10_000)
    assert len(asked) == 1


def waiting(reporter: Reporter) -> dict[str, object]:
    while True:
        reporter.check()
        time.sleep(0.005)


def test_that_an_arrangement_is_remembered_per_project(window: Window, tmp_path: Path) -> None:
    session = window.session
    session.create_project(tmp_path / "one")
    window.show_layout("train")
    window.docks.docks["jobs"].hide()
    window.docks.save()
    session.close_project()
    session.create_project(tmp_path / "two")
    assert window.layout_name == "explore"
    assert window.docks.docks["jobs"].isVisible()
    session.close_project()
    session.open_project(tmp_path / "one")
    assert window.layout_name == "train"
    assert not window.docks.docks["jobs"].isVisible()
    window.reset_layout()
    assert window.docks.docks["jobs"].isVisible()


def test_that_keys_change_the_layout_and_open_the_palette(window: Window, tmp_path: Path, qtbot: QtBot) -> None:
    window.session.create_project(tmp_path / "p")
    window.activateWindow()
    for number, name in enumerate(LAYOUTS, start=1):
        qtbot.keyClick(window, Qt.Key(Qt.Key.Key_0.value + number), Qt.KeyboardModifier.ControlModifier)
        assert window.layout_name == name
    qtbot.keyClick(window, Qt.Key.Key_K, Qt.KeyboardModifier.ControlModifier)
    assert window.palette_frame.isVisible()
    qtbot.keyClicks(window.palette_frame.field, "layout exp")
    assert window.palette_frame.titles()[0] == "Layout: Explore"
    qtbot.keyClick(window.palette_frame.field, Qt.Key.Key_Return)
    assert window.layout_name == "explore"
    assert not window.palette_frame.isVisible()


def test_that_every_command_of_every_pane_has_an_id_and_a_free_key(window: Window) -> None:
    window.load_commands()
    keys = [command.keys for command in window.session.commands.all() if command.keys]
    assert len(keys) == len(set(keys))
    assert not window.strip.isVisible(), window.strip.text


def test_that_a_message_moves_nothing_and_shows_all_its_words(window: Window, session: Session) -> None:
    before = {dock: dock.geometry() for dock in window.findChildren(QDockWidget)}
    centre = window.start.geometry()
    hint = "Choose a folder that holds config.json and safetensors weights, or a GGUF file of a known family."
    for words, trace in (
        ("Short.", ""),
        ("A folder that holds no model: it has no config.json.", "trace"),
        ("On " * 200, ""),
    ):
        session.message.emit("bad", words, hint, trace)
        QApplication.processEvents()
        assert window.strip.isVisible() and window.rect().contains(window.strip.geometry())
        for label in (window.strip._sentence, window.strip._hint):
            assert label.height() >= label.heightForWidth(label.width())
        assert window.strip.geometry().bottom() <= window.statusBar().geometry().top()
    window.resize(900, 520)
    QApplication.processEvents()
    assert window.rect().contains(window.strip.geometry())
    window.resize(1280, 720)
    QApplication.processEvents()
    assert window.start.geometry() == centre
    assert before == {dock: dock.geometry() for dock in window.findChildren(QDockWidget)}


def test_that_a_failure_shows_in_the_strip_and_stays(window: Window, qtbot: QtBot) -> None:
    window.session.commands.run("nothing")
    assert window.strip.isVisible()
    assert "Ctrl+K" in window.strip.text
    window.session.say("Saved.")
    assert window.strip.text == "Saved."


def test_that_a_message_that_was_closed_does_not_come_back_with_panes_that_are_made_anew(
    window: Window, tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, said = window.session, ["A row cannot be read.", "Another one cannot."]
    own = ProjectTree.refresh

    def refresh(pane: ProjectTree) -> None:
        """What a pane finds when it is built is told as often as it is built."""

        def fails() -> None:
            raise AuditorError(said[0], "Check the disk.")

        own(pane)
        pane.session.read("project.wrong", fails, lambda _: None)

    monkeypatch.setattr(ProjectTree, "refresh", refresh)
    session.create_project(tmp_path / "p")
    qtbot.waitUntil(lambda: window.strip.text == "A row cannot be read. Check the disk.", timeout=10_000)
    window.strip._close.click()
    for command in ("view.larger", "view.normal"):
        session.commands.run(command)
        qtbot.waitUntil(lambda: not session.reading and not window.strip._anew.isActive(), timeout=10_000)
        assert not window.strip.isVisible(), command
    session.error(AuditorError(said[0], "Check the disk."))  # by what a person did
    assert window.strip.isVisible()
    window.strip._close.click()
    said.pop(0)
    session.commands.run("view.larger")
    qtbot.waitUntil(lambda: window.strip.isVisible(), timeout=10_000)
    assert window.strip.text == "Another one cannot. Check the disk."
    session.commands.run("view.normal")
    qtbot.waitUntil(lambda: not window.strip._anew.isActive(), timeout=10_000)


def test_that_a_failure_does_not_cover_the_buttons_of_the_next_job(window: Window, qtbot: QtBot) -> None:
    window.session.message.emit("bad", "It failed.", "Choose another.", "")
    assert window.strip.isVisible()
    with qtbot.waitSignal(window.session.job_ended):
        window.session.run("More work", lambda _: {})
        assert not window.strip.isVisible()


def test_that_the_project_tree_shows_how_an_artefact_came_to_be(window: Window, tmp_path: Path) -> None:
    session = window.session
    session.create_project(tmp_path / "p")
    pane = session.open_pane("project")
    assert isinstance(pane, ProjectTree)
    assert pane.state == "empty"
    artefact = fill(session)
    assert pane.state == "ready"
    session.select_artefact(artefact)
    texts = " ".join(label.text() for label in pane._area.findChildren(object) if hasattr(label, "text"))
    for told in ("blocks.14.resid_post", "train (done)", "from train-300k", session.find(artefact).digest):
        assert told in texts


def test_that_a_rename_can_be_undone(window: Window, tmp_path: Path) -> None:
    session = window.session
    session.create_project(tmp_path / "p")
    artefact = fill(session)
    pane = session.open_pane("project")
    assert isinstance(pane, ProjectTree)
    session.select_artefact(artefact)
    item = pane.tree.currentItem()
    assert item is not None
    item.setText(0, "the dictionary")
    assert session.find(artefact).name == "the dictionary"
    session.commands.run("edit.undo")
    assert session.find(artefact).name == "blocks.14"


def test_that_a_failed_job_says_why_and_offers_its_trace(window: Window, tmp_path: Path, qtbot: QtBot) -> None:
    session = window.session
    session.create_project(tmp_path / "p")
    pane = session.open_pane("jobs")
    assert isinstance(pane, Jobs)
    assert pane.state == "empty"

    def work(reporter: Reporter) -> None:
        reporter.step(3, 10, unit="rows")
        raise ValueError("no such hook point")

    live = session.run("Record", work)
    with qtbot.waitSignal(live.ended, timeout=3000):
        pass
    shown = pane.findChild(JobRow)
    assert shown is not None
    assert "no such hook point" in shown._why.text()
    assert not shown._copy.isHidden() and shown._stop.isHidden()
    assert "(3 of 10 rows)" in shown._far.text()
    shown._drop()
    assert pane.state == "empty"


def test_that_a_jobs_figures_have_their_units(window: Window, tmp_path: Path, qtbot: QtBot) -> None:
    session = window.session
    session.create_project(tmp_path / "p")
    pane = session.open_pane("jobs")
    told = {"positions": 263_821.0, "positions_per_s": 212.4, "written_MBps": 0.3764, "waiting_for_disk": 7.61e-4}
    live = session.run("Record", lambda reporter: reporter.metric(3, **told))
    with qtbot.waitSignal(live.ended, timeout=3000):
        pass
    row = pane.findChild(JobRow)
    assert row is not None
    shown = "positions 263\u202f821   212 positions/s   written 0.376 MB/s   waiting for disk 0.076 %"
    qtbot.waitUntil(lambda: row._far.text() == shown, timeout=3000)


def test_that_a_job_that_waits_for_the_disk_says_so_before_its_figures(
    window: Window, tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveJob, "seconds_left", property(lambda _: 22.0))
    session = window.session
    session.create_project(tmp_path / "p")
    pane = session.open_pane("jobs")

    def work(reporter: Reporter) -> None:
        reporter.metric(3, positions=120.0)
        for _ in range(2_000):
            reporter.step(3, 10, "waiting: the disk is full, 12.0 MB more must be free", "samples")
            time.sleep(0.005)

    live = session.run("Record", work)
    qtbot.waitUntil(lambda: "12.0 MB more must be free" in pane.findChild(JobRow)._far.text(), timeout=3000)
    row = pane.findChild(JobRow)
    assert (row._state.text(), row._state.property("role")) == ("waits", "warn")  # it needs the person
    assert row._left.text() == ""  # how long the disk stays full is not known
    with qtbot.waitSignal(live.ended, timeout=3000):
        live.stop()


def test_that_menus_that_are_filled_anew_leave_no_old_ones(window: Window) -> None:
    window.load_commands()
    settle()
    titles = [menu.title() for menu in window._menu_bar.findChildren(QMenu) if menu.title()]
    assert titles == [action.text() for action in window._menu_bar.actions()]


def test_that_the_window_wears_every_theme_and_size(window: Window, tmp_path: Path) -> None:
    window.session.create_project(tmp_path / "p")
    for name in theme.NAMES:
        window.session.commands.run(f"view.theme.{name}")
        assert theme.name() == name
    window.session.commands.run("view.larger")
    assert theme.scale() == 110
    window.session.commands.run("view.normal")


def dropped(window: Window, path: Path) -> None:
    """Drag a file or folder onto the window itself and let it go."""
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    given = (Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    enter = QDragEnterEvent(window.rect().center(), *given)
    QApplication.sendEvent(window, enter)
    assert enter.isAccepted()
    QApplication.sendEvent(window, QDropEvent(window.rect().center(), *given))


def test_that_a_project_is_opened_where_it_is_dropped_and_nothing_else_without_one(
    window: Window, tmp_path: Path, qtbot: QtBot
) -> None:
    Project.create(tmp_path / "held", "Padlock audit").close()
    (tmp_path / "notes.txt").write_text("a door", encoding="utf-8")
    dropped(window, tmp_path / "notes.txt")
    qtbot.waitUntil(lambda: "No project is open that could take “notes.txt” in." in window.strip.text, timeout=5000)
    dropped(window, tmp_path / "held")
    qtbot.waitUntil(lambda: window.session.project is not None, timeout=5000)
    assert window.session.project is not None and window.session.project.name == "Padlock audit"


def test_that_what_is_dropped_anywhere_on_the_window_is_taken_in_and_shown_where_it_belongs(
    window: Window, tmp_path: Path, qtbot: QtBot
) -> None:
    from tests.ui.panes.test_store import written

    session = window.session
    session.create_project(tmp_path / "p")
    store = written(tmp_path, "dropped", np.random.default_rng(0).normal(size=(40, 6)).astype("f4"))
    with qtbot.waitSignal(session.job_ended, timeout=20_000):
        dropped(window, store)
    docks = window.docks.docks
    assert session.artefact == session.artefacts("store")[0].id and not docks["store"].visibleRegion().isEmpty()
    qtbot.waitUntil(lambda: not session.busy, timeout=20_000)
    (tmp_path / "notes.txt").write_text("a door", encoding="utf-8")
    with qtbot.waitSignal(session.job_ended, timeout=20_000):
        dropped(window, tmp_path / "notes.txt")
    assert session.artefacts("samples") and not docks["recording"].visibleRegion().isEmpty()
    np.save(tmp_path / "acts.npy", np.ones((4, 3), np.float32))
    dropped(window, tmp_path / "acts.npy")
    verb = session.open_pane("verb")
    assert isinstance(verb, Verb)
    qtbot.waitUntil(lambda: verb.form is not None and "path" in verb.form.values(), timeout=20_000)
    assert verb.form is not None and verb.form.values()["path"] == str(tmp_path / "acts.npy")
    assert verb.choice.currentData() == "import"


def test_that_a_project_that_is_only_read_says_so_to_whoever_would_change_it(
    window: Window, tmp_path: Path, qtbot: QtBot
) -> None:
    with Project.create(tmp_path / "held", "Held"):
        window.session.open_project(tmp_path / "held")
        window.load_commands()
        window.session.commands.run("open.samples")
        assert "“Held” is open in another program, so it can only be read here." in window.strip.text
        window.strip.hide()
        (tmp_path / "notes.txt").write_text("a door", encoding="utf-8")
        dropped(window, tmp_path / "notes.txt")
        qtbot.waitUntil(lambda: window.strip.isVisible(), timeout=5000)
        assert "it can only be read here" in window.strip.text
        window.session.close_project()


def test_that_looking_at_the_machine_reads_no_file_of_the_project(
    window: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.project.catalogue import Catalogue
    from auditor.ui.status import Status

    window.session.create_project(tmp_path / "p", "Full")

    def unreadable(*_: object) -> None:
        raise AuditorError("The disk is full: the catalogue of “p” could not be written.", "Free some room.")

    monkeypatch.setattr(Catalogue, "_open", unreadable)
    bar = window.statusBar()
    assert isinstance(bar, Status)
    bar.look()
    assert bar.project.text() == "Full"
