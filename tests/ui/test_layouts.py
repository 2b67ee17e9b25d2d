"""A layout never takes the keyboard to a close button, and is never left with nothing in it."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QAbstractButton
from pytestqt.qtbot import QtBot

from auditor.ui.panes import LAYOUTS
from auditor.ui.session import Session
from auditor.ui.window import Window


def test_that_no_key_that_is_typed_after_a_change_of_layout_closes_a_pane(
    session: Session, qtbot: QtBot, tmp_path: Path
) -> None:
    window = Window(session)
    qtbot.addWidget(window)
    window.show()
    session.create_project(tmp_path / "project", "Locks")
    qtbot.waitExposed(window)
    for name in (*list(LAYOUTS)[1:], "explore"):
        inside = next(b for b in window.docks.docks["project"].findChildren(QAbstractButton) if b.isVisible())
        inside.setFocus()
        window.show_layout(name)
        focused = window.focusWidget()
        assert focused is not None and not isinstance(focused, QAbstractButton), name
        qtbot.keyClick(focused, Qt.Key.Key_Space)
        shown = [d for d in window.docks.docks.values() if name in d.entry.places]
        assert not any(dock.isHidden() for dock in shown), name
    session.jobs.clear()


def test_that_a_layout_whose_panes_were_all_closed_comes_back_as_it_is_designed(
    session: Session, qtbot: QtBot, tmp_path: Path
) -> None:
    window = Window(session)
    qtbot.addWidget(window)
    window.show()
    session.create_project(tmp_path / "project", "Locks")
    window.show_layout("case")
    for dock in window.docks.docks.values():
        dock.hide()
    window.show_layout("circuit")
    window.show_layout("case")
    assert not window.docks.docks["case"].isHidden()
    session.jobs.clear()
