"""Recording by several processes: the bytes of one process' store, whatever was stopped or killed on the way."""

from __future__ import annotations

import pytest

from auditor.base.errors import Stop
from auditor.sae.distributed.group import Broken
from auditor.store import open_store
from tests.torchrun.processes import together
from tests.torchrun.runs import (
    record_alone,
    record_as_planned,
    record_on_a_small_disk,
    record_share,
    record_until_killed,
)

PIECES = 8


@pytest.fixture(scope="module")
def alone(tiny_llama_folder, texts, tmp_path_factory):
    """The store that one process records."""
    store = open_store(together(1, record_alone, tmp_path_factory.mktemp("alone") / "p", tiny_llama_folder, texts)[0])
    assert len(store.manifest.shards) > 3 and store.n_samples == 120
    return store


def assert_same_bytes(path, expected):
    store = open_store(path)
    assert store.digest == expected.digest and store.n_samples == expected.n_samples
    store.check()
    assert [place.name for place in path.parent.iterdir()] == [path.name]


def test_that_several_record_the_same_bytes_after_a_stop(alone, tiny_llama_folder, texts, tmp_path):
    given = together(3, record_share, tmp_path / "p", tiny_llama_folder, texts, 5)
    assert [type(end) for end in given] == [Stop] * 3
    (parts,) = (tmp_path / "p/stores").glob("*.parts")
    assert 1 <= len(list(parts.glob("*.done"))) < PIECES
    given = together(2, record_share, tmp_path / "p", tiny_llama_folder, texts)
    assert_same_bytes(given[0], alone)
    assert given[1] is None


def test_that_several_record_as_many_samples_at_once_as_the_first_has_found(alone, tiny_llama_folder, texts, tmp_path):
    given = together(2, record_as_planned, tmp_path / "p", tiny_llama_folder, texts, 8, 5)
    assert [type(end) for end in given] == [Stop] * 2
    given = together(2, record_as_planned, tmp_path / "p", tiny_llama_folder, texts, 4)  # what was begun goes on so
    assert_same_bytes(given[0], alone)
    assert open_store(given[0]).meta["config"]["batch_size"] == 8


def test_that_one_process_goes_on_where_several_stopped(alone, tiny_llama_folder, texts, tmp_path):
    together(2, record_share, tmp_path / "p", tiny_llama_folder, texts, 9)
    assert_same_bytes(together(1, record_alone, tmp_path / "p", tiny_llama_folder, texts)[0], alone)


def test_that_the_piece_of_a_killed_process_is_taken_up_by_another(alone, tiny_llama_folder, texts, tmp_path):
    first, killed = together(2, record_until_killed, tmp_path / "p", tiny_llama_folder, texts)
    assert isinstance(first, Broken) and killed is None
    (path,) = (tmp_path / "p/stores").iterdir()
    assert_same_bytes(path, alone)
    # The same command registers what was finished.
    assert together(1, record_alone, tmp_path / "p", tiny_llama_folder, texts)[0] == path


def test_that_enough_positions_are_the_same_ones(tiny_llama_folder, texts, tmp_path):
    expected = together(1, record_alone, tmp_path / "a", tiny_llama_folder, texts, max_tokens=500)[0]
    found = together(3, record_share, tmp_path / "b", tiny_llama_folder, texts, max_tokens=500)[0]
    assert 500 <= open_store(expected).n_rows < 1000
    assert_same_bytes(found, open_store(expected))


def test_that_a_full_disk_pauses_each_process_and_is_told(alone, tiny_llama_folder, texts, small_disk):
    given = together(2, record_on_a_small_disk, small_disk / "p", tiny_llama_folder, texts, small_disk)
    assert_same_bytes(given[0][0], alone)
    assert "needs 1.0 MB" in given[1][1][0] and "rows are safe" in given[1][1][0]
    assert all("goes on by itself" in sentence for _, told in given for sentence in told)
