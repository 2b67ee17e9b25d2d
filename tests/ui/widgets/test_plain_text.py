"""Foreign text: nothing hides in it and nothing is taken for markup."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from pytestqt.qtbot import QtBot

from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel, menu_text, token_text, tooltip, visible

_UNSEEN = ["\u202e", "\u200b", "\u200d", "\u2066", "\ufeff", "\x00", "\x1b", "\u00ad", "\U000e0041", "\u3164", "\u2028"]


def test_that_every_unseen_character_is_written_out() -> None:
    for char in _UNSEEN:
        shown = visible(f"a{char}b")
        assert char not in shown
        assert len(shown) > 2
    assert visible("a\u202eb") == "a⟦U+202E⟧b"
    assert visible("a\nb\tc") == "a⏎b⇥c"
    assert visible("a\nb", keep="\n") == "a\nb"


def test_that_ordinary_text_of_the_world_stays_as_it_is() -> None:
    for text in ("padlock, locked", "Schlüssel", "鍵", "مفتاح", "ключ", "🔒", "❤\ufe0f", "naïve"):
        assert visible(text) == text


@settings(deadline=None)  # a machine that is busy is not slow
@given(st.text(max_size=30))
def test_that_what_is_visible_once_stays_so(text: str) -> None:
    assert visible(visible(text)) == visible(text)


def test_that_a_lone_combining_mark_stands_on_a_circle() -> None:
    assert token_text("\u0301x") == "◌\u0301x"


def test_that_markup_is_shown_and_not_obeyed(qtbot: QtBot) -> None:
    nasty = "<b>x</b><img src=file:///etc/passwd>"
    for label in (PlainLabel(nasty), ElidedLabel(nasty)):
        qtbot.addWidget(label)
        assert label.text() == nasty
        assert label.textFormat().name == "PlainText"
    assert "<img" not in tooltip(nasty)
    assert menu_text("Save & close") == "Save && close"


def test_that_a_label_of_one_line_stays_one_line(qtbot: QtBot) -> None:
    made = ElidedLabel("new\nline")
    qtbot.addWidget(made)
    assert made.text() == "new⏎line"
    made.setText("a\nb")
    assert made.text() == "a⏎b"
