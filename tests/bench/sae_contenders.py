"""One dictionary trainer in a process of its own, driven by JSON lines; runs in the peers' environments too."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time

os.environ.update(WANDB_MODE="disabled", HF_HUB_OFFLINE="1")
if '"device": "cuda"' not in sys.argv[-1]:
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # without a GPU it has no driver to ask

import numpy as np
import torch
from contenders import ENTRIES, FLOOR

# On a GPU steps are queued, as in training; the clock is read when so many have run.
_QUEUED = 10


class Spec:
    """Sizes, settings and data, the same for every contender but for learning rate and coefficient of sparsity."""

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


@torch.no_grad()
def evaluate(contender, spec):
    """FVU, L0 and dead share on the held-out rows."""
    held = torch.from_numpy(np.load(spec.held)).to(spec.device)
    squared, active, fired = 0.0, 0, torch.zeros(spec.d_sae, dtype=torch.bool, device=spec.device)
    for x in held.split(1024):
        z, out = contender.encode_decode(x)
        squared += float((out.float() - x).double().pow(2).sum())
        active += int((z != 0).sum())
        fired |= (z != 0).any(0)
    spread = float((held - held.mean(0)).double().pow(2).sum())
    return {"fvu": squared / spread, "l0": active / len(held), "dead": 1 - float(fired.float().mean())}


def train(contender, spec, first, count):
    """Steps `first` and on; wall and processor time of each, ms (on a GPU of each of those queued together)."""
    wall, cpu = [], []
    group = _QUEUED if spec.device == "cuda" else 1
    for begin in range(first, first + count, group):
        numbers = range(begin, min(begin + group, first + count))
        batches = [spec.batch(step).to(spec.device) for step in numbers]
        spec.wait()
        started, busy = time.perf_counter(), time.process_time()
        for step, x in zip(numbers, batches, strict=True):
            contender.step(x, step)
        spec.wait()
        n = len(numbers)
        wall += [(time.perf_counter() - started) * 1e3 / n] * n
        cpu += [(time.process_time() - busy) * 1e3 / n] * n
    return {"wall_ms": wall, "cpu_ms": cpu}


def peak_mb(spec):
    """Most memory that this process has held: the GPU's on a GPU, else the machine's."""
    if spec.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def make(name, spec):
    """The contender of that name, or the floor."""
    entry = ENTRIES.get(name, FLOOR)
    module, _, kind = entry.place.partition(":")
    torch.manual_seed(spec.seed)
    return getattr(importlib.import_module(f"contenders.{module}"), kind)(spec, **entry.settings)


def serve(name, spec):
    """Answer one JSON line for each line read: a number of steps to train, or `evaluate`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    torch.set_num_threads(spec.threads)
    contender, done = make(name, spec), 0
    hello = {"version": contender.version, "coefficient": contender.coefficient, **getattr(contender, "facts", {})}
    print(json.dumps(hello), file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == "evaluate":
            contender.finish()
            found = {"peak_rss_mb": peak_mb(spec), **evaluate(contender, spec)}
        else:
            found = train(contender, spec, done, int(line))
            done += int(line)
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Spec(json.loads(sys.argv[2])))
