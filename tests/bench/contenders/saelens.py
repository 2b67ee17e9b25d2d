"""SAELens' training dictionaries in its trainer."""

from __future__ import annotations

import sae_lens
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

KINDS = {
    "topk": (sae_lens.TopKTrainingSAE, sae_lens.TopKTrainingSAEConfig),
    "relu": (sae_lens.StandardTrainingSAE, sae_lens.StandardTrainingSAEConfig),
    "batchtopk": (sae_lens.BatchTopKTrainingSAE, sae_lens.BatchTopKTrainingSAEConfig),
    "jumprelu": (sae_lens.JumpReLUTrainingSAE, sae_lens.JumpReLUTrainingSAEConfig),
}


class Training:
    """Its defaults, but for what a comparison of short runs needs: the common schedule, a penalty that gives the
    common L0 and rises as ours does, and a BatchTopK threshold that follows within tens of steps, not hundreds. A
    JumpReLU's thresholds grow by the learning rate a step at most, so no penalty reaches the common L0 in a short run:
    there the threshold to start from, in place of .01, is what is searched."""

    def __init__(self, spec, sparse=False, autocast=False):
        self.version, self.spec = sae_lens.__version__, spec
        kind, settings = KINDS[spec.arch]
        self.sae = kind(
            settings(
                d_in=spec.data.shape[1],
                d_sae=spec.d_sae,
                device=spec.device,
                dtype="float32",
                **self._sparsity(spec, sparse),
            )
        )
        trainer = SAETrainerConfig(
            total_training_samples=spec.steps * spec.batch_size,
            train_batch_size_samples=spec.batch_size,
            lr=spec.lr,
            lr_end=spec.lr,
            device=spec.device,
            lr_warm_up_steps=max(2, round(0.02 * spec.steps)),
            lr_decay_steps=round(0.25 * spec.steps),
            autocast=autocast,
        )
        self.trainer = SAETrainer(cfg=trainer, sae=self.sae, data_provider=iter(()))

    def _sparsity(self, spec, sparse):
        start = {"relu": 3.0, "jumprelu": 0.2}.get(spec.arch)
        self.coefficient = start and (spec.coefficient or start)
        rise = round(0.05 * spec.steps)
        if spec.arch == "relu":
            return {"l1_coefficient": self.coefficient, "l1_warm_up_steps": rise}
        if spec.arch == "jumprelu":
            return {"jumprelu_init_threshold": self.coefficient, "l0_warm_up_steps": rise}
        if spec.arch == "batchtopk":
            return {"k": spec.k, "topk_threshold_lr": 0.1}
        # Its sparse form is fastest without the rescaling.
        fast = {"use_sparse_activations": True, "rescale_acts_by_decoder_norm": False}
        return {"k": spec.k} | (fast if sparse else {})

    def step(self, x, step):
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    def finish(self):
        self.sae.eval()

    def encode_decode(self, x):
        if self.spec.arch == "batchtopk":  # as it is saved: a JumpReLU with the running threshold
            norm = self.sae.W_dec.norm(dim=-1)
            z = (self.sae.process_sae_in(x) @ self.sae.W_enc + self.sae.b_enc) * norm
            z = z * (z > self.sae.topk_threshold)
            return z, (z / norm) @ self.sae.W_dec + self.sae.b_dec
        z = self.sae.encode(x)
        return (z.to_dense() if z.is_sparse else z), self.sae.decode(z)
