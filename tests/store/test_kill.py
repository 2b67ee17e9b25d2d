"""A writer killed at any moment: every acknowledged row is there, and the recording goes on to the same bytes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.base.paths import root
from auditor.store import StoreWriter, open_store
from auditor.store.integrity import BlockDigests
from auditor.store.layout import MANIFEST, read_manifest
from tests.store.killed_writer import HOOKS, append, batch_rows

BATCHES = 14
POINTS = [f"{name}:{when}:{count}" for name in ("fsync", "replace") for when in "<>" for count in (1, 2, 3, 4, 7)]
POINTS += [f"fsync:{when}:{count}" for when in "<>" for count in (5, 6, 8, 9, 10, 11, 12, 13)]
POINTS += [f"pwrite:{when}:{count}" for when in "<>" for count in (1, 3, 4, 5, 12, 13)]
POINTS += [f"unlink:{when}:{count}" for when in "<>" for count in (1, 2, 3, 8)]


class Server:
    """Starts writers in children of a process that has no threads, since forking this one would copy held locks."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killed_writer.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env=os.environ | {"PYTHONPATH": str(root()), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, folder: Path, point: str = "", kill_after: float | None = None) -> list[str]:
        """What the child said until it ended, by itself or killed."""
        self.process.stdin.write(json.dumps([str(folder), BATCHES, point, kill_after]) + "\n")
        said = []
        while (line := self.process.stdout.readline().strip()) != "over":
            said.append(line)
        return said

    def acknowledged(self, folder: Path, point: str = "", kill_after: float | None = None) -> int:
        said = self.run(folder, point, kill_after)
        return BATCHES if "done" in said else max((int(line) for line in said if line.isdigit()), default=0)


@pytest.fixture(scope="module")
def server():
    started = Server()
    yield started
    with started.process:
        started.process.stdin.close()


def check(folder: Path, acknowledged: int) -> None:
    """Every acknowledged row is as it was given, then the rest is written and is what an unbroken writer gives."""
    if acknowledged:
        store = open_store(folder)
        assert store.n_samples >= acknowledged
        for number in range(store.n_samples):
            sample = store.sample(number)
            assert (sample.id, sample.text) == (f"s{number}", f"text {number}")
            index = slice(sample.first_row, sample.first_row + sample.n_rows)
            assert set(store.positions(index).token) == {number}
            np.testing.assert_array_equal(store.rows(index), batch_rows(number).astype("f2").astype("f4"))
    if not (folder / "manifest.json").exists():
        with StoreWriter(folder, HOOKS, {"a": 1}, shard_bytes=4800) as writer:
            assert writer.n_batches >= acknowledged
            for number in range(writer.n_batches, BATCHES):
                append(writer, number)
            writer.finish()
    shards = read_manifest(folder / MANIFEST).shards
    assert all(BlockDigests(shard.block_bytes).of(folder / shard.file) == shard.blocks for shard in shards)
    store = open_store(folder)
    assert store.complete and store.n_rows == BATCHES * 50


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("unbroken") / "a.store"
    with StoreWriter(folder, HOOKS, {"a": 1}, shard_bytes=4800) as writer:
        for number in range(BATCHES):
            append(writer, number)
        return writer.finish().digest


def test_that_a_writer_killed_at_random_times_loses_nothing_acknowledged(tmp_path, unbroken, server) -> None:
    chance = random.Random(4)
    assert server.acknowledged(tmp_path / "first.store") == BATCHES
    begun = time.perf_counter()
    assert server.acknowledged(tmp_path / "timed.store") == BATCHES
    whole = time.perf_counter() - begun
    midway = 0
    for turn in range(20):
        folder = tmp_path / f"{turn}.store"
        acknowledged = 0
        for _ in range(1 + turn % 2):  # killed, and every other time killed again on resumption
            acknowledged = max(acknowledged, server.acknowledged(folder, kill_after=chance.uniform(0, whole)))
        midway += 0 < acknowledged < BATCHES
        check(folder, acknowledged)
        assert open_store(folder).digest == unbroken
    assert midway >= 4


@pytest.mark.parametrize("point", POINTS)
def test_that_a_writer_killed_at_each_step_of_acknowledging_loses_nothing(point, tmp_path, unbroken, server) -> None:
    folder = tmp_path / "a.store"
    acknowledged = server.acknowledged(folder, point)
    assert acknowledged < BATCHES or "unlink" in point
    check(folder, acknowledged)
    assert open_store(folder).digest == unbroken
    assert not list(folder.glob("*.partial")) or "unlink" in point


def test_that_two_writers_cannot_write_one_store(tmp_path, server) -> None:
    with StoreWriter(tmp_path / "a.store", HOOKS, {"a": 1}) as writer:
        with pytest.raises(AuditorError, match="another program"):
            StoreWriter(tmp_path / "a.store", HOOKS, {"a": 1})
        assert "is being written by another program" in server.run(tmp_path / "a.store")[0]
        append(writer, 0)
        assert writer.finish().n_rows == 50
