"""The docks: the jobs along the bottom are as low as what they hold, whatever the layout, the window or the past."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QDockWidget, QTabBar, QToolButton, QWidget
from pytestqt.qtbot import QtBot

from auditor.base.reporter import Reporter
from auditor.ui.docks import Docks
from auditor.ui.left_dock import LeftDock
from auditor.ui.pane_dock import BottomDock
from auditor.ui.panes import LAYOUTS, PANES
from auditor.ui.session import Session
from auditor.ui.widgets.plain_text import PlainLabel
from auditor.ui.window import Window
from tests.ui.conftest import settle

LINE = 34


@pytest.fixture
def window(session: Session, qtbot: QtBot, tmp_path: Path) -> Iterator[Window]:
    made = Window(session)
    made.resize(1280, 720)
    qtbot.addWidget(made)
    made.show()
    session.create_project(tmp_path / "p")
    settle()
    yield made
    session.jobs.clear()


def low(window: Window) -> BottomDock:
    dock = window.docks.docks["jobs"]
    assert isinstance(dock, BottomDock)
    return dock


def at_the_bottom(window: Window) -> bool:
    dock = low(window).geometry()
    return abs(dock.width() - window.width()) <= 1 and dock.bottom() + 1 == window.statusBar().geometry().top()


def test_that_no_job_takes_one_line_in_every_layout_and_size(window: Window) -> None:
    for size in ((1280, 720), (1920, 1080), (900, 520)):
        window.resize(*size)
        for name in (*LAYOUTS, *LAYOUTS):
            window.show_layout(name)
            settle()
            assert low(window).height() == LINE, f"{name} at {size}"
            assert at_the_bottom(window), f"{name} at {size}"


def test_that_the_strip_grows_with_its_jobs_to_three_lines_and_shrinks_when_they_end(
    window: Window, qtbot: QtBot
) -> None:
    go = threading.Event()

    def work(reporter: Reporter) -> None:
        go.wait(60)  # until it is told to; a busy machine builds the window slowly

    for number in range(1, 6):
        window.session.run(f"Job {number}", work)
        settle()
        assert low(window).height() == min(number, 3) * LINE
    go.set()
    qtbot.waitUntil(lambda: not window.session.busy, timeout=5000)
    settle()
    assert low(window).height() == LINE
    assert at_the_bottom(window)


def test_that_a_person_drags_the_strip_higher_and_it_stays_so_until_the_layout_is_reset(window: Window) -> None:
    edge = low(window).geometry().top() - 2
    QTest.mousePress(window, Qt.MouseButton.LeftButton, pos=QPoint(600, edge))
    QTest.mouseMove(window, QPoint(600, edge - 120))
    settle()
    QTest.mouseRelease(window, Qt.MouseButton.LeftButton, pos=QPoint(600, edge - 120))
    settle()
    high = low(window).height()
    assert high > LINE + 80
    for name in (*LAYOUTS, *LAYOUTS):
        window.show_layout(name)
        settle()
        assert low(window).height() == high
    project = window.session.project
    assert project is not None
    folder = project.folder
    window.session.close_project()
    window.session.open_project(folder)
    settle()
    assert low(window).height() == high
    window.reset_layout()
    settle()
    assert low(window).height() == LINE
    assert at_the_bottom(window)


def test_that_every_return_to_a_layout_shows_its_panes_and_nothing_of_another(window: Window) -> None:
    for name in ("train", "explore", "train", "circuit", "explore", "case", "train"):
        window.show_layout(name)
        for _ in range(3):
            settle()
        panes = {dock.entry.id for dock in window.docks.docks.values() if not dock.isHidden()}
        assert panes == {entry.id for entry in PANES if name in entry.places}, name
        shown = [
            bar for bar in window.findChildren(QTabBar) if bar.parent() is window and bar.isVisible() and bar.count()
        ]
        assert [[bar.tabText(at) for at in range(bar.count())] for bar in shown] == (
            [["Record", "Train", "Store"]] if name == "train" else []
        )


def test_that_a_pane_that_was_closed_comes_back_to_its_place(window: Window) -> None:
    for name in ("jobs", "features", "project"):
        window.docks.docks[name].close()
        settle()
        assert not window.docks.docks[name].isVisible()
        window.session.commands.run(f"view.pane.{name}")
        settle()
        assert window.docks.docks[name].isVisible(), name
    assert low(window).height() == LINE and at_the_bottom(window)
    assert window.layout_name == "explore"
    window.session.commands.run("view.pane.training")
    assert window.layout_name == "train" and window.docks.docks["training"].isVisible()


def project_width(window: Window) -> int:
    for _ in range(3):
        QApplication.processEvents()
    return window.docks.docks["project"].width()


def test_that_the_project_keeps_its_width_where_the_window_changes_its_own(window: Window) -> None:
    for name in ("explore", "case"):
        window.resize(1920, 1080)
        window.show_layout(name)
        assert abs(project_width(window) - 250) <= 2, name
        window.resize(1280, 720)
        assert abs(project_width(window) - 250) <= 2, name
        assert at_the_bottom(window)


@pytest.fixture
def narrow(window: Window) -> LeftDock:
    """The project beside a pane that needs the most of a window of 1,000 pixels."""
    window.resize(1000, 700)
    window.show_layout("train")
    pane = window.docks.docks["recording"].build()
    assert pane is not None
    pane.setMinimumWidth(821)
    project_width(window)
    dock = window.docks.docks["project"]
    assert isinstance(dock, LeftDock)
    return dock


def buttons(widget: QWidget) -> dict[str, QToolButton]:
    return {held.accessibleName(): held for held in widget.findChildren(QToolButton)}


def test_that_the_project_is_a_rail_where_the_panes_beside_it_need_the_room(window: Window, narrow: LeftDock) -> None:
    beside = window.docks.docks["recording"]
    assert narrow.collapsed and narrow.width() == 38
    assert beside.width() >= 821 and beside.geometry().right() < window.width()
    assert at_the_bottom(window)
    window.show_layout("case")
    assert abs(project_width(window) - 250) <= 2 and not narrow.collapsed
    window.show_layout("train")
    assert project_width(window) == 38 and narrow.collapsed
    window.resize(1280, 720)
    assert abs(project_width(window) - 250) <= 2 and not narrow.collapsed
    assert narrow.pane is not None and narrow.pane.isVisible() and narrow.widget() is narrow.pane
    window.resize(1074, 720)  # some of it is left
    assert narrow.narrowest <= project_width(window) <= 1074 - 821 and beside.geometry().right() < window.width()
    window.resize(1000, 700)
    assert project_width(window) == 38


def test_that_the_rail_lays_the_project_over_the_other_panes_until_it_is_left(
    window: Window, narrow: LeftDock, qtbot: QtBot
) -> None:
    drawer, pane = narrow.drawer, narrow.pane
    assert pane is not None and not drawer.isVisible()
    buttons(narrow)["Show Project"].click()
    assert drawer.isVisible() and pane.isVisible() and pane.width() >= 240
    assert drawer.geometry().topLeft() == narrow.geometry().topLeft() and drawer.width() == 250
    before = window.docks.docks["recording"].geometry()
    QTest.mouseClick(window.docks.docks["recording"], Qt.MouseButton.LeftButton)
    assert not drawer.isVisible() and window.docks.docks["recording"].geometry() == before
    for shut in ("Close Project", "escape", "rail"):
        window.session.commands.run("view.pane.project")  # as Ctrl+K and the menu do
        assert drawer.isVisible() and pane.isVisible(), shut
        if shut == "escape":
            qtbot.keyClick(pane, Qt.Key.Key_Escape)
        else:
            buttons(drawer if shut == "Close Project" else narrow)[
                shut if shut == "Close Project" else "Show Project"
            ].click()
        assert not drawer.isVisible() and not isinstance(window.focusWidget(), QToolButton), shut
    window.session.commands.run("view.pane.project")
    window.resize(1280, 720)
    assert abs(project_width(window) - 250) <= 2 and not drawer.isVisible() and pane.isVisible()


def test_that_what_lies_over_the_panes_goes_with_them(session: Session, window: Window, narrow: LeftDock) -> None:
    for leave in (narrow.close, session.close_project):
        window.session.commands.run("view.pane.project")
        assert narrow.drawer.isVisible()
        leave()
        settle()
        assert not narrow.drawer.isVisible(), leave


def test_that_the_rail_and_what_it_shows_take_the_size_of_the_text(window: Window, narrow: LeftDock) -> None:
    window.session.commands.run("view.larger")
    settle()
    assert narrow.collapsed and project_width(window) == 42
    buttons(narrow)["Show Project"].click()
    assert narrow.pane is not None and narrow.pane.isVisible() and narrow.drawer.width() == 275
    titles = [label for label in narrow.drawer.findChildren(PlainLabel) if label.text() == "Project"]
    assert [label.isVisible() for label in titles] == [True]
    window.session.commands.run("view.normal")
    settle()


def test_that_a_project_that_was_left_in_a_narrow_window_is_shown_again_in_a_wide_one(
    session: Session, window: Window, narrow: LeftDock
) -> None:
    project = session.project
    assert project is not None
    window.docks.save()
    session.close_project()
    window.resize(1280, 720)
    session.open_project(project.folder)
    assert abs(project_width(window) - 250) <= 2 and not narrow.collapsed
    assert narrow.pane is not None and narrow.pane.isVisible()


def test_that_a_person_drags_the_project_wider_and_it_stays_so_until_the_layout_is_reset(window: Window) -> None:
    project_width(window)
    edge = window.docks.docks["project"].geometry().right() + 3
    QTest.mousePress(window, Qt.MouseButton.LeftButton, pos=QPoint(edge, 300))
    QTest.mouseMove(window, QPoint(edge + 70, 300))
    settle()
    QTest.mouseRelease(window, Qt.MouseButton.LeftButton, pos=QPoint(edge + 70, 300))
    wide = project_width(window)
    assert abs(wide - 320) <= 6
    for size, name in ((1920, "explore"), (1280, "explore"), (1280, "case")):
        window.resize(size, 720)
        window.show_layout(name)
        assert abs(project_width(window) - wide) <= 2, f"{name} at {size}"
    window.reset_layout()
    assert abs(project_width(window) - 250) <= 2


def test_that_a_program_that_is_killed_comes_back_in_the_layout_that_was_shown(window: Window) -> None:
    for name in ("train", "circuit"):
        window.show_layout(name)
        assert Docks._settings().value(f"{window.docks._project()}/layout") == name


def test_that_a_message_is_not_covered_by_a_pane_that_is_opened_later(window: Window) -> None:
    window.show_layout("explore")
    window.strip.tell("bad", "This stays until it is closed.")
    window.show_layout("train")
    window.reset_layout()
    for name in ("store", "training", "recording"):
        window.docks.docks[name].raise_()
        settle()
        above = window.children()[window.children().index(window.strip) :]
        assert not [child for child in above if isinstance(child, QDockWidget)], name


def test_that_a_pane_of_another_text_size_is_given_what_was_put_into_the_one_before(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    window.show_layout("train")
    settle()
    dock = window.docks.docks["training"]
    before = dock.build()
    assert before is not None
    given = list[tuple[int, int]]()
    monkeypatch.setattr(type(before), "kept", lambda pane: {"of": id(pane)})
    monkeypatch.setattr(type(before), "keep", lambda pane, kept: given.append((id(pane), kept["of"])))
    window.session.commands.run("view.larger")
    settle()
    after = dock.build()
    assert after is not before and given == [(id(after), id(before))]
    window.session.commands.run("view.normal")
