"""Searching an index: words, figures, orders, human labels, and a million rows."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.features.index import Index, open_index
from auditor.features.query import parse
from auditor.features.search import answer
from auditor.features.table import empty_table, modality
from tests.features.conftest import DEAD, GENERIC, IMAGE_ONLY, PLANTED, TEXT_ONLY, WIDTH, Planted


def test_that_a_word_finds_its_beginnings_and_quotes_find_the_phrase(index: Index) -> None:
    assert PLANTED in index.search("padl")
    assert PLANTED in index.search('"a padlock"')
    assert PLANTED not in index.search('"padlock a"')
    assert PLANTED not in index.search("-padlock")
    assert len(index.search("zebra")) == 0
    assert len(index.search("padlock zebra")) == 0


def test_that_figures_are_compared_as_numpy_compares_them(index: Index) -> None:
    table = index.table
    for query, mask in (
        ("density<0.1", table["density"] < 0.1),
        ("density>=10%", table["density"] >= 0.1),
        ("max>5 image<0.5", (table["max_act"] > 5) & (table["image_share"] < 0.5)),
        ("mean:0.2..0.4", (table["mean_act"] >= 0.2) & (table["mean_act"] <= 0.4)),
        ("agreement>0.5", table["agreement"] > 0.5),
    ):
        assert np.array_equal(index.search(query), np.flatnonzero(mask))


def test_that_keys_choose_modality_life_and_numbers(index: Index) -> None:
    assert PLANTED in index.search("modality:both") and TEXT_ONLY in index.search("modality:text")
    assert IMAGE_ONLY in index.search("modality:image") and TEXT_ONLY not in index.search("modality:both")
    assert list(index.search("live:no")) == [DEAD]
    assert DEAD not in index.search("modality:text") and DEAD not in index.search("live:yes")
    assert list(index.search("id:2,5-7")) == [2, 5, 6, 7]
    assert list(index.search("sort:id", limit=2)) == [WIDTH - 1, WIDTH - 2]


def test_that_orders_put_the_largest_first_and_the_unknown_last(index: Index) -> None:
    assert index.search("sort:max")[0] == int(index.table["max_act"].argmax())
    assert index.search("sort:density")[0] == GENERIC
    assert index.search("sort:density-asc")[0] == DEAD
    assert np.isnan(index.table["mean_act"][index.search("sort:mean")[-1]])
    assert np.isnan(index.table["mean_act"][index.search("sort:mean-asc")[-1]])


def test_that_like_goes_by_decoder_cosine(index: Index, planted: Planted) -> None:
    W = planted.sae.W_dec.numpy()
    unit = W / np.linalg.norm(W, axis=1, keepdims=True)
    cosines = unit @ unit[8]
    assert list(index.search("like:8")) == list(np.argsort(-cosines))[:17]
    with open_index(index.path) as other:
        other.use_directions(W)
        assert list(other.search("like:8")) == list(np.argsort(-cosines))
        assert other.feature(8).nearest[0][0] == int(np.argsort(-cosines)[1])
    assert set(index.search("like:8 modality:text")) == set(index.search("like:8")) & set(index.search("modality:text"))
    with pytest.raises(AuditorError, match="no feature 99"):
        index.search("like:99")


def test_that_human_labels_are_found_come_first_and_can_be_undone(index: Index, tmp_path: Path) -> None:
    with open_index(index.path, labels=tmp_path / "labels.sqlite") as own:
        assert own.labels[TEXT_ONLY] == own.auto_labels[TEXT_ONLY]
        own.set_label(TEXT_ONLY, "Padlock-like noise", "Ada")
        assert list(own.search("padlock", limit=1)) == [TEXT_ONLY]
        assert list(own.search("label:yes")) == [TEXT_ONLY] and TEXT_ONLY not in own.search("label:no")
        assert own.labels[TEXT_ONLY] == own.feature(TEXT_ONLY).title == "Padlock-like noise"
        assert own.feature(TEXT_ONLY).labelled and not own.feature(PLANTED).labelled
        assert own.human is not None
        own.human.undo("Ada")
        assert own.labels[TEXT_ONLY] == own.auto_labels[TEXT_ONLY] and len(own.search("label:yes")) == 0
        with pytest.raises(AuditorError, match="no feature 99"):
            own.set_label(99, "x", "Ada")
    with pytest.raises(AuditorError, match="without a file for labels"):
        index.set_label(1, "x", "Ada")


@pytest.mark.parametrize(
    "text", ['"', "'; DROP TABLE words; --", "NEAR(a b)", "a AND OR", "label:x", "*", "\x00pad", "^x", "{a}:b"]
)
def test_that_no_text_reaches_the_database_as_syntax(index: Index, text: str) -> None:
    try:
        index.search(text)
    except AuditorError as error:
        assert "cannot be read" not in error.message
    assert PLANTED in index.search("padlock")


class _Million:
    """A table of a million features without words."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.table = empty_table(1_000_000)
        for name in ("density", "max_act", "image_balance", "max_text", "max_image"):
            self.table[name] = rng.random(1_000_000)
        self.table["fires_text"] = self.table["fires_image"] = 9
        self.columns = {name: np.ascontiguousarray(self.table[name]) for name in self.table.dtype.names or ()}

    def words(self, match: str) -> list[tuple[int, float]]:
        return []

    def human_words(self, match: str) -> list[int]:
        return []

    def human_labels(self) -> dict[int, str]:
        return {}

    def nearest(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        return np.array([feature]), np.array([1.0])


def test_that_a_million_rows_are_filtered_within_fifty_milliseconds() -> None:
    index = _Million()
    query = parse("density<0.01 max>0.5 modality:both")
    seconds = []  # of the processor: other work on the machine is not this search’s
    for _ in range(7):
        start = time.thread_time()
        found = answer(index, query)
        seconds.append(time.thread_time() - start)
    wanted = (index.table["density"] < 0.01) & (index.table["max_act"] > 0.5) & (modality(index.table) == 3)
    assert np.array_equal(found, np.flatnonzero(wanted))
    assert min(seconds) < 0.05
