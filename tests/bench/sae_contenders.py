"""One dictionary trainer in a process of its own, driven by JSON lines; runs in the peers' environments too."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

os.environ.update(WANDB_MODE="disabled", HF_HUB_OFFLINE="1")
if '"device": "cuda"' not in sys.argv[-1]:
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # without a GPU it has no driver to ask


import numpy as np
import torch
from torch.nn import functional


class Spec:
    """Sizes, learning rate and data, the same for every contender."""

    def __init__(self, values):
        self.__dict__.update(values)
        self.data = np.load(self.train, mmap_mode="r")

    def batch(self, step):
        """Batch `step`, [batch, d_in] float32."""
        index = np.random.default_rng([self.seed, step]).integers(0, len(self.data), self.batch_size)
        return torch.from_numpy(self.data[np.sort(index)])

    def wait(self):
        """Until the device has done what it was told: a clock may be read only then."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def rate(self, step):
        """The learning rate: a rise over 2 % of the steps, a fall over the last 25 %."""
        return self.lr * min(1, (step + 1) / (0.02 * self.steps), (self.steps - step) / (0.25 * self.steps))


class Auditor:
    """This program's own step."""

    def __init__(self, spec):
        sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
        from auditor.sae.trainer import TrainConfig, Trainer

        class Rows:
            hook_points, n_rows, digest, meta = {"x": spec.data.shape[1]}, len(spec.data), "", {}

            def batches(self, size, **_):
                yield spec.data[:8192]

        config = TrainConfig(
            d_sae=spec.d_sae,
            k=spec.k,
            steps=spec.steps,
            batch_size=spec.batch_size,
            lr=spec.lr,
            seed=spec.seed,
            device=spec.device,
        )
        self.version = importlib.metadata.version("auditor") if _installed("auditor") else "checkout"
        self.trainer = Trainer(config, Rows())

    def step(self, x, step):
        outcome = self.trainer.gradients(x)
        if self.trainer.flag.bad(outcome.loss):
            raise FloatingPointError("loss")
        self.trainer.update(outcome)

    def finish(self):
        self.sae = self.trainer.finish().to(self.trainer.device)

    def encode_decode(self, x):
        z = self.sae.encode(x)
        return z, self.sae.decode(z)


class Plain:
    """A dense TopK loop as one writes it first."""

    version = torch.__version__

    def __init__(self, spec):
        generator = torch.Generator().manual_seed(spec.seed)
        weight = functional.normalize(torch.randn(spec.d_sae, spec.data.shape[1], generator=generator), dim=1)
        tensors = [weight * 0.5, weight, torch.zeros(spec.d_sae), torch.from_numpy(spec.data[:8192]).mean(0)]
        self.p = [torch.nn.Parameter(t.to(spec.device, copy=True)) for t in tensors]
        self.k, self.spec = spec.k, spec
        self.optimiser = torch.optim.Adam(self.p, lr=spec.lr, fused=True)

    def encode_decode(self, x):
        encoder, decoder, b_enc, b_dec = self.p
        values, ids = functional.linear(x - b_dec, encoder, b_enc).topk(self.k, dim=1, sorted=False)
        z = torch.zeros(len(x), len(encoder), device=x.device).scatter(1, ids, values.relu())
        return z, z @ decoder + b_dec

    def step(self, x, step):
        self.optimiser.param_groups[0]["lr"] = self.spec.rate(step)
        loss = (self.encode_decode(x)[1] - x).pow(2).sum(1).mean()
        self.optimiser.zero_grad()
        loss.backward()
        decoder = self.p[1]
        with torch.no_grad():
            decoder.grad -= (decoder.grad * decoder).sum(1, keepdim=True) * decoder
            self.optimiser.step()
            decoder /= decoder.norm(dim=1, keepdim=True)

    def finish(self):
        pass


