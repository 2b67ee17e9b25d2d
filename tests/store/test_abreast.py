"""Several hook points at a time: the same bytes, the first one's error, and nothing left running."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.store import StoredSample, abreast, open_shard
from auditor.store.abreast import Abreast
from auditor.store.convert import scale_of
from auditor.store.writer import StoreWriter

HOOKS = {f"h{number}": 8 + number for number in range(5)}


def rows_of(count: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {hook: rng.normal(size=(count, width)).astype(np.float32) for hook, width in HOOKS.items()}


def written(path, dtype: str):
    scales = {hook: scale_of(rows) for hook, rows in rows_of(400, 9).items()} if dtype == "int8" else None
    with StoreWriter(path, HOOKS, {}, dtype, shard_bytes=6_000, scales=scales) as writer:
        for batch in range(12):
            rows = rows_of(30 + batch, batch)
            ones = np.ones(30 + batch, int)
            writer.append([StoredSample(f"s{batch}")], rows, 0 * ones, ones, ones, ones)
        return writer.finish()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_that_a_store_written_abreast_has_the_same_bytes(dtype, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(open_shard, "BLOCK_BYTES", 300)
    alone = written(tmp_path / "a.store", dtype)
    monkeypatch.setattr(abreast, "PREPARING", 4)
    together = written(tmp_path / "b.store", dtype)
    assert together.digest == alone.digest and len(alone.manifest.shards) > 2
    assert [shard.quantised for shard in together.manifest.shards] == [s.quantised for s in alone.manifest.shards]
    together.check()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("store-abreast")]


def test_that_the_first_hook_point_that_cannot_be_kept_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(abreast, "PREPARING", 4)
    rows, ones = rows_of(6, 0), np.ones(6, int)
    rows["h1"][3, 2] = np.nan
    rows["h3"][1, 1] = np.inf
    with StoreWriter(tmp_path / "a.store", HOOKS, {}) as writer:
        with pytest.raises(AuditorError, match="hook point h1"):
            writer.append([StoredSample("s")], rows, 0 * ones, ones, ones, ones)
        writer.append([StoredSample("s")], rows_of(6, 0), 0 * ones, ones, ones, ones)
        assert writer.finish().n_rows == 6


def test_that_all_are_done_when_one_has_failed(monkeypatch) -> None:
    monkeypatch.setattr(abreast, "PREPARING", 4)
    work, gate, done = Abreast(), threading.Event(), list[int]()

    def do(number: int) -> int:
        if number == 0:
            gate.set()
            raise OSError("full")
        gate.wait(10)
        done.append(number)
        return number

    with pytest.raises(OSError, match="full"):
        work.each(do, range(3))
    assert sorted(done) == [1, 2] and work.each(str, (4, 5)) == ["4", "5"]
    work.close()
    monkeypatch.setattr(abreast, "PREPARING", 1)
    assert Abreast().each(str, (4, 5)) == ["4", "5"]


def test_that_the_file_is_let_go_of_after_what_still_writes_to_it(tmp_path, monkeypatch) -> None:
    """Interrupted from the keyboard nobody waits for the threads, and the file's number would be another's."""
    monkeypatch.setattr(abreast, "PREPARING", 4)
    gate, told, put = threading.Event(), list[str](), open_shard.put

    def slow(handle: int, data: memoryview, at: int) -> None:
        gate.wait(10)
        put(handle, data, at)
        told.append("written")

    def interrupted(_: object) -> None:
        threading.Timer(0.1, gate.set).start()
        raise KeyboardInterrupt

    stop = open_shard.OpenShard.stop
    monkeypatch.setattr(open_shard.OpenShard, "stop", lambda shard: told.append("closed") or stop(shard))
    monkeypatch.setattr(open_shard, "put", slow)
    ones = np.ones(6, int)
    with pytest.raises(KeyboardInterrupt), StoreWriter(tmp_path / "a.store", HOOKS, {}) as writer:
        monkeypatch.setattr(StoreWriter, "_kept", lambda writer, given: (given[1].astype("f2"), None))
        each = Abreast.each

        def each_of(work: Abreast, do, items):
            if do.__name__ == "one":  # which puts a piece
                monkeypatch.setattr(abreast, "wait", interrupted)
            return each(work, do, items)

        monkeypatch.setattr(Abreast, "each", each_of)
        writer.append([StoredSample("s")], rows_of(6, 0), 0 * ones, ones, ones, ones)
    assert told == ["written"] * len(HOOKS) + ["closed"]
