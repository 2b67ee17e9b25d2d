"""Every layout with its real panes in a narrow window: nothing is cut off, and the project can be read or opened."""

from __future__ import annotations

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

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
