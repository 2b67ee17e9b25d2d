"""An fsync that fails: what the system dropped is written again before it counts, or the recording stops."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.store import Store, StoredSample, StoreWriter, open_store
from auditor.store.integrity import BlockDigests
from auditor.store.layout import MANIFEST, read_manifest
from tests.store.killed_writer import HOOKS, append, batch_rows

BATCHES = 7
_PWRITE = os.pwrite


class Disk:
    """What would be on the disk after a power cut. The fsync number `failing` fails with `code`: of what was written to
    the file since the last one nothing arrives, and the next fsync says nothing of it, as Linux does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: int, code: int, kept: Path) -> None:
        self.failing, self.code, self.synced = failing, code, 0
        self._kept = kept / str(failing)
        self._kept.mkdir(parents=True)
        self._dirty: dict[int, list[tuple[int, int]]] = {}
        self._held: dict[int, bytearray] = {}
        self._pwrite: Callable[..., int] = _PWRITE
        monkeypatch.setattr(os, "pwrite", self._write)
        monkeypatch.setattr(os, "fsync", self._sync)

    def cut(self, folder: Path, to: Path) -> Path:
        """The files of `folder` as they are after a power cut. The manifests are small and written anew each time."""
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir()
        for file in folder.iterdir():
            data = self._held.get(file.stat().st_ino, b"") if "shard" in file.name else file.read_bytes()
            (to / file.name).write_bytes(data)
        return to

    def _write(self, handle: int, data: memoryview, at: int) -> int:
        done = self._pwrite(handle, data, at)
        self._dirty.setdefault(self._number(handle), []).append((at, done))
        return done

    def _sync(self, handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            return
        self.synced += 1
        number, size = self._number(handle), os.fstat(handle).st_size
        dirty = self._dirty.pop(number, [])
        if self.synced == self.failing:
            raise OSError(self.code, os.strerror(self.code))
        held = self._held.setdefault(number, bytearray())
        held[:] = held[:size].ljust(size, b"\0")
        with open(f"/proc/self/fd/{handle}", "rb") as file:
            for at, count in dirty:
                file.seek(at)
                piece = file.read(count)  # less where the file was cut since
                held[at : at + len(piece)] = piece

    def _number(self, handle: int) -> int:
        """The file's number, which no other gets once it is removed."""
        number = os.fstat(handle).st_ino
        if not (self._kept / str(number)).exists():
            os.link(os.readlink(f"/proc/self/fd/{handle}"), self._kept / str(number))
        return number


@pytest.fixture
def wrote(tmp_path, monkeypatch):
    """Writes batches from where the store is to the last; after each, all that is acknowledged is on the disk."""
    monkeypatch.setattr("auditor.store.writer.PIECE_BYTES", 2500)  # two batches together, and three make a shard

    def write(disk: Disk, when_full: Callable[..., None] | None = None) -> Store:
        with StoreWriter(tmp_path / "a.store", HOOKS, {}, shard_bytes=4800, when_full=when_full) as writer:
            try:
                for number in range(writer.n_batches, BATCHES):
                    append(writer, number)
                    check(disk, writer)
                return writer.finish()
            except AuditorError:
                check(disk, writer)
                raise

    def check(disk: Disk, writer: StoreWriter) -> None:
        if writer.n_rows:
            store = open_store(disk.cut(tmp_path / "a.store", tmp_path / "cut.store"))
            assert store.n_rows >= writer.n_rows
            wanted = np.concatenate([batch_rows(number) for number in range(store.n_samples)])
            np.testing.assert_array_equal(store.rows(slice(None)), wanted.astype("f2").astype("f4"))

    return write


def unbroken(folder: Path) -> str:
    with StoreWriter(folder, HOOKS, {}, shard_bytes=4800) as writer:
        for number in range(BATCHES):
            append(writer, number)
        return writer.finish().digest


def whole(folder: Path) -> bool:
    """Whether each shard has the bytes that the manifest tells."""
    shards = read_manifest(folder / MANIFEST).shards
    return all(BlockDigests(shard.block_bytes).of(folder / shard.file) == shard.blocks for shard in shards)


def test_that_rows_are_written_again_where_a_full_disk_shows_at_the_fsync(wrote, tmp_path, monkeypatch) -> None:
    """As on NFS and with quotas: what waits for room and then only syncs again would acknowledge what is not there."""
    digest, waits = unbroken(tmp_path / "b.store"), list[AuditorError]()
    for failing in range(1, 99):
        disk = Disk(monkeypatch, failing, errno.ENOSPC, tmp_path / "kept")
        store = wrote(disk, waits.append)
        assert store.digest == digest
        assert whole(disk.cut(store.path, tmp_path / "cut.store"))
        shutil.rmtree(store.path)
        if disk.synced < failing:
            break
    assert len(waits) == failing - 1 > 10, "each fsync failed once"


def test_that_a_disk_that_fails_stops_the_recording_and_what_was_acknowledged_stays(
    wrote, tmp_path, monkeypatch
) -> None:
    digest, stopped = unbroken(tmp_path / "b.store"), 0
    for failing in range(1, 99):
        disk = Disk(monkeypatch, failing, errno.EIO, tmp_path / "kept")
        try:
            store = wrote(disk)
        except AuditorError as error:
            stopped += 1
            assert "cannot be written (Input/output error)" in error.message and "rows are safe" in error.message
            store = wrote(disk)
        assert store.digest == digest
        assert whole(disk.cut(store.path, tmp_path / "cut.store"))
        shutil.rmtree(store.path)
        if disk.synced < failing:
            break
    assert stopped == failing - 1 > 10, "each fsync failed once"


def test_that_what_failed_once_is_written_again_by_the_same_writer(tmp_path, monkeypatch) -> None:
    disk = Disk(monkeypatch, 3, errno.EIO, tmp_path / "kept")
    with StoreWriter(tmp_path / "a.store", HOOKS, {}) as writer:
        append(writer, 0)
        with pytest.raises(AuditorError, match=r"Input/output error\); 0 rows are safe"):
            writer.flush()
        assert writer.n_rows == 0
        writer.flush()
        assert writer.n_rows == 50
        store = open_store(disk.cut(tmp_path / "a.store", tmp_path / "cut.store"))
        np.testing.assert_array_equal(store.rows(slice(None)), batch_rows(0).astype("f2").astype("f4"))


def test_that_rows_that_are_not_acknowledged_keep_their_room_while_they_cannot_be_written(
    tmp_path, monkeypatch
) -> None:
    """A shard has room for 75 rows: with 50 that are to be written again, 50 more do not fit."""
    monkeypatch.setattr("auditor.store.writer.PIECE_SECONDS", 99.0)
    hooks = {"a": 16, "b": 16}

    def add(writer: StoreWriter, number: int) -> None:
        one, rows = np.ones(50, int), batch_rows(number)
        writer.append([StoredSample(f"s{number}")], {"a": rows, "b": -rows}, 0 * one, one, one, one)

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with StoreWriter(tmp_path / "a.store", hooks, {}, shard_bytes=75 * 2 * 32) as writer:
        add(writer, 0)
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", fails)
            broken.setattr(os, "pwrite", fails)
            for _ in range(2):  # the second time they are written again before
                with pytest.raises(AuditorError, match="0 rows are safe"):
                    writer.flush()
        add(writer, 1)
        store = writer.finish()
    wanted = np.concatenate([batch_rows(0), batch_rows(1)]).astype("f2").astype("f4")
    np.testing.assert_array_equal(store.rows(slice(None), "a"), wanted)
    np.testing.assert_array_equal(store.rows(slice(None), "b"), -wanted)
    assert len(store.manifest.shards) == 2


def test_that_a_journal_whose_writer_did_not_hear_of_the_failure_is_written_again(tmp_path, monkeypatch) -> None:
    """Killed in the fsync: the next writer finds the rows acknowledged in the system's memory, and not on the disk."""
    disk = Disk(monkeypatch, 4, errno.EIO, tmp_path / "kept")
    monkeypatch.setattr(os, "fsync", lambda handle: _ignored(disk, handle))
    for number in range(2):
        with StoreWriter(tmp_path / "a.store", HOOKS, {}) as writer:
            assert writer.n_batches == number
            append(writer, number)
            writer.flush()
    store = open_store(disk.cut(tmp_path / "a.store", tmp_path / "cut.store"))
    assert store.n_rows == 100


def test_that_a_disk_that_fails_when_a_recording_goes_on_leaves_what_was_whole_safe(tmp_path, monkeypatch) -> None:
    with StoreWriter(tmp_path / "a.store", HOOKS, {}, shard_bytes=4800) as writer:
        for number in range(5):  # three make a shard
            append(writer, number)
        writer.flush()
        assert writer.n_rows == 250

    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fails)
        with pytest.raises(AuditorError, match=r"Input/output error\); 150 rows are safe"):
            StoreWriter(tmp_path / "a.store", HOOKS, {}, shard_bytes=4800)
    with StoreWriter(tmp_path / "a.store", HOOKS, {}, shard_bytes=4800) as writer:
        assert writer.n_rows == 250


def _ignored(disk: Disk, handle: int) -> None:
    try:
        disk._sync(handle)
    except OSError:
        return
