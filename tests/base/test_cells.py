"""Cells that a spreadsheet would compute are told apart from those that are text."""

from __future__ import annotations

import pytest

from auditor.base.cells import safe_cell


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@x", " =1", "\t=1", "\tx", "\r1", "\u00a0\ufeff =1", "|x", "＝1", "＠x"]
)
def test_that_what_a_spreadsheet_would_compute_is_made_text(text: str) -> None:
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "padlock, locked", "a=b", "1", "¬", " x"])
def test_that_other_text_stays_as_it_is(text: str) -> None:
    assert safe_cell(text) == text
