"""The one loop that trains every dictionary: read a batch, gradients, update, report, keep what was reached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Reporter
from auditor.models.device import device_named
from auditor.sae import checkpoint
from auditor.sae.archs import ARCHITECTURES
from auditor.sae.archs.architecture import Batch, Outcome
from auditor.sae.checkpoint import Progress
from auditor.sae.finite import FiniteFlag
from auditor.sae.microbatch import MicroBatches
from auditor.sae.parameters import start
from auditor.sae.quality import evaluate
from auditor.sae.sae import Sae
from auditor.sae.source import KINDS, Source, choose_hook
from auditor.sae.train_config import TrainConfig

__all__ = ["TrainConfig", "Trainer", "train"]

_SAMPLE_ROWS = 8192
_CURVE_POINTS = 200
# Settings that may differ between the parts of an interrupted run: none changes the weights.
_FREE_SETTINGS = {"store", "checkpoint_every", "metrics_every", "half", "evaluate_rows"}


def train(
    config: TrainConfig, store: Source, out: Path | str, reporter: Reporter | None = None, resume: bool = True
) -> Sae:
    """Train on `store` and save the dictionary as the folder `out`.

    An interrupted run (stopped, killed, power cut) goes on from its last checkpoint beside `out`, with the same weights
    in the end, bit for bit on a CPU with the same number of threads. Raises Stop once cancelled, after a checkpoint is
    written; AuditorError when `out` exists, the store does not fit, or the weights do not stay finite.
    """
    out, reporter = Path(out), reporter or Reporter()
    if out.exists():
        raise AuditorError(f"“{out.name}” exists already.", "Choose another name; dictionaries are never overwritten.")
    trainer = Trainer(config, store)
    kept = checkpoint.place(out)
    if resume and kept.exists():
        trainer.load(kept)
    elif kept.exists():
        kept.unlink()
    reporter.started(f"Training {out.name}", config.steps, "steps")
    try:
        while trainer.progress.step < config.steps:
            _run(trainer, kept, reporter)
        sae = trainer.finish()
        if config.evaluate_rows:
            reporter.step(config.steps, config.steps, note="evaluating", unit="steps")
            sae.meta["quality"] = evaluate(sae, store, config.evaluate_rows, config.seed).model_dump(mode="json")
    except Stop:
        if trainer.sound():
            trainer.save(kept)
        raise
    sae.save(out, half=config.half)
    kept.unlink(missing_ok=True)
    return sae


def _run(trainer: Trainer, kept: Path, reporter: Reporter) -> None:
    """Train until the last step, or until a number that is not finite has sent training back to the last good state."""
    config, progress = trainer.config, trainer.progress
    for x in trainer.batches():
        outcome = trainer.gradients(x)
        if trainer.flag.bad(outcome.loss):
            return trainer.go_back(kept, x, reporter)
        trainer.update(outcome)
        step = progress.step
        if step % config.metrics_every == 0 or step == config.steps:
            reporter.metric(step, **trainer.measure(x, outcome))
        if step % config.checkpoint_every == 0 or step == config.steps:
            if not trainer.sound():
                return trainer.go_back(kept, x, reporter)
            if step < config.steps:
                trainer.save(kept)
        reporter.step(step, config.steps, unit="steps")
        if step >= config.steps:
            return None
    raise AuditorError("The store ran out of rows.", "Record more samples, or choose other positions to learn from.")


class Trainer:
    """One run: weights, optimiser, counters, and the store's scale. Construction reads 8192 rows."""

    def __init__(self, config: TrainConfig, store: Source) -> None:
        self.config, self.store = config, store
        self.hook = choose_hook(store, config.hook)
        self.device = device_named(config.device)
        sample = self._sample()
        self.scale = float(sample.shape[1] ** 0.5 / sample.norm(dim=1).mean())
        if not np.isfinite(self.scale):
            raise AuditorError(
                f"The first rows of “{self.hook}” are all zero or not finite.", "Check the store, or record it again."
            )
        self._sample_rows = sample * self.scale
        self.begin()

    def begin(self) -> None:
        """The state before the first step."""
        config, sample = self.config, self._sample_rows
        self.architecture = ARCHITECTURES.get(config.arch)(config, sample, self.device)
        parameters = start(sample, config.d_sae, config.seed, self.device)
        optimiser = torch.optim.Adam(list(parameters.named().values()), lr=config.lr, fused=True)
        silent = torch.zeros(config.d_sae, dtype=torch.int64, device=self.device)
        self.progress = Progress(parameters, optimiser, silent, arch=self.architecture.state())
        self.pieces = MicroBatches(self.architecture)
        self.flag = FiniteFlag(self.device)

    def batches(self) -> Any:
        """The store's batches from the next one on."""
        config = self.config
        return self.store.batches(
            config.batch_size, seed=config.seed, hook=self.hook, start=self.progress.step, kinds=KINDS[config.kinds]
        )

    def gradients(self, x: np.ndarray[Any, Any] | Tensor) -> Outcome:
        """Gradients of one batch of raw activations [B, d_in], left in the parameters."""
        rows = x if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        scaled = rows.to(self.device) * self.scale
        dead = self.progress.silent > self.config.dead_after
        return self.pieces.gradients(self.progress.parameters, Batch(scaled, self.progress.step, dead))

    def update(self, outcome: Outcome) -> None:
        """One step of Adam, and the counters."""
        progress = self.progress
        for group in progress.optimiser.param_groups:
            group["lr"] = self.config.lr * progress.rate * schedule(self.config, progress.step)
        self.architecture.before_update(progress.parameters)
        progress.optimiser.step()
        self.architecture.after_update(progress.parameters)
        progress.silent += self.config.batch_size
        progress.silent.masked_fill_(outcome.fired, 0)
        progress.step += 1

    def measure(self, x: np.ndarray[Any, Any], outcome: Outcome) -> dict[str, float]:
        """Loss, fraction of variance unexplained, mean active features per row, share of dead features."""
        spread = float(np.square(x - x.mean(0)).sum(dtype=np.float64)) * self.scale**2
        dead = self.progress.silent > self.config.dead_after
        figures = {
            "loss": float(outcome.loss.detach()), "fvu": float(outcome.squared_error) / max(spread, 1e-30),
            "l0": float(outcome.l0), "dead": float(dead.float().mean()),
        }
        self.progress.curve.append([self.progress.step, *(float(f"{value:.6g}") for value in figures.values())])
        return figures

    def sound(self) -> bool:
        """Whether the state is one to keep."""
        return not self.flag.settle() and self.progress.finite()

    def go_back(self, kept: Path, x: np.ndarray[Any, Any], reporter: Reporter) -> None:
        """Return to the last good state with half the learning rate, and tell the person."""
        if not np.isfinite(x).all():
            raise AuditorError(
                f"Batch {self.progress.step} of the store holds values that are not finite.",
                "Check the store; record it again if its check fails.",
            )
        step, rate, mishaps = self.progress.step, self.progress.rate / 2, self.progress.mishaps
        if rate < 2**-6:
            raise AuditorError(
                f"Training did not stay finite at step {step}, even at a rate of {self.config.lr * rate * 2:.1g}.",
                "Lower the learning rate, or lengthen the warm-up.",
            )
        self.begin()
        if kept.exists():
            self.load(kept)
        self.progress.rate = rate
        self.progress.mishaps = [*mishaps, {"step": step, "back_to": self.progress.step, "rate": rate}]
        reporter.partial(
            "warning", step=step,
            message=f"A value was not finite at step {step}: back at step {self.progress.step} "
            f"with a learning rate of {self.config.lr * rate:.2g}.",
        )

    def identity(self) -> dict[str, Any]:
        """What two parts of one run must share."""
        settings = self.config.model_dump(mode="json", exclude=_FREE_SETTINGS)
        return {**settings, "hook": self.hook, "device": self.device.type, "store": self.store.digest}

    def save(self, path: Path) -> None:
        """Keep the state in the file `path`."""
        self.progress.arch = self.architecture.state()
        checkpoint.save(self.progress, path, self.identity())

    def load(self, path: Path) -> None:
        """Take up the state from the file `path`."""
        checkpoint.load(self.progress, path, self.identity())
        self.architecture.restore(self.progress.arch)

    def finish(self) -> Sae:
        """The dictionary on raw activations."""
        sae = self.architecture.finish(self.progress.parameters, self.scale)
        sae.hook = self.hook
        curve = self.progress.curve
        every = max(1, -(-len(curve) // _CURVE_POINTS))
        sae.meta = {
            **_model_facts(self.store), "store_digest": self.store.digest,
            "train": self.config.model_dump(mode="json", exclude={"store"}),
            "input_scale": self.scale, "rows": self.progress.step * self.config.batch_size,
            "architecture": self.architecture.facts(), "mishaps": self.progress.mishaps,
            "curve": {"columns": ["step", "loss", "fvu", "l0", "dead"], "rows": [*curve[:-1:every], *curve[-1:]]},
            "torch": torch.__version__, "device": self.device.type, "threads": torch.get_num_threads(),
        }
        return sae

    def _sample(self) -> Tensor:
        rows: list[Tensor] = []
        for x in self.batches_of_sample():
            rows.append(torch.from_numpy(np.array(x, dtype=np.float32)))
            if sum(map(len, rows)) >= _SAMPLE_ROWS:
                break
        if not rows:
            raise AuditorError("The store has no rows to learn from.", "Record samples, or choose other positions.")
        return torch.cat(rows)[:_SAMPLE_ROWS]

    def batches_of_sample(self) -> Any:
        """Rows for the scale and the start; another order than training's, so that it is no batch seen first."""
        config = self.config
        size = min(config.batch_size, _SAMPLE_ROWS, max(1, self.store.n_rows))
        return self.store.batches(size, seed=config.seed + 1, hook=self.hook, kinds=KINDS[config.kinds])


def _model_facts(store: Source) -> dict[str, str]:
    model = store.meta.get("model")
    facts = model if isinstance(model, Mapping) else {}
    return {"model": str(facts.get("name", "")), "model_digest": str(facts.get("digest", ""))}


def schedule(config: TrainConfig, step: int) -> float:
    """Share of the learning rate at `step`: a linear rise, a plateau, a linear fall to 0."""
    rise = min(1.0, (step + 1) / max(1.0, config.warmup * config.steps))
    fall = min(1.0, (config.steps - step) / max(1.0, config.decay * config.steps))
    return min(rise, fall)
