"""A million rows: order, selection and bars."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PySide6.QtCore import Qt
from PySide6.QtGui import QFontMetrics
from pytestqt.qtbot import QtBot

from auditor.ui import theme
from auditor.ui.widgets.big_table import BigTable, Column, sorted_order


@pytest.fixture
def rows() -> NDArray[Any]:
    generator = np.random.default_rng(np.random.SeedSequence().entropy)
    made = np.zeros(1000, dtype=[("id", np.int64), ("max", np.float32)])
    made["id"] = np.arange(1000)
    made["max"] = generator.random(1000)
    made["max"][::9] = np.nan
    return made


def table(qtbot: QtBot, rows: NDArray[Any]) -> BigTable:
    labels = [f"label {i % 7}" for i in range(len(rows))]
    made = BigTable([Column("id", "id"), Column("label", "label", values=labels, width=200),
                     Column("max", "max", bar=True)])  # fmt: skip
    qtbot.addWidget(made)
    made.set_rows(rows)
    made.resize(400, 300)
    made.show()
    return made


def test_that_sorting_agrees_with_python_and_puts_missing_values_last(rows: NDArray[Any]) -> None:
    shown = np.flatnonzero(rows["id"] % 2 == 0)
    for falling in (False, True):
        order = sorted_order(rows["max"], shown, falling)
        have = [row for row in shown if not np.isnan(rows["max"][row])]
        wanted = sorted(have, key=lambda row: rows["max"][row], reverse=falling)
        assert order[: len(wanted)].tolist() == wanted
        assert np.isnan(rows["max"][order[len(wanted) :]]).all()
    words = np.array(["b", "a", "b", "a"], dtype=object)
    assert sorted_order(words, np.arange(4), True).tolist() == [0, 2, 1, 3]


def test_that_signals_carry_rows_of_the_array_whatever_the_order(qtbot: QtBot, rows: NDArray[Any]) -> None:
    shown = table(qtbot, rows)
    chosen: list[int] = []
    shown.row_selected.connect(chosen.append)
    shown.sortByColumn(2, Qt.SortOrder.DescendingOrder)
    top = int(np.nanargmax(rows["max"]))
    shown.selectRow(0)
    assert chosen == [top]
    assert shown.selected == top
    shown.set_order(np.array([5, top, 3]))
    assert shown.currentIndex().row() == 1
    assert chosen == [top]


def test_that_numbers_are_written_with_three_figures_and_one_outlier_leaves_the_other_bars(
    qtbot: QtBot, rows: NDArray[Any]
) -> None:
    rows["max"][:3] = [0.5, 1234.5, np.nan]
    shown = table(qtbot, rows)
    model = shown.model()
    assert [model.index(row, 2).data() for row in range(3)] == ["0.500", "1\u202f234", "–"] or [
        model.index(row, 2).data() for row in range(3)
    ] == ["0.500", "1\u202f235", "–"]
    bar = Qt.ItemDataRole.UserRole + 1
    assert model.index(1, 2).data(bar) == pytest.approx(1.0)
    assert 0.45 < model.index(0, 2).data(bar) < 0.65
    assert model.index(2, 2).data(bar) == 0


def test_that_no_number_is_ever_cut(qtbot: QtBot) -> None:
    rows = np.zeros(5000, dtype=[("id", np.int64), ("small", np.float64), ("label", "O")])
    rows["id"] = np.arange(5000) * 1_000_003
    rows["small"] = np.random.default_rng().normal(0, 1e-5, 5000)
    rows["small"][1234] = -1.23456789e-280
    rows["label"] = "a long name that may be cut"
    made = BigTable([Column("id", "id", width=20), Column("small", "s", width=20), Column("label", "l", width=50)])
    qtbot.addWidget(made)
    made.set_rows(rows)
    made.resize(300, 200)
    made.show()
    metrics = QFontMetrics(theme.font("table"))
    for column in (0, 1):
        texts = [made.model().index(row, column).data() for row in range(5000)]
        longest = max(metrics.horizontalAdvance(text) for text in texts)
        assert longest + 10 <= made.columnWidth(column)


def test_that_a_million_rows_are_shown_and_sorted_off_the_gui_thread(qtbot: QtBot) -> None:
    rows = np.zeros(1_000_000, dtype=[("id", np.int32), ("max", np.float32)])
    rows["id"] = np.arange(len(rows))
    rows["max"] = np.random.default_rng().random(len(rows))
    asked: list[str] = []

    def offload(key: str, function: Any, then: Any) -> None:
        asked.append(key)
        then(function())

    made = BigTable([Column("id", "id"), Column("max", "max", bar=True)], offload)
    qtbot.addWidget(made)
    made.set_rows(rows)
    made.show()
    made.sortByColumn(0, Qt.SortOrder.DescendingOrder)
    assert len(asked) == 1
    assert made.order[0] == 999_999
    assert not made.grab().isNull()
