"""This program's own step."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from auditor import __version__
from auditor.sae.trainer import TrainConfig, Trainer


class Rows:
    """As much of a store as a trainer reads before its first step."""

    def __init__(self, data):
        self.data, self.hook_points, self.n_rows, self.digest, self.meta = data, {"x": data.shape[1]}, len(data), "", {}

    def batches(self, size, **_):
        while True:
            yield self.data[:8192]


class Auditor:
    """The trainer's step, batches given."""

    def __init__(self, spec):
        self.version = __version__
        self.coefficient = None
        sparsity = {"relu": {"l1": spec.coefficient or 3.0}, "jumprelu": {"target_l0": spec.l0}}.get(spec.arch, {})
        if spec.arch == "relu":
            self.coefficient = sparsity["l1"]
        config = TrainConfig(
            arch=spec.arch,
            d_sae=spec.d_sae,
            k=spec.k,
            steps=spec.steps,
            batch_size=spec.batch_size,
            lr=spec.lr,
            seed=spec.seed,
            device=spec.device,
            **sparsity,
        )
        self.trainer = Trainer(config, Rows(spec.data))

    def step(self, x, step):
        if self.trainer.step(x) is None:
            raise FloatingPointError("the loss was not finite, or leapt")

    def finish(self):
        self.sae = self.trainer.finish().to(self.trainer.device)

    def encode_decode(self, x):
        z = self.sae.encode(x)
        return z, self.sae.decode(z)
