"""Tokens in place: wrapping, hit testing, colours, cutting."""

from __future__ import annotations

import time

import pytest
from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QColor
from pytestqt.qtbot import QtBot

from auditor.ui import theme
from auditor.ui.widgets.token_view import TokenView

TOKENS = ["The", " door", " was", " lock", "ed", " from", " inside", ",\n", "if", " not", " ssl"]


def shown(qtbot: QtBot, width: int = 200, **settings: int) -> TokenView:
    view = TokenView(**settings)  # type: ignore[arg-type]
    qtbot.addWidget(view)
    view.resize(width, 200)
    view.show()
    return view


def test_that_every_token_is_found_where_it_is_drawn(qtbot: QtBot) -> None:
    view = shown(qtbot)
    view.set_tokens(TOKENS, [0.5] * len(TOKENS))
    for token in range(len(TOKENS)):
        assert view.token_at(view.area_of(token).center()) == token
    assert view.token_at(QPointF(199, 5000)) == -1
    assert view.area_of(3).top() == view.area_of(4).top(), "one word stays on one line"
    assert view.area_of(8).left() == 0, "a line feed begins a line"


def test_that_a_click_gives_the_token_and_arrows_move_along(qtbot: QtBot) -> None:
    view = shown(qtbot)
    view.set_tokens(TOKENS, [0.0] * len(TOKENS))
    with qtbot.waitSignal(view.token_clicked) as clicked:
        qtbot.mouseClick(view, Qt.MouseButton.LeftButton, pos=view.area_of(5).center().toPoint())
    assert clicked.args == [5]
    qtbot.keyClick(view, Qt.Key.Key_Right)
    with qtbot.waitSignal(view.token_clicked) as clicked:
        qtbot.keyClick(view, Qt.Key.Key_Return)
    assert clicked.args == [6]


def test_that_the_strongest_token_has_the_strongest_colour(qtbot: QtBot) -> None:
    view = shown(qtbot)
    view.set_tokens(["aa", " bb", " cc"], [0.0, 4.0, 2.0], high=4.0)
    picture = view.grab().toImage()

    def ground(token: int) -> QColor:
        area = view.area_of(token)
        return picture.pixelColor(int(area.left()) + 1, int(area.top()) + 1)

    assert ground(1) == theme.heat(4.0, 0.0, 4.0)
    assert ground(2) == theme.heat(2.0, 0.0, 4.0)
    assert "4.00" in view.describe(1)


def test_that_a_cut_view_keeps_the_token_in_focus(qtbot: QtBot) -> None:
    view = shown(qtbot, width=120, lines=2)
    view.set_tokens([f" word{i}" for i in range(200)], focus=150)
    assert not view.area_of(150).isEmpty()
    assert view.area_of(0).isEmpty()
    assert view.minimumHeight() <= 2 * theme.px(20) + 2


def test_that_values_must_match_the_tokens(qtbot: QtBot) -> None:
    with pytest.raises(ValueError, match="3 tokens but 2"):
        shown(qtbot).set_tokens(["a", "b", "c"], [1.0, 2.0])


def test_that_five_thousand_tokens_are_laid_out_and_painted_quickly(qtbot: QtBot) -> None:
    view = shown(qtbot, width=600)
    began = time.perf_counter()
    view.set_tokens([f" tok{i % 400}" for i in range(5000)], [i % 10 / 2 for i in range(5000)])
    view.grab()
    assert time.perf_counter() - began < 2.0
