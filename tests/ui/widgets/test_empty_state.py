"""The four states."""

from __future__ import annotations

from PySide6.QtWidgets import QLabel, QPushButton
from pytestqt.qtbot import QtBot

from auditor.base.errors import AuditorError
from auditor.ui.widgets.empty_state import StatePanel


def test_that_each_state_says_what_it_must(qtbot: QtBot) -> None:
    panel = StatePanel()
    qtbot.addWidget(panel)
    content = QLabel("the table")
    panel.set_content(content)
    panel.show()
    pressed: list[str] = []
    page = panel._page

    panel.empty("No features yet.", "Index", lambda: pressed.append("index"))
    buttons = [b for b in page.findChildren(QPushButton) if b.isVisible()]
    assert [b.text() for b in buttons] == ["Index"]
    buttons[0].click()
    assert pressed == ["index"]

    panel.working("Opening…", 3, 10)
    assert panel.state == "working"
    assert (page._bar.value(), page._bar.maximum(), page._bar.isVisible()) == (3, 10, True)

    panel.failed(AuditorError("It is cut off.", "Record again."), "Try again", lambda: pressed.append("again"))
    assert (page._sentence.text(), page._hint.text()) == ("It is cut off.", "Record again.")
    assert not page._bar.isVisible()

    panel.ready()
    assert content.isVisible()
    assert panel.state == "ready"
