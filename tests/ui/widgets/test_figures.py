"""A line of figures, or two where it is narrow."""

from __future__ import annotations

from PySide6.QtCore import QPoint
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from auditor.ui.widgets.figures import Figure, Figures


def places(made: Figures) -> list[tuple[int, int]]:
    """Where the values stand."""
    QApplication.processEvents()
    found = [value.mapTo(made, QPoint(0, 0)) for value, _ in made._values.values()]
    return [(place.x(), place.y()) for place in found]


def test_that_figures_take_two_lines_where_one_is_too_narrow(qtbot: QtBot) -> None:
    made = Figures(("rows", "width", "numbers", "on disk"))
    qtbot.addWidget(made)
    made.show()
    made.show_figures({"rows": Figure("4\u202f000\u202f000"), "width": Figure("576", "dimensions")})
    made.resize(600, 60)
    assert len({y for _, y in places(made)}) == 1 and len({x for x, _ in places(made)}) == 4
    made.resize(made.minimumSizeHint().width(), 120)
    assert len({y for _, y in places(made)}) == 2 and len({x for x, _ in places(made)}) == 2
    assert all(value.width() >= value.sizeHint().width() for value, _ in made._values.values())
    made.resize(600, 60)
    assert len({y for _, y in places(made)}) == 1
