"""The map of many figures: what a cell says, by mouse and by key, and where there is none."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from pytestqt.qtbot import QtBot

from auditor.ui.widgets.heat_map import HeatMap

VALUES = [[0.5, -1.0, 0.0], [None, 2.0, 0.25]]


@pytest.fixture
def heat_map(qtbot: QtBot) -> HeatMap:
    made = HeatMap(["blocks.0.z", "blocks.1.z"], ["0", "1", "2"], VALUES, lambda row, column: f"{row} {column}")
    qtbot.addWidget(made)
    made.resize(400, 60)
    made.show()
    return made


def middle(heat_map: HeatMap, row: int, column: int) -> QPointF:
    return heat_map._cell_area(row, column).center()


def test_that_each_cell_is_found_where_it_is_drawn(heat_map: HeatMap) -> None:
    for row in range(2):
        for column in range(3):
            found = heat_map.cell_at(middle(heat_map, row, column))
            assert found == (None if VALUES[row][column] is None else (row, column))
    assert heat_map.cell_at(QPointF(1, 1)) is None


def test_that_colours_are_two_sided_and_nothing_is_drawn_where_there_is_no_figure(heat_map: HeatMap) -> None:
    image = heat_map.grab().toImage()
    inside = {at: image.pixelColor(middle(heat_map, *at).toPoint()) for at in ((0, 0), (0, 1), (1, 0), (1, 1))}
    assert len({colour.name() for colour in inside.values()}) == 4
    assert inside[1, 0] == image.pixelColor(QPoint(image.width() - 1, 2))  # the ground


def test_that_a_click_and_the_arrow_keys_choose_and_read_a_cell(heat_map: HeatMap, qtbot: QtBot) -> None:
    chosen: list[tuple[int, int]] = []
    told: list[str] = []
    heat_map.chosen.connect(lambda row, column: chosen.append((row, column)))
    heat_map.read.connect(told.append)
    qtbot.mouseClick(heat_map, Qt.MouseButton.LeftButton, pos=middle(heat_map, 0, 1).toPoint())
    qtbot.keyClick(heat_map, Qt.Key.Key_Right)
    qtbot.keyClick(heat_map, Qt.Key.Key_Down)
    qtbot.keyClick(heat_map, Qt.Key.Key_Right)
    assert chosen == [(0, 1), (0, 2), (1, 2), (1, 0)]
    assert told[-1] == "1 0" and heat_map.accessibleDescription() == "1 0"