class Sparsify:
    """EleutherAI's SparseCoder in an Adam loop (its own trainer runs on the hook points of a model only)."""

    def __init__(self, spec):
        from sparsify import SparseCoder, SparseCoderConfig

        self.version, self.spec = importlib.metadata.version("eai-sparsify"), spec
        torch.manual_seed(spec.seed)
        settings = SparseCoderConfig(k=spec.k, num_latents=spec.d_sae, activation="topk")
        self.coder = SparseCoder(spec.data.shape[1], settings, device=spec.device)
        self.coder.b_dec.data = torch.from_numpy(spec.data[:8192]).mean(0).to(spec.device)
        self.optimiser = torch.optim.Adam(self.coder.parameters(), lr=spec.lr, fused=True)

    def step(self, x, step):
        self.optimiser.param_groups[0]["lr"] = self.spec.rate(step)
        self.coder.set_decoder_norm_to_unit_norm()
        with torch.autocast("cuda", torch.bfloat16, enabled=self.spec.device == "cuda"):  # as its own trainer does
            out = self.coder(x)
        self.optimiser.zero_grad()
        out.fvu.backward()
        self.coder.remove_gradient_parallel_to_decoder_directions()
        self.optimiser.step()

    def finish(self):
        self.coder.set_decoder_norm_to_unit_norm()

    def encode_decode(self, x):
        out = self.coder(x)
        z = torch.zeros(len(x), self.spec.d_sae, device=x.device).scatter_(1, out.latent_indices, out.latent_acts)
        return z, out.sae_out


class SaeLens:
    """SAELens' trainer with its TopK dictionary and sparse activations."""

    settings = {"sparse": True, "autocast": False}

    def __init__(self, spec):
        import sae_lens
        from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        self.version, self.spec = sae_lens.__version__, spec
        torch.manual_seed(spec.seed)
        settings = TopKTrainingSAEConfig(
            k=spec.k,
            d_in=spec.data.shape[1],
            d_sae=spec.d_sae,
            device=spec.device,
            dtype="float32",
            use_sparse_activations=self.settings["sparse"],
            rescale_acts_by_decoder_norm=False,
        )
        self.sae = TopKTrainingSAE(settings)
        trainer = SAETrainerConfig(
            total_training_samples=spec.steps * spec.batch_size,
            train_batch_size_samples=spec.batch_size,
            lr=spec.lr,
            lr_end=spec.lr,
            device=spec.device,
            lr_warm_up_steps=round(0.02 * spec.steps),
            lr_decay_steps=round(0.25 * spec.steps),
            autocast=self.settings["autocast"],
        )
        self.trainer = SAETrainer(cfg=trainer, sae=self.sae, data_provider=iter(()))

    def step(self, x, step):
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    def finish(self):
        self.sae.eval()

    def encode_decode(self, x):
        z = self.sae.encode(x)
        return (z.to_dense() if z.is_sparse else z), self.sae.decode(z)


class SaeLensAutocast(SaeLens):
    """The same with dense activations in bfloat16, faster where the processor has it in hardware."""

    settings = {"sparse": False, "autocast": True}


CONTENDERS = {
    "auditor": Auditor,
    "plain torch": Plain,
    "sparsify": Sparsify,
    "sae-lens": SaeLens,
    "sae-lens autocast": SaeLensAutocast,
}


@torch.no_grad()
def evaluate(contender, spec):
    """FVU, L0 and dead share on the held-out rows."""
    held = torch.from_numpy(np.load(spec.held)).to(spec.device)
    squared, active, fired = 0.0, 0, torch.zeros(spec.d_sae, dtype=torch.bool, device=spec.device)
    for x in held.split(1024):
        z, out = contender.encode_decode(x)
        squared += float((out - x).double().pow(2).sum())
        active += int((z != 0).sum())
        fired |= (z != 0).any(0)
    spread = float((held - held.mean(0)).double().pow(2).sum())
    return {"fvu": squared / spread, "l0": active / len(held), "dead": 1 - float(fired.float().mean())}


def peak_mb(spec):
    """Most memory that this process has held: the GPU's on a GPU, else the machine's."""
    if spec.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _installed(name):
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def serve(name, spec):
    """Answer one JSON line for each line read: a number of steps to train, or `evaluate`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    torch.set_num_threads(spec.threads)
    contender, step = CONTENDERS[name](spec), 0
    print(json.dumps({"version": contender.version}), file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == "evaluate":
            contender.finish()
            found = {"peak_rss_mb": peak_mb(spec), **evaluate(contender, spec)}
        else:
            wall, cpu = [], []
            for _ in range(int(line)):
                x = spec.batch(step).to(spec.device)
                spec.wait()
                begin, busy = time.perf_counter(), time.process_time()
                contender.step(x, step)
                spec.wait()
                wall.append((time.perf_counter() - begin) * 1e3)
                cpu.append((time.process_time() - busy) * 1e3)
                step += 1
            found = {"wall_ms": wall, "cpu_ms": cpu}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Spec(json.loads(sys.argv[2])))
