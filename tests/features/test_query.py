"""The grammar of a feature search."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.base.errors import AuditorError
from auditor.features.query import Comparison, Query, Term, parse


def test_that_words_phrases_and_comparisons_stand_beside_one_another() -> None:
    query = parse('pad "load key" -wood -"dark room" density<0.01 max >= 5 image>40% modality:both')
    assert query.terms == (
        Term("pad"), Term("load key", phrase=True), Term("wood", absent=True), Term("dark room", True, True),
    )  # fmt: skip
    assert query.comparisons == (
        Comparison("density", "<", 0.01), Comparison("max_act", ">=", 5), Comparison("image_share", ">", 0.4),
    )  # fmt: skip
    assert query.modality == "both"
    assert query.parts[0] == "pad" and query.parts[4:6] == ("density<0.01", "max >= 5")


def test_that_keys_are_read() -> None:
    query = parse("like:1412 id:3,7,20-29 live:yes label:no sort:density-asc agreement:0.1..50%")
    assert (query.like, query.ids) == (1412, ((3, 3), (7, 7), (20, 29)))
    assert (query.live, query.labelled, query.sort, query.ascending) == (True, False, "density", True)
    assert query.comparisons == (Comparison("agreement", ">=", 0.1), Comparison("agreement", "<=", 0.5))


def test_that_a_part_can_be_taken_out_again() -> None:
    query = parse('padlock "a b" density<0.01 sort:max')
    assert parse(query.without(1)) == parse("padlock density<0.01 sort:max")
    assert parse(" ".join(query.parts)) == query


def test_that_an_empty_query_asks_for_everything() -> None:
    assert parse("") == parse("   ") == Query()


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("densty<0.1", "“densty”", "Did you mean “density”"),
        ("density<small", "“small” after “density”", "density<0.01"),
        ("density<", "“” after “density”", "density<0.01"),
        ("modality:sound", "“sound” after “modality:”", "text, image, both"),
        ("modalty:text", "“modalty:”", "Did you mean “modality:”"),
        ("like:abc", "“abc” after “like:”", "like:1412"),
        ("id:3-x", "“3-x” after “id:”", "id:3,20-29"),
        ("live:maybe", "“maybe” after “live:”", "yes, no"),
        ("sort:colour", "“colour”", "Columns:"),
        ("sort:max-up", "“max-up”", "sort:max"),
        ("sort:max sort:density", "“sort:” stands twice", "Keep one"),
        ('"open', "“open”", "Close it"),
        ("<5", "“<5”", "Columns:"),
        ("density:5", "“density:5”", "density<5"),
        ("http://example", "“http:”", "put it in quotes"),
        ("label:", "“label:”", "label:no"),
        ("x" * 3000, "3000 characters", "2000"),
    ],
)
def test_that_a_bad_query_names_the_word_and_what_is_allowed(text: str, message: str, hint: str) -> None:
    with pytest.raises(AuditorError) as error:
        parse(text)
    assert message in error.value.message and hint in error.value.hint


@settings(deadline=None)  # a machine that is busy is not slow
@given(st.text(max_size=60))
def test_that_any_text_is_read_or_refused_in_a_sentence(text: str) -> None:
    try:
        query = parse(text)
    except AuditorError as error:
        assert error.message and error.hint
    else:
        assert parse(" ".join(query.parts)).comparisons == query.comparisons
