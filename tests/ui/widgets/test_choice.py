"""The box of long names."""

from __future__ import annotations

from pytestqt.qtbot import QtBot

from auditor.ui.widgets.choice import Choice


def test_that_a_long_name_is_cut_in_its_middle_and_the_figure_behind_it_never(qtbot: QtBot) -> None:
    name = "blocks.14.resid_post-topk-8192-" + "72236ae9" * 6
    made = Choice()
    qtbot.addWidget(made)
    made.add(name, "id", "  ·  8 192")
    made.resize(300, 28)
    made.show()
    shown = made.shown()
    assert shown.startswith("blocks") and shown.endswith("36ae9  ·  8 192") and "…" in shown
    assert made.fontMetrics().horizontalAdvance(shown) < 300 - 20
    assert name in made.toolTip()
    made.resize(900, 28)
    assert made.shown() == f"{name}  ·  8 192"
