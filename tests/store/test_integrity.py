"""Damage is found block by block and told by the rows it hit; stores of the first version are still read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from auditor.base.digest import canonical_json, sha256_bytes, sha256_file
from auditor.base.errors import AuditorError
from auditor.base.events import Event, Partial, Progress
from auditor.base.reporter import EventReporter
from auditor.intake.hdf5 import h5py
from auditor.store import Store, StoredSample, StoreWriter, open_store
from auditor.store.layout import MANIFEST

WIDTH = 32


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    """3,000 rows at two hook points, in shards of 1,024 rows and blocks of 4 KiB (64 rows)."""
    monkeypatch.setattr("auditor.store.open_shard.BLOCK_BYTES", 4096)
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "a.store", {"a": WIDTH, "b": WIDTH}, {}, shard_bytes=1024 * 4 * WIDTH) as writer:
        for number in range(30):
            rows = {hook: rng.normal(size=(100, WIDTH)) for hook in ("a", "b")}
            columns = (np.zeros(100, int), np.arange(100), np.ones(100), np.ones(100))
            writer.append([StoredSample(f"s{number}", text="x" * 500)], rows, *columns)
        return writer.finish()


def flip(store: Store, shard: int, offset: int) -> None:
    with open(store.path / store.manifest.shards[shard].file, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_that_damage_is_told_by_its_shard_bytes_and_rows(store) -> None:
    store.check()
    facts = store.manifest.shards[1]
    flip(store, 1, facts.datasets["rows/b"].offset + 2 * WIDTH * 200 + 5)
    events: list[Event] = []
    with pytest.raises(AuditorError, match=r"shard-00001\.h5 .*digest differs in bytes [\d,]+–[\d,]+") as caught:
        store.check(EventReporter(events.append))
    (damage,) = [event.data for event in events if isinstance(event, Partial)]
    assert damage["stop"] - damage["start"] == 4096 and "more places" not in caught.value.message
    first, last = damage["holds"].removeprefix("rows ").removesuffix(" of b").split("–")
    assert int(first) <= 200 <= int(last) < 300 and damage["holds"] in caught.value.message
    told = [event for event in events if isinstance(event, Progress)]
    assert told[-1].done == told[-1].total == sum(shard.bytes for shard in store.manifest.shards)
    assert told[-1].note == "1 damaged"


def test_that_every_byte_counts_and_all_damage_is_counted(store) -> None:
    rng = np.random.default_rng(1)
    for shard, facts in enumerate(store.manifest.shards):
        assert sha256_file(store.path / facts.file) == facts.sha256
        for offset in rng.integers(0, facts.bytes, 8).tolist():
            flip(store, shard, offset)
            with pytest.raises(AuditorError, match=rf"{facts.file} .*digest differs"):
                store.check()
            flip(store, shard, offset)
    store.check()
    flip(store, 0, 0)
    flip(store, 2, store.manifest.shards[2].datasets["samples/record"].offset)
    with pytest.raises(AuditorError, match=r"shard-00000.*its HDF5 structures.* and 1 more place"):
        store.check()


@pytest.mark.parametrize("change", ["text beside", "other byte order"])
def test_that_a_shard_that_tells_other_programs_something_else_is_told(store, change) -> None:
    path = store.path / store.manifest.shards[0].file
    with h5py.File(path, "r+") as file:
        if change == "text beside":
            file["note"] = "what the manifest does not tell"
        else:
            rows = file["rows/a"][:]
            del file["rows/a"]
            file.create_dataset("rows/a", data=rows.astype(">f2"))
            offset = int(file["rows/a"].id.get_offset())
    data = path.read_bytes()
    manifest = json.loads((store.path / MANIFEST).read_text())
    shard = manifest["shards"][0]
    if change != "text beside":
        shard["datasets"]["rows/a"]["offset"] = offset
    blocks = [sha256_bytes(data[at : at + 4096]) for at in range(0, len(data), 4096)]
    shard |= {"bytes": len(data), "sha256": sha256_bytes(data), "blocks": blocks}
    (store.path / MANIFEST).write_bytes(canonical_json(manifest))
    with pytest.raises(AuditorError, match="other datasets than its manifest tells"):
        open_store(store.path).check()


def test_that_a_store_of_version_1_is_read_with_the_digest_it_had(store) -> None:
    """Its shards were the same; its manifest told less."""
    manifest = json.loads((store.path / MANIFEST).read_text())
    for shard in manifest["shards"]:
        for name in ("folder", "block_bytes", "blocks", "group_rows", "quantised"):
            del shard[name]
    del manifest["groups"], manifest["scales"]
    manifest["version"] = 1
    (store.path / MANIFEST).write_bytes(canonical_json(manifest))
    old = open_store(store.path)
    del manifest["places"]
    assert old.digest == sha256_bytes(canonical_json(manifest)) != store.digest
    np.testing.assert_array_equal(old.rows([5, 2999], "b"), store.rows([5, 2999], "b"))
    old.check()
    flip(store, 1, store.manifest.shards[1].bytes // 2)
    with pytest.raises(AuditorError, match=r"shard-00001.*digest differs"):
        old.check()


def test_that_blocks_that_do_not_cover_a_shard_are_refused(store) -> None:
    good = json.loads((store.path / MANIFEST).read_text())
    shard = good["shards"][0]
    for change in ({"blocks": shard["blocks"][:-1]}, {"block_bytes": 8192}, {"blocks": []}, {"block_bytes": -1},
                   {"folder": "/etc"}, {"folder": "..//x"}, {"folder": "../a/../b"}, {"folder": "a/.."}):  # fmt: skip
        (store.path / MANIFEST).write_text(json.dumps(good | {"shards": [shard | change, *good["shards"][1:]]}))
        with pytest.raises(AuditorError):
            open_store(store.path)
