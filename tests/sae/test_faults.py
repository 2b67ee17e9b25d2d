"""Training meets NaN, leaps of the loss, kills, full disks, too little memory, and ends where it would have ended."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from auditor import sae as dictionaries
from auditor.base.digest import digest_folder
from auditor.base.errors import AuditorError, Stop
from auditor.base.paths import root
from auditor.sae import checkpoint
from auditor.sae.archs import ARCHITECTURES
from auditor.sae.took import Took
from auditor.sae.trainer import Trainer, train, train_all
from auditor.store.room import UntilRoom
from tests.sae.memory_store import MemoryStore, known
from tests.sae.test_trainer import SMALL, Listener, weights
from tests.small_disks import disk_of

ALONE = [name for name in ARCHITECTURES.names() if ARCHITECTURES.get(name).takes == "one"]
PARTS = ("encoder", "decoder", "b_enc", "b_dec")
PLACES = [
    *product(("parameter", "one element of parameter", "exp_avg", "exp_avg_sq", "gradient"), PARTS),
]  # fmt: skip
assert len(PLACES) == 20


@pytest.fixture(scope="module")
def store():
    return MemoryStore(known(4000)[0])


def small(arch, **settings):
    """SMALL of another architecture; GroupMax wants equal groups."""
    k = 4 if arch == "groupmax" else SMALL.k
    return SMALL.model_copy(update={"arch": arch, "l1": 0.3, "k": k, **settings})


def warnings_of(listener):
    return [data for kind, data in listener.told if kind == "warning"]


# numbers that are not finite


@pytest.mark.parametrize("arch", ALONE)
@pytest.mark.parametrize(("what", "part"), PLACES)
def test_that_nan_in_twenty_places_is_caught_within_a_step_and_training_goes_back(
    tmp_path, store, monkeypatch, what, part, arch
):
    if (arch, part) == ("matching_pursuit", "encoder"):
        pytest.skip("its encoder is a copy of the decoder, made anew after each step")
    at, spoilt = 22, []
    update = Trainer.update

    def spoil(self, outcome, **how):
        if self.progress.step == at - 1 and what == "gradient" and not spoilt:
            tensor = self.progress.parameters.named()[part]
            if tensor.grad is None:
                pytest.skip("this step keeps no gradients")
            spoilt.append(tensor.grad.fill_(float("nan")))
        update(self, outcome, **how)
        if self.progress.step != at or spoilt:
            return
        tensor = self.progress.parameters.named()[part]
        with torch.no_grad():
            if what == "parameter":
                tensor.fill_(float("nan"))
            elif what == "one element of parameter":
                # of a feature that fires, or of the bias of all rows
                tensor.view(len(tensor), -1)[int(outcome.counts.argmax()) % len(tensor), 0] = float("nan")
            else:
                self.progress.optimiser.state[tensor][what].fill_(float("nan"))
        spoilt.append(True)

    monkeypatch.setattr(Trainer, "update", spoil)
    listener = Listener()
    sae = train(small(arch), store, tmp_path / "d", listener)
    assert spoilt
    (told,) = warnings_of(listener)
    assert at <= told["step"] <= at + 1 and "rate of 0.005" in told["message"]
    assert sae.meta["mishaps"] == [{"step": told["step"], "back_to": 20, "rate": 0.5}]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in sae.tensors().values())
    assert sae.meta["curve"]["rows"][-1][0] == SMALL.steps


def test_that_nan_in_a_feature_that_never_fires_is_never_kept(tmp_path, store, monkeypatch):
    update = Trainer.update
    spoilt = []

    def spoil(self, outcome, **how):
        update(self, outcome, **how)
        if self.progress.step == 22 and not spoilt:
            silent = int(self.progress.silent.argmax())
            with torch.no_grad():
                self.progress.parameters.decoder[silent] = float("nan")
                self.progress.parameters.b_enc[silent] = -1e6
            spoilt.append(silent)

    monkeypatch.setattr(Trainer, "update", spoil)
    listener = Listener()
    sae = train(SMALL, store, tmp_path / "d", listener)
    assert len(warnings_of(listener)) == 1 and sae.meta["mishaps"][0]["back_to"] == 20
    assert all(bool(torch.isfinite(tensor).all()) for tensor in sae.tensors().values())


class Leaping(MemoryStore):
    """Batch 27 is fifty times as large, `times` times."""

    times = 10**6

    def batches(self, size, *, seed=0, hook=None, start=0, kinds=()):
        for number, x in enumerate(super().batches(size, seed=seed, start=start), start):
            if number == 27 and seed == SMALL.seed and self.times:
                self.times -= 1
                x = x * np.float32(50)
            yield x


@pytest.mark.parametrize("arch", ALONE)
def test_that_a_leap_of_the_loss_goes_back_once_and_the_same_data_is_then_let_through(tmp_path, store, arch):
    listener = Listener()
    config = small(arch)
    sae = train(config, Leaping(store.data), tmp_path / "d", listener)
    assert sae.meta["mishaps"] == [{"step": 27, "back_to": 20, "rate": 0.5}]
    assert "leapt at step 27" in warnings_of(listener)[0]["message"]
    listener = Listener()
    sae = train(config.model_copy(update={"spike": 0.0}), Leaping(store.data), tmp_path / "e", listener)
    assert not sae.meta["mishaps"] and not warnings_of(listener)


def test_that_a_leap_that_passes_leaves_half_the_rate_and_nothing_else(tmp_path, store):
    once = Leaping(store.data)
    once.times = 1
    listener = Listener()
    sae = train(SMALL, once, tmp_path / "d", listener)
    assert sae.meta["mishaps"] == [{"step": 27, "back_to": 20, "rate": 0.5}]
    assert warnings_of(listener)[0]["step"] == 27
    known_after = [row for row in sae.meta["curve"]["rows"] if row[0] in (25, 30)]
    assert len(known_after) == 2  # step 25 was taken twice and told once


def test_that_a_run_that_went_back_and_was_then_stopped_goes_on_at_the_lower_rate_to_the_same_bytes(tmp_path, store):
    whole = train(SMALL, Leaping(store.data), tmp_path / "whole")
    with pytest.raises(Stop):
        train(SMALL, Leaping(store.data), tmp_path / "d", Listener(stop_at=33))
    again = Trainer(SMALL, store)
    again.load(checkpoint.place(tmp_path / "d"))
    assert again.progress.rate == 0.5 and again.progress.step == 33
    sae = train(SMALL, Leaping(store.data), tmp_path / "d")
    assert weights(tmp_path / "d") == weights(tmp_path / "whole")
    assert sae.meta["mishaps"] == whole.meta["mishaps"] == [{"step": 27, "back_to": 20, "rate": 0.5}]


# kills


class Server:
    """Trains in children of a process that runs no threads, since forking this one would copy held locks."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killed_training.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env=os.environ | {"PYTHONPATH": str(root()), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, folder, config, heard=None, **asked):
        """What the child said until it ended, by itself or killed; `heard` is told each line as it comes."""
        self.process.stdin.write(json.dumps({"folder": str(folder), "config": config.model_dump(), **asked}) + "\n")
        said = []
        while (line := self.process.stdout.readline().strip()) != "over":
            said.append(line)
            if heard is not None:
                heard(line)
        return said


