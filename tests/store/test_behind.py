"""Going on from a finished store: a new one that holds its rows by reference."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.store import Store, StoreWriter, open_store
from auditor.store.export import export_hook
from auditor.store.layout import MANIFEST
from auditor.store.record import RecordConfig, record
from auditor.store.replay import replay


def config(**changes) -> RecordConfig:
    settings = {"model": "tiny", "samples": "texts", "batch_size": 8, "context": 40, "split_long": False}
    return RecordConfig(**settings | changes)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.writer.SHARD_BYTES", 300_000)


@pytest.fixture(scope="module")
def recorded(tiny_llama, texts, tmp_path_factory):
    """A store of 24 texts, and one behind it of 16 more."""
    folder = tmp_path_factory.mktemp("behind")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("auditor.store.writer.SHARD_BYTES", 300_000)
        old = record(config(), tiny_llama, texts[:24], folder / "old.store")
        new = record(config(), tiny_llama, texts[24:40], folder / "new.store", base=old)
    return old, new


@pytest.fixture
def both(recorded, tmp_path) -> tuple[Store, Store]:
    for store in recorded:
        shutil.copytree(store.path, tmp_path / store.path.name)
    return open_store(tmp_path / "old.store"), open_store(tmp_path / "new.store")


def test_that_the_old_rows_come_first_and_stay_where_they_are(recorded, tiny_llama, texts, tmp_path) -> None:
    old, new = recorded
    alone = record(config(), tiny_llama, texts[24:40], tmp_path / "alone.store")
    assert (new.n_rows, new.n_samples) == (old.n_rows + alone.n_rows, 40)
    whole = new.rows(slice(None))
    np.testing.assert_array_equal(whole[: old.n_rows], old.rows(slice(None)))
    np.testing.assert_array_equal(whole[old.n_rows :], alone.rows(slice(None)))
    assert new.positions().sample[old.n_rows :].tolist() == (alone.positions().sample + 24).tolist()
    assert new.sample(30).text == alone.sample(6).text and new.sample(30).batch == 3
    assert sum(map(len, new.batches(64, epochs=1))) == new.n_batch_rows() > old.n_batch_rows()
    own = [file.name for file in new.path.glob("shard-*.h5")]
    assert own and not {shard.file for shard in old.manifest.shards} & set(own)
    assert new.meta["appended_to"] == {
        "name": "old", "digest": old.digest, "rows": old.n_rows, "samples": 24, "shards": len(old.manifest.shards),
    }  # fmt: skip
    assert replay(new, tiny_llama, texts[24:40], 1).equal
    new.check()


def test_that_an_interrupted_one_goes_on_to_the_same_bytes(recorded, tiny_llama, texts, tmp_path) -> None:
    old, new = recorded
    half = record(config(max_tokens=100), tiny_llama, texts[24:40], tmp_path / "half.store", base=old)
    assert old.n_rows + 100 <= half.n_rows < new.n_rows
    columns, hook = ("sample", "unit", "kind", "token"), "blocks.1.resid_post"
    with StoreWriter(
        tmp_path / "b.store", {hook: old.hook_points[hook]}, {"model": old.meta["model"]}, base=old
    ) as one:
        n = old.sample(0).n_rows
        where = old.positions(slice(0, n))
        first = [old.sample(0)]
        one.append(first, {hook: old.rows(slice(0, n))}, *(getattr(where, name) for name in columns))
        one.flush()
        assert (one.n_rows, one.n_samples, one.n_batches) == (n, 1, 1)
    with StoreWriter(
        tmp_path / "b.store", {hook: old.hook_points[hook]}, {"model": old.meta["model"]}, base=old
    ) as one:
        assert (one.n_rows, one.n_samples, one.n_batches) == (n, 1, 1)
        assert one.finish().n_rows == old.n_rows + n


def test_that_a_third_refers_to_the_first_and_the_second(both, tiny_llama, texts, tmp_path) -> None:
    old, new = both
    (tmp_path / "deep").mkdir()
    third = record(config(), tiny_llama, texts[40:48], tmp_path / "deep" / "third.store", base=new)
    assert third.n_samples == 48 and third.sample(3).text == old.sample(3).text
    assert {shard.folder for shard in third.manifest.shards} == {"../../old.store", "../../new.store", ""}
    shutil.move(tmp_path / "old.store", tmp_path / "elsewhere.store")
    with pytest.raises(AuditorError, match=r"of the store “old\.store”, which “third\.store” goes on from, is missing"):
        open_store(third.path)


def test_that_an_old_store_that_is_gone_or_changed_gets_one_sentence(both) -> None:
    old, new = both
    shard = old.path / "shard-00000.h5"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(AuditorError, match=r"which “new\.store” goes on from, is not what was recorded"):
        open_store(new.path).check()
    shutil.rmtree(old.path)
    with pytest.raises(AuditorError, match="goes on from, is missing") as caught:
        open_store(new.path)
    assert f"Put “old.store” back as “{old.path}”" in caught.value.hint


def test_that_both_move_together_and_export_as_one(both, tmp_path) -> None:
    _, new = both
    rows = new.rows(slice(None))
    (tmp_path / "there").mkdir()
    for name in ("old.store", "new.store"):
        shutil.move(tmp_path / name, tmp_path / "there" / name)
    moved = open_store(tmp_path / "there" / "new.store")
    assert moved.digest == new.digest
    np.testing.assert_array_equal(np.load(export_hook(moved, None, tmp_path / "a.npy")), rows.astype(np.float16))


def test_that_only_what_fits_together_is_appended(recorded, tiny_llama, tiny_paired, texts, tmp_path) -> None:
    old, _ = recorded
    for changes, said in (
        ({"hooks": ("blocks.0.resid_post",)}, "hook points"), ({"store_dtype": "float32"}, "stored numbers"),
    ):  # fmt: skip
        with pytest.raises(AuditorError, match=rf"must have its .*{said}"):
            record(config(**changes), tiny_llama, texts[24:40], tmp_path / "b.store", base=old)
    with pytest.raises(AuditorError, match=r"must have its .*model"):
        record(config(hooks=("blocks.1.resid_post",)), tiny_paired, texts[24:40], tmp_path / "b.store", base=old)
    assert not (tmp_path / "b.store").exists()


def test_that_a_manifest_cannot_reach_for_other_files(both, tmp_path) -> None:
    _, new = both
    manifest = json.loads((new.path / MANIFEST).read_text())
    first = manifest["shards"][0]
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.pem").write_bytes(b"x" * first["bytes"])
    for change in ({"folder": "../secret", "file": "key.pem"}, {"folder": str(secret)}, {"folder": "../secret"}):
        (new.path / MANIFEST).write_text(json.dumps(manifest | {"shards": [first | change, *manifest["shards"][1:]]}))
        with pytest.raises(AuditorError):
            open_store(new.path)
