"""Every layout with its real panes in a narrow window: nothing is cut off, and the project can be read or opened."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QPoint
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QTreeWidget,
    QWidget,
)
from pytestqt.qtbot import QtBot

from auditor.ui import theme
from auditor.ui.left_dock import LeftDock
from auditor.ui.panes import LAYOUTS
from auditor.ui.session import Session
from auditor.ui.window import Window


@pytest.mark.parametrize("size", [(1280, 720), (1060, 700), (1000, 600)])
def test_that_no_pane_is_cut_off_and_the_project_is_never_squeezed(
    indexed: Session, qtbot: QtBot, size: tuple[int, int]
) -> None:
    window = Window(indexed)
    qtbot.addWidget(window)
    window.resize(*size)
    window.show()
    for layout in LAYOUTS:
        window.show_layout(layout)
        for name, dock in window.docks.docks.items():
            if layout in dock.entry.places and dock.entry.places[layout] in ("centre", "right"):
                indexed.open_pane(name)
                qtbot.waitUntil(lambda: not indexed.reading, timeout=60_000)
                for _ in range(5):
                    QApplication.processEvents()
                shown = [held for held in window.docks.docks.values() if held.isVisible() and held.geometry().x() >= 0]
                assert window.width() == size[0] and all(held.geometry().right() < size[0] for held in shown), name
                project = window.docks.docks["project"]
                assert isinstance(project, LeftDock)
                assert project.width() >= 200 or (project.collapsed and project.width() == 38), name


@pytest.mark.parametrize("scale", [125, 150, 200])
def test_that_recording_and_stores_scroll_up_and_down_alone_in_large_text(
    indexed: Session, qtbot: QtBot, scale: int
) -> None:
    window = Window(indexed)
    qtbot.addWidget(window)
    window.resize(1280, 720)
    window.show()
    window.show_layout("train")
    theme.apply("light", scale)
    for name in ("recording", "store"):
        pane = indexed.open_pane(name)
        qtbot.waitUntil(lambda: not indexed.busy, timeout=60_000)
        for _ in range(5):
            QApplication.processEvents()
        bars = [area.horizontalScrollBar() for area in pane.findChildren(QScrollArea) if area.isVisible()]
        assert not [bar.maximum() for bar in bars if bar.isVisible() and bar.maximum()], name
        buttons = [made for made in pane.findChildren(QPushButton) if made.isVisible()]
        cut = [made.text() for made in buttons if made.mapTo(pane, made.rect().topRight()).x() > pane.width()]
        assert buttons and not cut


def test_that_what_lies_behind_a_tab_does_not_say_how_wide_the_project_is(indexed: Session, qtbot: QtBot) -> None:
    window = Window(indexed)
    qtbot.addWidget(window)
    window.resize(1280, 720)
    window.show()
    window.show_layout("train")
    qtbot.waitUntil(lambda: not indexed.busy, timeout=60_000)
    qtbot.wait(100)
    docks = window.docks
    behind = next(dock for name, dock in docks.docks.items() if name in ("training", "store") and dock.x() < 0)
    behind.setGeometry(-2500, -900, 2400, 400)  # as Qt keeps them after a change of the text's size
    docks._left_chosen = 300
    docks._hold_left()
    QApplication.processEvents()
    project = docks.docks["project"]
    assert project.width() == 300 and window.isSeparator(QPoint(project.geometry().right() + 2, 300))


def test_that_controls_of_recording_and_stores_have_names_of_their_own_and_say_why_they_are_grey(
    indexed: Session, qtbot: QtBot
) -> None:
    window = Window(indexed)
    qtbot.addWidget(window)
    window.resize(1280, 720)
    window.show()
    window.show_layout("train")
    kinds = (QAbstractButton, QLineEdit, QComboBox, QAbstractSpinBox, QTreeWidget, QScrollArea)
    for name in ("recording", "store"):
        pane = indexed.open_pane(name)
        qtbot.waitUntil(lambda: not indexed.busy, timeout=60_000)
        shown = [held for held in pane.findChildren(QWidget) if held.isVisible() and isinstance(held, kinds)]
        inner = [held for held in shown if isinstance(held.parentWidget(), (QComboBox, QAbstractSpinBox, QLineEdit))]
        named = [
            held.accessibleName() or (held.text() if isinstance(held, QAbstractButton) else "")
            for held in shown
            if held not in inner
        ]
        assert len(named) > 8 and "" not in named, named
        assert len(set(named)) == len(named), sorted(named)
        assert not [held for held in shown if not held.isEnabled() and not held.toolTip()]
