"""What the processes of these tests do; in a module of its own, so that they can find it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np

from auditor.base.errors import Stop
from auditor.base.reporter import Reporter
from auditor.sae import memory
from auditor.sae.distributed import Ranks, kept
from auditor.sae.distributed.data import DataParallel
from auditor.sae.kernels.topk_step import TopKStep
from auditor.sae.train_config import TrainConfig
from auditor.sae.trainer import Trainer, train
from auditor.store import room
from auditor.store.samples import StoredSample
from auditor.store.writer import StoreWriter
from tests.sae.memory_store import MemoryStore, known

HOOK = "blocks.1.resid_post"
STEPS = 30
# Some features are dead from step 4 on, so AuxK takes part.
BASE = {
    "arch": "topk", "d_sae": 128, "k": 4, "steps": STEPS, "batch_size": 96, "lr": 3e-3, "product": "float32",
    "dead_after": 300, "auxk_rows": 32, "metrics_every": 1, "checkpoint_every": 10, "evaluate_rows": 0,
    "device": "cpu",
}  # fmt: skip


def config(**changed):
    return TrainConfig(**{**BASE, **changed})


def store():
    return MemoryStore(known(4096, d_in=24)[0])


def stored(path):
    """A store of 4096 rows at `path`."""
    rows = known(4096, d_in=24)[0]
    meta = {"model": {"name": "tiny", "digest": "0" * 64}}
    with StoreWriter(path, {HOOK: 24}, meta, "float32") as writer:
        for at in range(0, len(rows), 64):
            columns = [np.zeros(64, int), np.arange(64), np.ones(64, int), np.full(64, -1)]
            writer.append([StoredSample(id=str(at))], {HOOK: rows[at : at + 64]}, *columns)
        writer.finish()
    return path


def ranks_of(group, how):
    if group is None:
        return Ranks()
    if how == "rows":
        return DataParallel(group)
    from auditor.sae.distributed.shards import FeatureShards

    return FeatureShards(group)


class StopsAt(Reporter):
    """Asks to stop after a step."""

    def __init__(self, step):
        self.at = step

    def step(self, done, total=0, note="", unit=""):
        if done == self.at:
            raise Stop


def learn_both_ways(group, out, archs):
    """By architecture: the curve, and how often gradients came from autograd; then both where all come from it."""
    from auditor.sae.archs import ARCHITECTURES
    from auditor.sae.archs.architecture import Architecture

    known, counted = Architecture.by_autograd, []

    def by_autograd(self, parameters, batch):
        counted.append(1)
        return known(self, parameters, batch)

    Architecture.by_autograd = by_autograd
    found = {}
    for arch in archs:
        # A rate at which a feature on the verge of firing, for one and not for the other, changes little.
        changed = {"arch": arch, "l1": 0.3, "bandwidth": 0.1, "steps": 12, "lr": 1e-3}
        counted.clear()
        curve, times = learn(group, "rows", f"{out}-{arch}", changed)[0], len(counted)
        by_hand, ARCHITECTURES.get(arch).by_hand = ARCHITECTURES.get(arch).by_hand, lambda *_: None
        found[arch] = curve, times, learn(group, "rows", f"{out}-{arch}-autograd", changed)[0], len(counted) - times
        ARCHITECTURES.get(arch).by_hand = by_hand
    return found


class Waits(Reporter):
    """Keeps what is told of a full disk, and asks to stop then, if it is to."""

    def __init__(self, stop):
        self.told, self.stop = [], stop

    def partial(self, kind, **data):
        if kind == "disk_full":
            self.told.append(data["message"])

    def step(self, done, total=0, note="", unit=""):
        if self.stop and note.startswith("waiting"):
            raise Stop


def learn(group, how, out, changed=None, stop=None, data=None):
    """(curve, tensors as numpy, what the dictionary says of itself) after training; process 0 alone hears the stop."""
    reporter = StopsAt(stop) if stop and (group is None or group.rank == 0) else None
    settings = config(**(changed or {}))
    sae = train(settings, store() if data is None else data, Path(out), reporter, ranks=ranks_of(group, how))
    tensors = {name: tensor.numpy() for name, tensor in sae.tensors().items()}
    return (
        sae.meta["curve"]["rows"],
        tensors,
        {name: sae.meta.get(name) for name in ("processes", "mishaps", "architecture")},
    )


def learn_with_an_exact_product_on_one(group, out, stop=None):
    """Training where process 1 finds at its first batch that its inexact product misses too much."""
    known = TopKStep.check

    def check(self, *given):
        known(self, *given)
        self.use("float32" if group.rank else "bfloat16")

    TopKStep.check = check
    return learn(group, "rows", out, {"product": "bfloat16"}, stop)


def learn_alone(group, out, changed):
    """The same as if there were no group."""
    return learn(None, "rows", out, changed)


def learn_on_a_full_disk(group, how, out, stop=False):
    """Training where process 1 cannot write its part of the second checkpoint, at first, or process 0 cannot end the
    first; what `learn` gives, and what was told of it. `stop`: the person wants it to end as soon as it waits."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    write, written = HuggingFaceStorageWriter.write_data, []

    def full(self, plan, planner):
        written.append(1)
        if group.rank == 1 and len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, plan, planner)

    def unfinished(*arguments):
        kept.write_atomic = write_atomic
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_atomic, kept.write_atomic = kept.write_atomic, unfinished
    HuggingFaceStorageWriter.write_data, room._LOOK_S = full, 0.01
    heard = Waits(stop) if group.rank == 0 else Reporter()
    sae = train(config(), store(), Path(out), heard, ranks=ranks_of(group, how))
    tensors = {name: tensor.numpy() for name, tensor in sae.tensors().items()}
    return sae.meta["curve"]["rows"], tensors, getattr(heard, "told", None)


