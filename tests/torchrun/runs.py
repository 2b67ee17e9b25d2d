"""What the processes of these tests do; in a module of its own, so that they can find it."""

from __future__ import annotations

from pathlib import Path

from auditor.base.errors import Stop
from auditor.base.reporter import Reporter
from auditor.sae.distributed import Ranks
from auditor.sae.distributed.data import DataParallel
from auditor.sae.train_config import TrainConfig
from auditor.sae.trainer import train
from tests.sae.memory_store import MemoryStore, known

STEPS = 30
# Some features are dead from step 4 on, so AuxK takes part.
BASE = {
    "arch": "topk", "d_sae": 128, "k": 4, "steps": STEPS, "batch_size": 96, "lr": 1e-2, "product": "float32",
    "dead_after": 300, "auxk_rows": 32, "metrics_every": 1, "checkpoint_every": 10, "evaluate_rows": 0,
    "device": "cpu",
}  # fmt: skip


def config(**changed):
    return TrainConfig(**{**BASE, **changed})


def store():
    return MemoryStore(known(4096, d_in=24)[0])


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


def learn(group, how, out, changed=None, stop=None, data=None):
    """(curve, tensors as numpy, what the dictionary says of itself) after training; process 0 alone hears the stop."""
    reporter = StopsAt(stop) if stop and (group is None or group.rank == 0) else None
    settings = config(**(changed or {}))
    sae = train(settings, store() if data is None else data, Path(out), reporter, ranks=ranks_of(group, how))
    tensors = {name: tensor.numpy() for name, tensor in sae.tensors().items()}
    return sae.meta["curve"]["rows"], tensors, {name: sae.meta.get(name) for name in ("processes", "mishaps")}
