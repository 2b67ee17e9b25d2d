"""SAELens' cached activations: what the package wrote, folders that are damaged, and what it reads of ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.store import formats
from auditor.store.formats.saelens import CachedActivations
from auditor.store.formats.saelens_writer import write_cache
from auditor.store.formats.source import Vocabulary, import_source

FIXTURE = Path(__file__).parent / "fixtures" / "sae-lens"
HOOK = "blocks.3.hook_resid_post"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURE / "cache", tmp_path / "cache")
    return tmp_path / "cache"


def test_that_what_saelens_wrote_keeps_its_numbers_and_tokens(cache, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.formats.source._PIECE_BYTES", 400)  # pieces that cross the files
    held = formats.recognise(cache)
    assert held is not None and held.name == "saelens"
    source = held.open(cache)
    words = Vocabulary(lambda ids: [f" w{number}" for number in ids], frozenset({101}))
    store = import_source(source, tmp_path / "a.store", hooks={HOOK: "blocks.3.resid_post"}, vocabulary=words)
    source.close()
    with np.load(FIXTURE / "expected.npz") as expected:
        acts, tokens = expected["acts"], expected["tokens"]
    assert store.hook_points == {"blocks.3.resid_post": 6} and store.dtype == "float32"
    np.testing.assert_array_equal(store.rows(slice(None)), acts)
    np.testing.assert_array_equal(store.positions().token, tokens)
    np.testing.assert_array_equal(store.positions().unit, np.tile(np.arange(5), 8))
    assert store.n_samples == 8 and list(store.sample(1).tokens) == [f" w{number}" for number in tokens[5:10]]
    assert store.counts()["text"] == int((tokens != 101).sum())


def test_that_a_copy_from_the_hub_is_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.formats.source._PIECE_BYTES", 400)
    held = formats.recognise(FIXTURE / "hub")
    assert held is not None and held.name == "saelens"
    source = held.open(FIXTURE / "hub")
    store = import_source(source, tmp_path / "a.store")
    source.close()
    with np.load(FIXTURE / "expected.npz") as expected:
        np.testing.assert_array_equal(store.rows(slice(None)), expected["acts"])
        np.testing.assert_array_equal(store.positions().token, expected["tokens"])
    assert store.meta["cached"]["model_name"] == "gelu-1l" and store.meta["cached"]["context_size"] == 5


def test_that_no_pickle_and_no_other_folder_is_reached(cache) -> None:
    state = json.loads((cache / "state.json").read_text())
    for name in ("../cache/data-00000-of-00002.arrow", "a/b.arrow", "x.pkl", 7):
        state["_data_files"][0]["filename"] = name
        (cache / "state.json").write_text(json.dumps(state))
        with pytest.raises(AuditorError, match="names no Arrow files"):
            CachedActivations(cache)
    state["_data_files"][0]["filename"] = "gone.arrow"
    (cache / "state.json").write_text(json.dumps(state))
    with pytest.raises(AuditorError, match=r"gone.arrow” is missing"):
        CachedActivations(cache)


@pytest.mark.parametrize("seed", range(6))
def test_that_damaged_files_are_told_and_not_crashed_on(cache, seed) -> None:
    file = cache / "data-00000-of-00002.arrow"
    data, rng = bytearray(file.read_bytes()), np.random.default_rng(seed)
    if seed == 0:
        data = data[: len(data) // 2]
    else:
        for at in rng.integers(0, len(data) * 2 // 3, 40):
            data[at] = int(rng.integers(256))
    file.write_bytes(bytes(data))
    try:
        source = CachedActivations(cache)
    except AuditorError as error:
        assert file.name in error.message or "process that read" in error.message or cache.name in error.message
        return
    try:
        piece = source.piece(0, source.n_samples)
        assert piece.rows[next(iter(piece.rows))].shape[0] == source.n_positions
    except AuditorError as error:
        assert error.message
    finally:
        source.close()


def test_that_a_store_that_is_written_for_saelens_is_the_same_when_it_comes_back(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.formats.saelens_writer.FILE_BYTES", 4 * 5 * 6 * 3)
    monkeypatch.setattr("auditor.store.formats.saelens_writer._PIECE_BYTES", 4 * 5 * 6 * 2)
    monkeypatch.setattr("auditor.store.formats.saelens_writer.CONTEXT", 5)
    store, rows, tokens = made(tmp_path, [5, 5, 4, 5, 5, 5, 5, 5])
    told = write_cache(store, "blocks.3.resid_post", tmp_path / "out")
    assert told == {"sequences": 7, "context": 5, "rows_left_out": 4}
    assert len(list((tmp_path / "out").glob("*.arrow"))) == 3
    source = CachedActivations(tmp_path / "out")
    back = import_source(source, tmp_path / "b.store")
    source.close()
    assert list(back.hook_points) == [HOOK]
    np.testing.assert_array_equal(back.rows(slice(None)), rows[:35])
    np.testing.assert_array_equal(back.positions().token, tokens[:35])


def test_that_samples_of_one_length_stay_whole_for_saelens_and_few_rows_of_others_are_left_out(tmp_path) -> None:
    store, _, _ = made(tmp_path, [7] * 6)
    assert write_cache(store, None, tmp_path / "alike") == {"sequences": 6, "context": 7, "rows_left_out": 0}
    store, _, _ = made(tmp_path / "texts", np.random.default_rng().permutation(np.arange(3, 40)))  # 777 rows
    assert write_cache(store, None, tmp_path / "cut") == {"sequences": 6, "context": 128, "rows_left_out": 9}


def made(folder, lengths):
    from auditor.store import StoredSample, StoreWriter

    rng, n = np.random.default_rng(2), sum(lengths)
    folder.mkdir(exist_ok=True)
    sample = np.repeat(np.arange(len(lengths)), lengths)
    rows, tokens = rng.normal(size=(n, 6)).astype("f4"), rng.integers(0, 99, n)
    with StoreWriter(folder / "a.store", {"blocks.3.resid_post": 6}, {}, "float32") as writer:
        writer.append([StoredSample(f"s{number}") for number in range(len(lengths))], {"blocks.3.resid_post": rows},
                      sample, np.zeros(n, int), np.ones(n, int), tokens)  # fmt: skip
        return writer.finish(), rows, tokens