def learn_without_the_other(group, out):
    """Training in which process 1 dies in the middle of a step."""
    if group.rank == 1:
        Trainer.batch = _dies_at(Trainer.batch, 15)
    return learn(group, "rows", out)


def _dies_at(function, call):
    calls = []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    return dies


def record_share(group, project, folder, texts, stop=None, **changed):
    """Take part in a recording as the command line does; on process 0 the store's folder. `stop`: asked to stop after
    so many checks, of which there is one a batch and one a piece."""
    return _share(group, project, folder, texts, _HearsStop(stop) if stop else Reporter(), **changed)


def _share(group, project, folder, texts, reporter, **changed):
    from auditor.tasks import record as verb

    if group.rank:
        _small()
        return verb.follow(reporter, DataParallel(group))
    return _record(project, folder, texts, reporter, DataParallel(group), changed)


def record_as_planned(group, project, folder, texts, size, stop=None):
    """The same with a number of samples at once that the first process finds out to be `size`."""
    from auditor.store import batch_size

    if not group.rank:
        batch_size._TRIED, batch_size.fastest = ("cpu",), lambda sizes, tried: size
    return record_share(group, project, folder, texts, stop, batch_size=0)


def record_alone(group, project, folder, texts, **changed):
    """The same without others."""
    return _record(project, folder, texts, Reporter(), None, changed)


def record_until_killed(group, project, folder, texts):
    """The same, with process 1 killed in its first piece, and process 0 waiting for that."""
    from auditor.store import record

    mark, launch = Path(project).with_name("killed"), record.launch

    def die(*_, **__):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def wait(*arguments, **named):
        while not mark.exists():
            time.sleep(0.01)
        return launch(*arguments, **named)

    record.launch = die if group.rank else wait
    return record_share(group, project, folder, texts)


def record_on_a_small_disk(group, project, folder, texts, disk):
    """The same on a disk that is full once it has begun, and is freed when one tells of it; what it told. Process 1
    finds it full at its first rows whatever there is, and process 0 runs its first batch after that."""
    from auditor.store import open_shard, record

    full, told = Path(disk) / "full", Path(disk) / "told"
    launch, write = record.launch, open_shard.OpenShard.write
    room._LOOK_S = 0.02

    def no_room(*arguments):
        _until(full.exists)
        if not told.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments)

    def later(*arguments, **named):
        _until(told.exists)
        return launch(*arguments, **named)

    if group.rank:
        open_shard.OpenShard.write = no_room
    else:
        record.launch = later
    heard = MakesRoom(Path(disk) / "ballast", full, told if group.rank else full)
    return _share(group, project, folder, texts, heard), heard.told


def _until(happened):
    while not happened():
        time.sleep(0.01)


class MakesRoom(Reporter):
    """Fills a disk when a recording begins, and frees it when it is told that it is full; touches a file after each."""

    def __init__(self, ballast, filled, freed):
        self.ballast, self.filled, self.freed, self.told = ballast, filled, freed, []

    def started(self, title, total=0, unit=""):
        if title.startswith("Record ") and not self.filled.exists():
            with open(self.ballast, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.ballast.parent).free)
            self.filled.touch()

    def partial(self, kind, **data):
        if kind == "disk_full":
            self.told.append(data["message"])
            self.ballast.unlink(missing_ok=True)
            self.freed.touch()


def _record(project, folder, texts, reporter, ranks, changed):
    from auditor.project import Project
    from auditor.store.recipe import RecordConfig
    from auditor.tasks import run_task

    _small()
    settings = {"model": str(folder), "samples": f"{texts}?by=line", "batch_size": 8, "context": 40, "device": "cpu"}
    with Project.open(project) if Path(project).exists() else Project.create(project) as held:
        result = run_task("record", held, RecordConfig(**{**settings, **changed}), reporter, ranks)
        return held.find(result["artefacts"][0]).path


def _small():
    """Small pieces and shards, none of which ends with the other."""
    from auditor.store import together, writer

    together._PIECE_BATCHES, writer.SHARD_BYTES = 2, 150_000


class _HearsStop(Reporter):
    """Asked to stop after so many checks, which a recording makes once a batch and once a piece."""

    def __init__(self, checks):
        self.left = checks

    def check(self):
        self.left -= 1
        if self.left < 0:
            raise Stop

    def step(self, done, total=0, note="", unit=""):
        self.check()


def train_share(group, project, how, **changed):
    """Take part in `auditor train` as the command line does; on process 0 the dictionaries' folders.
    Without `how`: alone."""
    told = train_told(group, project, how, **changed)
    return told and [path for path, _ in told[1]]


def train_told(group, project, how, room=None, **changed):
    """As `train_share`, with `room` bytes of memory on the machine; on process 0 the verb's result, and the folder and
    facts of each dictionary."""
    from auditor.project import Project
    from auditor.sae import run
    from auditor.tasks import run_task
    from auditor.tasks import train as verb

    run._SAMPLE_ROWS = 1024  # a stream runs its model for every row of it
    if room is not None:
        memory.free_bytes = lambda _: room
    ranks = None if how is None else ranks_of(group, how)
    if group.rank:
        return verb.follow(Reporter(), ranks)
    settings = {**BASE, "metrics_every": 5, "splice_samples": 0, **changed}
    with Project.open(project) if Path(project).exists() else Project.create(project) as held:
        result = run_task("train", held, TrainConfig(**settings), Reporter(), ranks)
        return result, [(found.path, found.meta) for found in map(held.find, result["artefacts"])]
