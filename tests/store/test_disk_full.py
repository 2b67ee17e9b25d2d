"""A disk that fills up, and files that are damaged, forged or from the future."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.store import StoredSample, StoreWriter, open_store
from auditor.store.layout import MANIFEST, UNFINISHED, read_manifest

WIDTH = 64


def rows_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(500, WIDTH)).astype(np.float32)


def append(writer: StoreWriter, number: int) -> None:
    columns = {"sample": np.zeros(500, int), "unit": np.arange(500), "kind": np.ones(500), "token": np.ones(500)}
    writer.append([StoredSample(f"s{number}")], {"h": rows_of(number)}, **columns)


def writer_at(folder: Path) -> StoreWriter:
    return StoreWriter(folder, {"h": WIDTH}, {}, shard_bytes=150_000)


def fill(folder: Path) -> tuple[AuditorError, int]:
    with writer_at(folder) as writer, pytest.raises(AuditorError) as caught:
        for number in range(writer.n_batches, 1000):
            append(writer, number)
    return caught.value, writer.n_rows


def check_whole(folder: Path, rows: int) -> None:
    """Nothing half-made, and the acknowledged rows are as they were given."""
    shard = len(read_manifest(folder / UNFINISHED).shards)
    kept = {"manifest.json.partial", f"shard-{shard:05d}.h5.partial", f"shard-{shard:05d}.journal.partial"}
    assert {file.name for file in folder.glob("*.partial")} <= kept
    if rows:
        store = open_store(folder)
        store.check()
        assert store.n_rows == rows and not store.complete
        for number in range(store.n_samples):
            wanted = rows_of(number).astype(np.float16).astype(np.float32)
            np.testing.assert_array_equal(store.rows(slice(number * 500, number * 500 + 500)), wanted)


def test_that_a_full_disk_is_told_and_the_recording_goes_on_once_there_is_room(small_disk) -> None:
    ballast = small_disk / "ballast"
    folder = small_disk / "a.store"
    before = -1
    for size in (700_000, 500_000, 260_000, 100_000, 0):
        ballast.write_bytes(b"x" * size)
        error, rows = fill(folder)
        assert (
            "disk is full" in error.message
            and f"{rows} rows are safe" in error.message
            and "Free at least" in error.hint
        )
        assert rows >= before
        check_whole(folder, rows)
        before = rows
    assert before >= 4000
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    with writer_at(folder) as writer:
        for number in range(writer.n_batches, 24):
            append(writer, number)
        assert writer.finish().n_rows == 12_000


def test_that_a_file_size_limit_is_told_like_a_full_disk_and_can_be_tried_again(tmp_path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with writer_at(tmp_path / "a.store") as writer:
        for number in range(4):
            append(writer, number)
        acknowledged = writer.n_rows
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
            with pytest.raises(AuditorError, match="disk is full"):
                for number in range(4, 10):
                    append(writer, number)
            assert writer.n_rows >= acknowledged > 0
            acknowledged = writer.n_rows
            check_whole(tmp_path / "a.store", acknowledged)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        writer.flush()
        assert writer.n_rows == 500 * (number + 1)
        writer.finish().check()


def test_that_a_folder_that_cannot_be_synced_at_the_end_is_told_in_a_sentence(tmp_path, monkeypatch) -> None:
    def fails(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with writer_at(tmp_path / "a.store") as writer:
        append(writer, 0)
        writer.flush()
        monkeypatch.setattr("auditor.store.writer.sync_folder", fails)
        with pytest.raises(AuditorError, match=r"cannot be written \(Input/output error\)"):
            writer.finish()


@pytest.fixture
def store_folder(tmp_path) -> Path:
    with writer_at(tmp_path / "a.store") as writer:
        for number in range(5):
            append(writer, number)
        writer.finish()
    return tmp_path / "a.store"


def forge(folder: Path, **changes) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))


def test_that_a_store_of_a_newer_format_says_so(store_folder) -> None:
    forge(store_folder, version=4, something="new")
    with pytest.raises(AuditorError, match=r"format version 4.*newer Auditor"):
        open_store(store_folder)


def test_that_damage_is_found(store_folder) -> None:
    shard = store_folder / "shard-00001.h5"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(AuditorError, match=r"shard-00001\.h5.*digest differs"):
        open_store(store_folder).check()
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    open_store(store_folder).check()
    manifest = json.loads((store_folder / MANIFEST).read_text())
    moved = manifest["shards"][1]["datasets"]["rows/h"]
    moved["offset"] -= 2  # another view of the same file than any HDF5 program has
    forge(store_folder, shards=manifest["shards"])
    with pytest.raises(AuditorError, match="other datasets than its manifest"):
        open_store(store_folder).check()
    shard.write_bytes(data[:-1])
    with pytest.raises(AuditorError, match=r"shard-00001\.h5.*bytes instead of"):
        open_store(store_folder)
    shard.unlink()
    with pytest.raises(AuditorError, match="is missing"):
        open_store(store_folder)
    os.symlink("/etc/hostname", shard)
    with pytest.raises(AuditorError, match="not a plain file"):
        open_store(store_folder)


def test_that_a_forged_manifest_is_refused(store_folder) -> None:
    good = (store_folder / MANIFEST).read_bytes()
    manifest = json.loads(good)
    shard = manifest["shards"][0]
    reach = shard["datasets"] | {"rows/h": shard["datasets"]["rows/h"] | {"offset": shard["bytes"]}}
    forgeries = [
        {"shards": [shard | {"file": "../../etc/passwd"}]},
        {"shards": [shard | {"datasets": reach}, *manifest["shards"][1:]]},
        {"shards": [shard | {"rows": 10**12}, *manifest["shards"][1:]]},
        {"rows": 10**9},
        {"hook_points": {"../h": WIDTH}},
        {"hook_points": {"h": 10**6}},
        {"dtype": "object"},
        {"version": "1"},
        {"format": "zip"},
        {"shards": 3},
    ]
    for changes in forgeries:
        forge(store_folder, **changes)
        with pytest.raises(AuditorError):
            open_store(store_folder)
        (store_folder / MANIFEST).write_bytes(good)
    for text in (b"", b"[]", b"{", b'{"a":' * 5000, b"\xff\xfe"):
        (store_folder / MANIFEST).write_bytes(text)
        with pytest.raises(AuditorError):
            open_store(store_folder)
    (store_folder / MANIFEST).write_bytes(good)
    assert open_store(store_folder).n_rows == 2500


def test_that_another_folder_is_not_written_into(tmp_path, store_folder) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("x")
    with pytest.raises(AuditorError, match="holds other files"):
        writer_at(tmp_path / "notes")
    with pytest.raises(AuditorError, match="finished"):
        writer_at(store_folder)
    with pytest.raises(AuditorError, match="is a file"):
        writer_at(tmp_path / "notes" / "todo.txt")
    with pytest.raises(AuditorError, match="not an activation store"):
        open_store(tmp_path / "notes")
    with writer_at(tmp_path / "empty.store") as writer, pytest.raises(AuditorError, match="would be empty"):
        writer.finish()
    assert (tmp_path / "notes" / "todo.txt").read_text() == "x"
