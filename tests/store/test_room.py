"""A disk that is full while a recording goes on: it waits, tells how much is missing, and loses nothing."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from auditor.base.errors import Stop
from auditor.base.events import Event, Metric, Partial, Progress
from auditor.base.reporter import Control, EventReporter
from auditor.store import StoreWriter, open_store
from auditor.store.disk import FullDisk
from auditor.store.record import RecordConfig, record
from tests.store.test_disk_full import WIDTH, append, rows_of


def config() -> RecordConfig:
    hooks = ("blocks.0.resid_post", "blocks.1.resid_post")
    return RecordConfig(model="tiny", samples="texts", batch_size=8, context=40, split_long=False, hooks=hooks)


@pytest.mark.parametrize("left", [1_040_000, 700_000, 400_000, 130_000, 20_000, 4_000])
def test_that_a_writer_that_waits_for_room_loses_nothing(left, small_disk, tmp_path) -> None:
    ballast, waits = small_disk / "ballast", []
    ballast.write_bytes(bytes(1_044_480 - left))

    def make_room(full: FullDisk) -> None:
        assert full.missing > 0 and f"{writer.n_rows} rows are safe" in full.message
        waits.append(writer.n_rows)
        ballast.unlink(missing_ok=True)
        size = 1 << (20 + len(waits))
        subprocess.run(["mount", "-o", f"remount,size={size}", str(small_disk)], check=True)

    def write(folder: Path, when_full) -> StoreWriter:
        return StoreWriter(folder, {"h": WIDTH}, {}, shard_bytes=150_000, when_full=when_full)

    with write(small_disk / "a.store", make_room) as writer:
        for number in range(30):
            append(writer, number)
        store = writer.finish()
    with write(tmp_path / "b.store", None) as writer:
        for number in range(30):
            append(writer, number)
        assert store.digest == writer.finish().digest
    assert waits and waits == sorted(waits)
    store.check()
    for number in range(30):
        wanted = rows_of(number).astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(store.rows(slice(number * 500, number * 500 + 500)), wanted)


def test_that_a_recording_pauses_on_a_full_disk_and_goes_on_by_itself(
    tiny_llama, texts, small_disk, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("auditor.store.room._LOOK_S", 0.02)
    (small_disk / "ballast").write_bytes(bytes(700_000))
    told: list[Event] = []

    def put(event: Event) -> None:
        told.append(event)
        if isinstance(event, Partial) and event.kind == "disk_full":
            subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)

    store = record(config(), tiny_llama, texts[:40], small_disk / "a.store", EventReporter(put))
    assert store.digest == record(config(), tiny_llama, texts[:40], tmp_path / "b.store").digest
    (full,) = [event for event in told if isinstance(event, Partial) and event.kind == "disk_full"]
    assert full.data["missing"] > 0 and "disk is full" in full.data["message"]
    notes = [event.note for event in told if isinstance(event, Progress)]
    assert any("MB more must be free" in note for note in notes) and "positions" in notes[-1]
    last = [event.values for event in told if isinstance(event, Metric)][-1]
    assert last["written_MBps"] > 0 and 0 <= last["waiting_for_disk"] < 1


def test_that_a_recording_that_waits_for_room_can_be_stopped_and_goes_on_later(
    tiny_llama, texts, small_disk, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("auditor.store.room._LOOK_S", 0.02)
    (small_disk / "ballast").write_bytes(bytes(900_000))
    control, waiting = Control(), threading.Event()

    def put(event: Event) -> None:
        if isinstance(event, Partial) and event.kind == "disk_full":
            waiting.set()
            control.cancel()

    with pytest.raises(Stop):
        record(config(), tiny_llama, texts[:40], small_disk / "a.store", EventReporter(put, control))
    assert waiting.is_set()
    safe = open_store(small_disk / "a.store").n_rows
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    store = record(config(), tiny_llama, texts[:40], small_disk / "a.store")
    assert store.n_rows > safe
    assert store.digest == record(config(), tiny_llama, texts[:40], tmp_path / "b.store").digest


def test_that_resuming_a_paused_job_tries_again_at_once(tmp_path, monkeypatch) -> None:
    from auditor.store.room import UntilRoom

    class Resumed(Control):
        def wait(self) -> None:
            threading.Timer(0.1, self.resume).start()
            super().wait()

    monkeypatch.setattr("auditor.store.room._LOOK_S", 0.01)
    control = Resumed()
    control.pause()
    room = UntilRoom(tmp_path, EventReporter(lambda event: None, control), 5)
    begun = time.monotonic()
    room(FullDisk("full", "", needed=1 << 60, missing=1 << 60))  # so much will never be free
    took = time.monotonic() - begun
    assert 0.05 < took < 5 and room.seconds < took - 0.05  # the pause is no time that was waited
