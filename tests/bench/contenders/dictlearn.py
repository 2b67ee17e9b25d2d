"""The trainers of dictionary_learning (Marks, Karvonen, Mueller)."""

from __future__ import annotations

import contextlib
import importlib.metadata

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import TopKTrainer

TRAINERS = {
    "topk": TopKTrainer,
    "relu": StandardTrainerAprilUpdate,  # its penalty is the one of ours: weighted by decoder norms
    "batchtopk": BatchTopKTrainer,
    "jumprelu": JumpReluTrainer,
}


class Training:
    """Its defaults, but for what a comparison of short runs needs: the common schedule, the common L0, thresholds
    that start before step 1000, and a JumpReLU kernel wide enough (0.5, not 0.001) for thresholds to move."""

    def __init__(self, spec, autocast=False):
        self.version, self.spec = importlib.metadata.version("dictionary-learning"), spec
        self.autocast = autocast
        rise = max(1, round(0.05 * spec.steps))
        self.coefficient = spec.coefficient or {"relu": 3.0, "jumprelu": 100.0}.get(spec.arch)
        settings = {
            "topk": {"k": spec.k, "threshold_start_step": spec.steps},
            "relu": {"l1_penalty": self.coefficient, "sparsity_warmup_steps": rise},
            "batchtopk": {"k": spec.k, "threshold_start_step": rise, "threshold_beta": 0.9},
            "jumprelu": {
                "target_l0": spec.l0,
                "sparsity_penalty": self.coefficient,
                "sparsity_warmup_steps": rise,
                "bandwidth": 0.5,
            },
        }[spec.arch]
        self.trainer = TRAINERS[spec.arch](
            steps=spec.steps,
            activation_dim=spec.data.shape[1],
            dict_size=spec.d_sae,
            layer=0,
            lm_name="",
            lr=spec.lr,
            warmup_steps=max(1, round(0.02 * spec.steps)),
            decay_start=round(0.75 * spec.steps),
            seed=spec.seed,
            device=spec.device,
            **settings,
        )

    def step(self, x, step):
        with torch.autocast("cuda", torch.bfloat16) if self.autocast else contextlib.nullcontext():
            self.trainer.update(step, x)

    def finish(self):
        pass

    def encode_decode(self, x):
        z = self.trainer.ae.encode(x)
        return z, self.trainer.ae.decode(z)
