"""Damage is found block by block and told by the rows it hit; stores of the first version are still read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.base.digest import canonical_json, sha256_bytes, sha256_file
from auditor.base.errors import AuditorError
from auditor.base.events import Event, Partial, Progress
from auditor.base.reporter import EventReporter
from auditor.intake.hdf5 import h5py
from auditor.store import Store, StoredSample, StoreWriter, integrity, open_store
from auditor.store.integrity import BlockDigests
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


def _blocks(data: bytes) -> list[str]:
    return [sha256_bytes(data[at : at + 4096]) for at in range(0, len(data), 4096)]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_that_blocks_are_digested_as_they_are_written_whatever_the_order_of_writing(tmp_path_factory, data) -> None:
    """Some regions grow in turns, some bytes are never added, some are added twice; what is not seen whole is read."""
    path = tmp_path_factory.mktemp("blocks") / "file"
    ends = sorted(data.draw(st.sets(st.integers(1, 400), min_size=1, max_size=6)))
    content = np.random.default_rng(len(ends)).bytes(ends[-1])
    at = dict(zip(range(len(ends)), [0, *ends[:-1]], strict=True))
    digests = BlockDigests(32)
    while left := [region for region, place in at.items() if place < ends[region]]:
        region = data.draw(st.sampled_from(left))
        stop = min(ends[region], at[region] + data.draw(st.integers(1, 90)))
        for _ in range(data.draw(st.integers(0, 2))):
            digests.add(at[region], memoryview(content)[at[region] : stop])
        at[region] = stop
    path.write_bytes(content)
    assert digests.of(path) == [sha256_bytes(content[start : start + 32]) for start in range(0, len(content), 32)]


def test_that_rows_are_not_read_again_when_their_shard_becomes_whole(store, tmp_path, monkeypatch) -> None:
    read: list[int] = []
    digest = integrity._digest
    monkeypatch.setattr(
        integrity, "_digest", lambda path, start, count: read.append(start) or digest(path, start, count)
    )
    rows, ones = np.random.default_rng(0).normal(size=(1000, WIDTH)), np.ones(1000)
    with StoreWriter(tmp_path / "b.store", {"a": WIDTH}, {}) as writer:
        writer.append([StoredSample("s")], {"a": rows}, np.zeros(1000, int), ones, ones, ones)
        shard = writer.finish().manifest.shards[0]
    assert shard.blocks == _blocks((tmp_path / "b.store" / shard.file).read_bytes())
    assert len(read) <= 6 < len(shard.blocks) == 21, "the first, and those of the columns behind the rows"


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
        assert _blocks((store.path / facts.file).read_bytes()) == facts.blocks
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
    shard |= {"bytes": len(data), "blocks": _blocks(data)}
    (store.path / MANIFEST).write_bytes(canonical_json(manifest))
    with pytest.raises(AuditorError, match="other datasets than its manifest tells"):
        open_store(store.path).check()


def aged(store: Store, version: int) -> dict:
    """The store as an older program would have written it; its manifest."""
    manifest = json.loads((store.path / MANIFEST).read_text())
    for shard in manifest["shards"]:
        shard["sha256"] = sha256_file(store.path / shard["file"])
        for name in ("folder", "block_bytes", "blocks", "group_rows", "quantised") if version == 1 else ():
            del shard[name]
    if version == 1:
        del manifest["groups"], manifest["scales"]
    manifest["version"] = version
    (store.path / MANIFEST).write_bytes(canonical_json(manifest))
    return manifest


@pytest.mark.parametrize("version", [1, 2])
def test_that_a_store_of_an_older_version_is_read_with_the_digest_it_had(store, version) -> None:
    """Its shards were the same; its manifest told the digest of each as a whole, and in the first version less else."""
    manifest = aged(store, version)
    old = open_store(store.path)
    del manifest["places"]
    assert old.digest == sha256_bytes(canonical_json(manifest)) != store.digest
    np.testing.assert_array_equal(old.rows([5, 2999], "b"), store.rows([5, 2999], "b"))
    old.check()
    flip(store, 1, store.manifest.shards[1].bytes // 2)
    with pytest.raises(AuditorError, match=r"shard-00001.*digest differs"):
        old.check()


def test_that_what_the_digest_of_an_old_store_leaves_out_is_refused(store) -> None:
    """A shard that was edited would pass its check by blocks of its own, under the digest that the store had."""
    manifest = aged(store, 1)
    open_store(store.path).check()
    flip(store, 1, store.manifest.shards[1].bytes // 2)
    shard, before = manifest["shards"][1], (store.path / MANIFEST).read_bytes()
    blocks = _blocks((store.path / shard["file"]).read_bytes())
    for forged in ({"blocks": blocks, "block_bytes": 4096}, {"folder": "../other.store"}, {"sha256": ""}):
        shards = [manifest["shards"][0], shard | forged, *manifest["shards"][2:]]
        (store.path / MANIFEST).write_bytes(canonical_json(manifest | {"shards": shards}))
        with pytest.raises(AuditorError, match="contradicts itself at shard-00001"):
            open_store(store.path)
    (store.path / MANIFEST).write_bytes(canonical_json(json.loads(before) | {"groups": {"text": ["a", "b"]}}))
    with pytest.raises(AuditorError, match="faulty manifest"):
        open_store(store.path)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_that_a_relabelled_store_is_read_as_the_same_one_or_not_at_all(store, version) -> None:
    manifest, digest = aged(store, version) if version < 3 else json.loads((store.path / MANIFEST).read_text()), None
    for label in (3, 2, 1):
        (store.path / MANIFEST).write_bytes(canonical_json(manifest | {"version": label}))
        if label >= version:
            digest = digest or open_store(store.path).digest
            assert open_store(store.path).digest == digest
            continue
        with pytest.raises(AuditorError, match="contradicts itself at shard-00000"):
            open_store(store.path)
    assert digest is not None
    (store.path / MANIFEST).write_bytes(canonical_json(manifest | {"version": 1, "dtype": "bfloat16"}))
    with pytest.raises(AuditorError, match="what version 1 does not have"):
        open_store(store.path)


def test_that_blocks_that_do_not_cover_a_shard_are_refused(store) -> None:
    good = json.loads((store.path / MANIFEST).read_text())
    shard = good["shards"][0]
    for change in ({"blocks": shard["blocks"][:-1]}, {"block_bytes": 8192}, {"blocks": []}, {"block_bytes": -1},
                   {"folder": "/etc"}, {"folder": "..//x"}, {"folder": "../a/../b"}, {"folder": "a/.."}):  # fmt: skip
        (store.path / MANIFEST).write_text(json.dumps(good | {"shards": [shard | change, *good["shards"][1:]]}))
        with pytest.raises(AuditorError):
            open_store(store.path)