@pytest.fixture(scope="module")
def server():
    started = Server()
    yield started
    with started.process:
        started.process.stdin.close()


SWEEP = SMALL.model_copy(update={"sweep": "k=2,3; seed=0,1", "steps": 12, "checkpoint_every": 4, "metrics_every": 2,
                                 "evaluate_rows": 256})  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    assert server.run(folder, SWEEP)[-1] == "done"
    return digests(folder)


def digests(folder):
    """Of weights and of what is told beside them: curves, densities, quality."""
    return {path.name: digest_folder(path) for path in sorted(folder.glob("*.sae"))}


def test_that_what_is_compared_tells_dictionaries_apart(unbroken):
    assert len(unbroken) == len(set(unbroken.values())) == 4


@pytest.mark.parametrize("step", range(1, 13))
def test_that_a_sweep_killed_after_any_step_goes_on_to_the_same_bytes(server, unbroken, tmp_path, step):
    said = server.run(tmp_path, SWEEP, point=f"step:{step}")
    assert said[-1] == str(step)
    again = server.run(tmp_path, SWEEP)
    assert again[-1] == "done" and int(again[0]) == (step // 4 * 4 + 1 if step < 12 else 12)
    assert digests(tmp_path) == unbroken
    assert not list(tmp_path.glob("*.training.safetensors"))


# Twelve checkpoints and four dictionaries take a name; each is synced, with its folder; checkpoints are then removed.
POINTS = [f"replace:{when}:{count}" for when in "<>" for count in (1, 2, 5, 7, 12, 13, 14, 16)]
POINTS += [f"fsync:{when}:{count}" for when in "<>" for count in (1, 6, 16, 29)]
POINTS += [f"unlink:{when}:{count}" for when in "<>" for count in (1, 3)]


@pytest.mark.parametrize("point", POINTS)
def test_that_a_sweep_killed_at_each_point_of_keeping_its_state_goes_on_to_the_same_bytes(
    server, unbroken, tmp_path, point
):
    said = server.run(tmp_path, SWEEP, point=point)
    assert "done" not in said or point.startswith("unlink")
    for place in tmp_path.glob("*.training.safetensors"):
        checkpoint.reached(place)  # whole, or not there
    assert server.run(tmp_path, SWEEP)[-1] == "done"
    assert digests(tmp_path) == unbroken
    assert not list(tmp_path.glob("*.partial"))


def test_that_a_sweep_killed_at_random_times_goes_on_to_the_same_bytes(server, unbroken, tmp_path):
    begun = time.monotonic()
    server.run(tmp_path / "timed", SWEEP)
    whole, chance, midway = time.monotonic() - begun, random.Random(time.time_ns()), 0
    for turn in range(8):
        folder = tmp_path / str(turn)
        folder.mkdir()
        for _ in range(1 + turn % 3):  # killed, and killed again on resumption
            said = server.run(folder, SWEEP, seconds=chance.uniform(0, whole))
            midway += "done" not in said
        assert server.run(folder, SWEEP)[-1] == "done"
        assert digests(folder) == unbroken, turn
    assert midway >= 3


# the disk


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MiB; skipped where none may be mounted."""
    with disk_of("3m", tmp_path / "disk") as place:
        yield place


FULL = SMALL.model_copy(update={"d_sae": 1500, "steps": 12, "checkpoint_every": 4, "evaluate_rows": 256})
WHEN = {"first checkpoint": (1, 0), "later checkpoint": (4, 4), "dictionary": (12, 12)}


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert server.run(folder, FULL)[-1] == "done"
    return digests(folder)


@pytest.mark.parametrize("when", WHEN)
def test_that_a_full_disk_pauses_the_training_which_goes_on_by_itself(server, undisturbed, small_disk, when):
    full, kept = WHEN[when]
    place, ballast, seen = small_disk / "0.sae.training.safetensors", small_disk / "ballast", []

    def heard(line):
        if "The disk is full" in line:
            seen.append({path.name for path in small_disk.iterdir()})
            assert not kept or checkpoint.reached(place) == kept
            ballast.unlink()

    said = server.run(small_disk, FULL, heard, full=full)
    assert said[-1] == "done" and seen == [{"ballast"} | ({place.name} if kept else set())]
    (told,) = (line for line in said if "The disk is full" in line)
    needed = 4 * 2 * 32 * 1500 * (1 if when == "dictionary" else 3) / 1e6  # weights, and two moments beside
    assert float(told.partition("needs ")[2].partition(" MB")[0]) == pytest.approx(max(needed, 1.05), rel=0.05)
    assert f"0.0 MB are free in {small_disk}" in told and "once there is room" in told
    assert (f"step {kept} is kept" if kept else "nothing is kept yet") in told
    assert digests(small_disk) == undisturbed and {path.name for path in small_disk.iterdir()} == {"0.sae"}


@pytest.mark.parametrize("when", WHEN)
def test_that_a_training_that_waits_for_room_can_be_stopped_and_goes_on_later(server, undisturbed, small_disk, when):
    full, kept = WHEN[when]
    place, ballast = small_disk / "0.sae.training.safetensors", small_disk / "ballast"
    assert server.run(small_disk, FULL, full=full, stops=True)[-1] == "stopped"
    assert {path.name for path in small_disk.iterdir()} == {"ballast"} | ({place.name} if kept else set())
    ballast.unlink()
    again = server.run(small_disk, FULL)
    assert again[-1] == "done" and int(again[0]) == (kept + 1 if kept < 12 else 12)
    assert digests(small_disk) == undisturbed


def test_that_the_time_that_it_waits_for_room_is_not_what_training_took(tmp_path, store, monkeypatch):
    save, tried = Trainer.save, []

    def full(self, path):
        tried.append(self.progress.step)
        if len(tried) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, path)

    def wait(self, full):
        self.seconds += 1000.0

    monkeypatch.setattr(Trainer, "save", full)
    monkeypatch.setattr(UntilRoom, "__call__", wait)
    took = Took()
    train_all([SMALL], store, [tmp_path / "d"], took=took)
    assert tried == [10, 10, 20, 30, 40] and -1000 < took.seconds < 0


# memory


@pytest.mark.parametrize("arch", ALONE)
def test_that_batches_that_do_not_fit_are_taken_in_pieces_and_a_resumed_run_remembers(
    tmp_path, store, monkeypatch, arch
):
    config = small(arch, batch_size=256, steps=60)
    whole = train(config, store, tmp_path / "whole")
    kind = ARCHITECTURES.get(arch)
    plain, tried = kind.gradients, []

    def tight(self, parameters, batch):
        tried.append(len(batch.x))
        if len(batch.x) > 100:
            raise torch.OutOfMemoryError("no room")
        return plain(self, parameters, batch)

    monkeypatch.setattr(kind, "gradients", tight)
    monkeypatch.setattr(kind, "fused", None)
    sae = train(config, store, tmp_path / "pieces")
    assert sae.meta["micro_batch"] == 64 and tried[:3] == [256, 128, 64] and max(tried[2:]) == 64
    assert sae.meta["quality"]["fvu"] == pytest.approx(whole.meta["quality"]["fvu"], rel=0.1)
    trainer = Trainer(config, store)
    trainer.step(store.data[:256])
    trainer.save(tmp_path / "kept")
    again = Trainer(config, store)
    again.load(tmp_path / "kept")
    assert again.pieces.rows == 64


def test_that_too_little_memory_ends_with_what_would_fit(store, monkeypatch, tmp_path):
    def never(self, parameters, batch):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(ARCHITECTURES.get("relu"), "gradients", never)
    monkeypatch.setattr("auditor.sae.memory.free_bytes", lambda _: 10_000_000)
    config = SMALL.model_copy(update={"arch": "relu", "d_sae": 60_000})
    with pytest.raises(AuditorError, match="even 64 rows at a time") as told:
        train(config, store, tmp_path / "d")
    features = int(told.value.hint.split("up to ")[1].split(" features")[0].replace(",", ""))
    assert 1000 < features < 60_000
    assert not (tmp_path / "d").exists()


def test_that_a_limit_of_the_system_is_met_by_pieces_or_by_a_sentence(server, tmp_path):
    config = SMALL.model_copy(
        update={"arch": "relu", "d_sae": 2048, "batch_size": 16_384, "steps": 2, "evaluate_rows": 0}
    )
    said = server.run(tmp_path, config, memory=400 << 20, dense=True)
    assert said[-1] == "done", said
    assert 64 <= dictionaries.load(tmp_path / "0.sae").meta["micro_batch"] < 16_384
    (tmp_path / "b").mkdir()
    (told,) = server.run(tmp_path / "b", config.model_copy(update={"d_sae": 200_000}), memory=200 << 20, dense=True)
    assert "does not fit the memory" in told and "can be had" in told
    assert not list((tmp_path / "b").iterdir())


def test_that_a_whole_run_and_a_stopped_one_keep_the_same_counters(store, tmp_path):
    whole, parts = Trainer(SMALL, store), Trainer(SMALL, store)
    batches = [x for x, _ in zip(whole.batches(), range(20), strict=False)]
    for number, x in enumerate(batches):
        whole.step(x)
        parts.step(x)
        if number == 11:
            parts.save(tmp_path / "kept")
            parts = Trainer(SMALL, store)
            parts.load(tmp_path / "kept")
    for ours, theirs in zip((parts.progress.counters(parts.flag)).values(),
                            (whole.progress.counters(whole.flag)).values(), strict=True):  # fmt: skip
        assert torch.equal(ours, theirs)
    assert float(whole.flag.seen) == 20 and int(whole.progress.silent.max()) > 64
    assert parts.density() == whole.density()


def test_that_weights_are_compared_by_their_bytes(tmp_path, store):
    train(SMALL, store, tmp_path / "a")
    train(SMALL, store, tmp_path / "b")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
