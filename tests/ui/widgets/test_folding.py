"""Parts of a pane that fold where there is no room for them side by side."""

from __future__ import annotations

import pytest
from PySide6.QtWidgets import QApplication, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from auditor.ui.widgets.folding import Folding


class Part(QWidget):
    def __init__(self, wide: int) -> None:
        super().__init__()
        self.setMinimumWidth(wide)


@pytest.fixture
def folding(qtbot: QtBot) -> Folding:
    made = Folding({"Hook points": Part(200), "Samples": Part(220), "Settings": Part(300)}, (300, 300, 400), 190)
    qtbot.addWidget(made)
    made.show()
    return made


def seen(made: Folding) -> list[str]:
    QApplication.processEvents()
    return [name for name, part in made._parts.items() if part.isVisible() and part.mapTo(made, part.pos()).x() >= 0]


def buttons(made: Folding) -> dict[str, QPushButton]:
    return {name: button for name, button in made._buttons.items() if button.isVisible()}


def test_that_parts_fold_from_the_first_as_it_becomes_narrow_and_unfold_again(folding: Folding) -> None:
    folding.resize(900, 300)
    assert seen(folding) == ["Hook points", "Samples", "Settings"] and not buttons(folding)
    folding.resize(600, 300)
    assert seen(folding) == ["Hook points", "Settings"] and list(buttons(folding)) == ["Hook points", "Samples"]
    folding.resize(320, 300)
    assert seen(folding) == ["Hook points"] and len(buttons(folding)) == 3
    folding.resize(900, 300)
    assert seen(folding) == ["Hook points", "Samples", "Settings"] and not buttons(folding)
    places = [part.mapTo(folding, part.rect().topLeft()).x() for part in folding._parts.values()]
    assert places == sorted(places)


def test_that_a_button_brings_its_part_and_what_was_brought_stays(folding: Folding) -> None:
    folding.resize(600, 300)
    QApplication.processEvents()
    buttons(folding)["Samples"].click()
    assert seen(folding) == ["Samples", "Settings"]
    assert [name for name, button in buttons(folding).items() if button.isChecked()] == ["Samples"]
    folding.resize(320, 300)
    assert seen(folding) == ["Samples"]
    buttons(folding)["Settings"].click()
    assert seen(folding) == ["Settings"]
    folding.resize(600, 300)
    assert seen(folding) == ["Hook points", "Settings"]


def test_that_it_needs_no_more_width_than_its_widest_part_and_folds_when_that_grows(
    folding: Folding, qtbot: QtBot
) -> None:
    assert folding.minimumSizeHint().width() == 300
    folding.resize(760, 300)
    assert len(seen(folding)) == 3
    folding._parts["Settings"].setMinimumWidth(450)
    qtbot.waitUntil(lambda: seen(folding) == ["Hook points", "Settings"], timeout=2000)
