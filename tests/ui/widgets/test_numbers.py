"""How numbers are written."""

from __future__ import annotations

import math

import pytest

from auditor.ui.widgets.numbers import count, duration, figure, interval, share, short, short_share, size, thin


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (18.24, "18.2"), (0.31234, "0.312"), (0.00310, "0.00310"), (1234.5678, "1\u202f235"), (-2.1, "−2.10"),
     (3.2e-7, "3.20e−7"), (4e9, "4.00e9"), (math.nan, "–"), (-math.inf, "−∞")],
)  # fmt: skip
def test_that_three_figures_are_kept(value: float, text: str) -> None:
    assert figure(value) == text


def test_that_units_shares_and_times_read_as_the_house_writes_them() -> None:
    assert figure(18.2, "ms") == "18.2 ms"
    assert count(1234567) == "1\u202f234\u202f567"
    assert share(0.0031) == "0.310 %"
    assert interval(0.71, 0.66, 0.76) == "0.710 [0.660, 0.760]"
    assert size(3_140_000) == "3.14 MB"
    assert [duration(s) for s in (0.2, 40, 240, 7800)] == ["1 s", "40 s", "4 min", "2 h 10 min"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.2094, "0.209"), (0.0604, "0.060"), (0.0001, "<0.001"), (-0.0001, ">−0.001"), (18.24, "18.2"),
     (math.nan, "–"), (999.6, "1\u202f000")],
)  # fmt: skip
def test_that_a_narrow_column_has_three_figures_and_three_decimals_at_most(value: float, text: str) -> None:
    assert short(value) == text
    assert short_share(value / 100) == (f"{text} %" if text != "–" else text)


def test_that_numbers_of_the_command_line_are_written_as_the_window_writes_them() -> None:
    assert thin("1,490 positions, 56 of 1,234,567 samples, 3,4") == (
        "1\u202f490 positions, 56 of 1\u202f234\u202f567 samples, 3,4"
    )
