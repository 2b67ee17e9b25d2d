"""The one loop that trains every dictionary: read a batch, let each run take a step, report, keep what was reached."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Reporter
from auditor.models.device import device_named
from auditor.sae import checkpoint, memory
from auditor.sae.archs import ARCHITECTURES
from auditor.sae.archs.architecture import Batch, Outcome
from auditor.sae.checkpoint import Progress
from auditor.sae.clt import Dictionary
from auditor.sae.density import Density
from auditor.sae.distributed import Ranks, Rows, kept
from auditor.sae.feed import Feed
from auditor.sae.finite import FiniteFlag
from auditor.sae.microbatch import MicroBatches, does_not_fit
from auditor.sae.parameters import Parameters
from auditor.sae.quality import evaluate
from auditor.sae.scaling import Scaling, reading_of
from auditor.sae.source import KINDS, Computed, Source
from auditor.sae.sweep import label
from auditor.sae.took import Took
from auditor.sae.train_config import TrainConfig
from auditor.store import Store
from auditor.store.shuffle import Room

__all__ = ["TrainConfig", "Trainer", "train", "train_all"]

_SAMPLE_ROWS = 8192
_CURVE_POINTS = 200
_LOOK_EVERY = 10
# Settings that may differ between the parts of an interrupted run: none changes the weights.
_FREE_SETTINGS = {"store", "others", "model", "samples", "sweep", "checkpoint_every", "metrics_every", "splice_every",
                  "splice_samples", "random_model", "half", "evaluate_rows"}  # fmt: skip
# What is made, a `Dictionary`; those who measure may take one kind alone.
Probe = Callable[[Any], Mapping[str, float]]
Measure = Callable[[Any], Mapping[str, Any]]


def train(
    config: TrainConfig, store: Source, out: Path | str, reporter: Reporter | None = None, resume: bool = True,
    *, start: Dictionary | None = None, probe: Probe | None = None, ranks: Ranks | None = None,
) -> Dictionary:
    """Train on `store` and save the dictionary as the folder `out`; as `train_all` for one."""
    return train_all([config], store, [Path(out)], reporter, resume, start=start, probe=probe, ranks=ranks)[0]


def train_all(
    configs: Sequence[TrainConfig], store: Source, outs: Sequence[Path], reporter: Reporter | None = None,
    resume: bool = True, *, start: Dictionary | None = None, probe: Probe | None = None, measure: Measure | None = None,
    ranks: Ranks | None = None, took: Took | None = None,
) -> list[Dictionary]:
    """Train a dictionary for each of `configs` on one pass over `store`, and save them as the folders `outs`.

    An interrupted run (stopped, killed, power cut) goes on from its last checkpoint beside `out`, with the same weights
    in the end, bit for bit on a CPU with the same number of threads. `start` is the dictionary to go on from where a
    config says so; `probe` measures a dictionary every `splice_every` steps, `measure` each finished one, for its
    `meta`; `took` is filled in. Raises Stop once cancelled, after checkpoints are written; AuditorError when an `out`
    exists, the store or the memory does not fit, or weights do not stay finite. Where several processes train together
    as `ranks`, each calls this alike, and only the first one's result is whole.
    """
    reporter, ranks = reporter or Reporter(), ranks or Ranks()
    for out in outs:
        if out.exists():
            raise AuditorError(
                f"“{out.name}” exists already.", "Choose another name; dictionaries are never overwritten."
            )
    names = [label(config, configs) for config in configs]
    with _within_memory(lambda: _too_large(configs[0], store)):
        runs = [
            _Kept(Trainer(config, store, start, ranks), checkpoint.place(out), name)
            for config, out, name in zip(configs, outs, names, strict=True)
        ]
    for run in runs:
        run.take_up(resume)
    steps = configs[0].steps
    reporter.started(f"Training {outs[0].name if len(outs) == 1 else f'{len(outs)} dictionaries'}", steps, "steps")
    try:
        with _within_memory(lambda: does_not_fit(runs[0].trainer.architecture)):
            while any(run.trainer.progress.step < steps for run in runs):
                _pass(runs, reporter, probe)
            saes = [run.trainer.finish() for run in runs]
            if not ranks.leads:
                return saes
            for run, sae in zip(runs, saes, strict=True):
                reporter.step(steps, steps, note="evaluating", unit="steps")
                if run.trainer.config.evaluate_rows:
                    rows, seed = run.trainer.config.evaluate_rows, run.trainer.config.seed
                    sae.meta["quality"] = evaluate(sae, store, rows, seed).model_dump(mode="json")
                sae.meta |= measure(sae) if measure else {}
    except Stop:
        for run in runs:
            # At the last step it was kept already, and other processes may have left.
            if run.trainer.progress.step < steps:
                run.keep()
        raise
    for run, sae, out in zip(runs, saes, outs, strict=True):
        sae.save(out, half=run.trainer.config.half)
    for run in runs:
        kept.forget(run.path)
        kept.forget(kept.folder(run.path))
    if took is not None:
        took.seconds, took.steps = runs[0].trainer.progress.seconds, steps
    return saes


@contextlib.contextmanager
def _within_memory(otherwise: Callable[[], AuditorError]) -> Iterator[None]:
    """Where memory runs out beside a batch, raise what `otherwise` gives: what would fit."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not memory.out_of_memory(error):
            raise
        failed = error.with_traceback(None)  # whose frames hold what did not fit
    else:
        return
    raise otherwise() from failed


def _too_large(config: TrainConfig, store: Source) -> AuditorError:
    reading = reading_of(dict(store.hook_points), ARCHITECTURES.get(config.arch).takes, config.hook, config.target)
    room = memory.free_bytes(device_named(config.device))
    hint = memory.advice(config, reading.d_in, reading.d_out if reading.targets else None, room)
    return AuditorError("The dictionary does not fit the memory.", hint)


@dataclass
class _Kept:
    """A run, the file that its state is kept in, and what it is called among the others."""

    trainer: Trainer
    path: Path
    name: str

    def take_up(self, resume: bool) -> None:
        if resume and kept.exists(self.path):
            self.trainer.load(self.path)
        elif self.trainer.ranks.leads:
            kept.forget(self.path)
            kept.forget(kept.folder(self.path))

    def keep(self) -> None:
        if self.trainer.sound():
            self.trainer.save(self.path)


def _pass(runs: Sequence[_Kept], reporter: Reporter, probe: Probe | None) -> None:
    """Train until the last step, or until a number that is not finite has sent training back to the last good state."""
    trainers, ranks = [run.trainer for run in runs], runs[0].trainer.ranks
    config, first = trainers[0].config, min(trainer.progress.step for trainer in trainers)
    clock = time.monotonic()
    for step, x in enumerate(trainers[0].batches(first), first + 1):
        rows = trainers[0].rows(ranks.share(x))
        for run in runs:
            # Runs that share a pass may have been kept at different steps when a kill came between two of them.
            if run.trainer.progress.step >= step:
                continue
            outcome = run.trainer.step(rows)
            if outcome is None:
                return _go_back(runs, run, x, reporter)
            if step % config.metrics_every == 0 or step == config.steps:
                _tell(run, runs, x, outcome, reporter)
        begun, clock = clock, time.monotonic()
        for trainer in trainers:
            trainer.progress.seconds += clock - begun
        if probe and config.splice_every and step % config.splice_every == 0 and step < config.steps:
            for run in runs:
                sae = run.trainer.finish()
                with ranks.together():
                    if ranks.leads:
                        reporter.partial("spliced", run=run.name, step=step, **probe(sae))
        if step % config.checkpoint_every == 0 or step == config.steps:
            for run in runs:
                if not run.trainer.sound():
                    return _go_back(runs, run, x, reporter)
            for run in runs:
                run.trainer.save(run.path)
        with ranks.together():
            reporter.step(step, config.steps, unit="steps")
        if step >= config.steps:
            return None
    raise AuditorError("The store ran out of rows.", "Record more samples, or choose other positions to learn from.")


def _tell(run: _Kept, runs: Sequence[_Kept], x: Rows, outcome: Outcome, reporter: Reporter) -> None:
    """Report the figures of a step, and how often features fire."""
    trainer = run.trainer
    figures = trainer.measure(x, outcome)
    step = trainer.progress.step
    if run is runs[0]:
        reporter.metric(step, **figures)
    if len(runs) > 1:
        reporter.partial("curve", run=run.name, step=step, **figures)
    reporter.partial("density", run=run.name, step=step, **trainer.density())


def _go_back(runs: Sequence[_Kept], broken: _Kept, x: Rows, reporter: Reporter) -> None:
    """Return to the last good state, `broken` with half its learning rate, and tell the person."""
    step = broken.trainer.progress.step
    broken.trainer.blame(x)
    for run in runs:
        run.trainer.go_back(run.path, step, halve=run is broken)
    trainer = broken.trainer
    reporter.partial(
        "warning", step=step, run=broken.name,
        message=f"The loss was not finite or leapt at step {step}: back at step {trainer.progress.step} "
        f"with a learning rate of {trainer.config.lr * trainer.progress.rate:.2g}.",
    )


class Trainer:
    """One run: weights, optimiser, counters, and the data's scale. Construction reads 8192 rows."""

    def __init__(
        self, config: TrainConfig, store: Source, start: Dictionary | None = None, ranks: Ranks | None = None
    ) -> None:
        self.config, self.store, self._start = config, store, start if config.start_from else None
        self.ranks = ranks or Ranks()
        self._kind = ARCHITECTURES.get(config.arch)
        self.reading = reading_of(dict(store.hook_points), self._kind.takes, config.hook, config.target)
        self.device = device_named(config.device)
        sample = self._sample()
        self.scaling = Scaling.of(self.reading, sample, config.normalise)
        self._scaling = self.scaling.to(self.device)
        x, target = self.scaling.apply(sample)
        self._sample_batch = Batch(x, 0, torch.zeros(config.d_sae, dtype=torch.bool), target)
        self.begin()

    def begin(self) -> None:
        """The state before the first step."""
        config, sample = self.config, self._sample_batch
        make = self.ranks.architecture(self._kind)
        self.architecture = make(self.ranks.settings(config), self.scaling, sample, self.device)
        started = self.architecture.begin(sample) if self._start is None else self.architecture.adopt(self._start)
        optimiser = torch.optim.Adam(list(started.named().values()), lr=config.lr, fused=True)
        if self.ranks.fuses:
            self._fuse(started, optimiser)
        self.ranks.begun(started)
        silent = torch.zeros(started.d_sae, dtype=torch.int64, device=self.device)
        self.progress = Progress(
            started, optimiser, silent, Density.start(started.d_sae, self.device), arch=self.architecture.state()
        )
        self.pieces = MicroBatches(self.architecture)
        self.flag = FiniteFlag(self.device, config.spike)

    def _fuse(self, parameters: Parameters, optimiser: torch.optim.Adam) -> None:
        try:
            self.architecture.prepare(parameters, optimiser)
        except RuntimeError as error:
            if not memory.out_of_memory(error):
                raise
            # A fused step takes whole batches; without one they are taken in pieces that fit.
            self.architecture.fused = None

    def batches(self, first: int | None = None) -> Iterator[Any]:
        """The store's batches from number `first` on, or from the next one; on a GPU on their way while it computes."""
        first = self.progress.step if first is None else first
        size, seed = self.config.batch_size, self.config.order_seed()
        if self.device.type == "cpu" or isinstance(self.store, Computed):
            return self._read(size, seed, first)
        feed = Feed(self.device)
        return feed.send(self._read(size, seed, first, feed.room))

    def rows(self, x: np.ndarray[Any, Any] | Tensor) -> Tensor:
        """Raw rows [B, all columns] as float32 on the device of training."""
        rows = x if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        return rows.to(self.device, torch.float32)

    def batch(self, x: np.ndarray[Any, Any] | Tensor) -> Batch:
        """Raw rows as the architecture takes them."""
        inputs, target = self._scaling.apply(self.rows(x))
        return Batch(inputs, self.progress.step, self.progress.silent > self.config.dead_after, target)

    def step(self, x: np.ndarray[Any, Any] | Tensor) -> Outcome | None:
        """One step on raw rows [B, all columns]; None where a loss so far was not finite or leapt."""
        batch = self.batch(x)
        fused = self.architecture.fused if self.ranks.fuses else None
        if fused:
            outcome = fused.step(batch, self.rate(), self.progress.silent)
        else:
            outcome = self.ranks.joined(self.progress.parameters, self._gradients(batch))
        if self.flag.bad(outcome.loss, beside=self._unseen(), may_leap=self._came_back_for()):
            return None
        self.update(outcome, fused=fused is not None)
        self.architecture.observe(self.progress.parameters, batch, outcome)
        return outcome

    def _unseen(self) -> Tensor | None:
        """A number that is finite if those weights are that a loss may not show: a feature whose pre-activation is NaN
        exceeds nothing, and sparse steps take it for silent. It costs a pass over them, so a GPU looks now and then."""
        if self.device.type == "cuda" and self.progress.step % _LOOK_EVERY:
            return None
        named = self.progress.parameters.named()
        return torch.stack([t.detach().sum() for name, t in named.items() if name != "decoder"]).sum()

    def _came_back_for(self) -> bool:
        """Whether a leap at this step sent training back already: then it is the data's, and a lower rate is enough."""
        return any(abs(mishap["step"] - self.progress.step) <= 1 for mishap in self.progress.mishaps)

    def gradients(self, x: np.ndarray[Any, Any] | Tensor) -> Outcome:
        """Gradients of one batch of raw activations, left in the parameters."""
        return self._gradients(self.batch(x))

    def _gradients(self, batch: Batch) -> Outcome:
        return self.pieces.gradients(self.progress.parameters, batch)

    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.config.lr * self.progress.rate * schedule(self.config, self.progress.step)

    def update(self, outcome: Outcome, *, fused: bool = False) -> None:
        """One step of Adam unless the step was `fused`, which counts silence itself, and the counters."""
        progress = self.progress
        if not fused:
            for group in progress.optimiser.param_groups:
                group["lr"] = self.rate()
            self.architecture.before_update(progress.parameters)
            progress.optimiser.step()
            self.architecture.after_update(progress.parameters)
            progress.silent += self.config.batch_size
            progress.silent.masked_fill_(outcome.counts > 0, 0)
        progress.density.add(outcome.counts, self.config.batch_size)
        progress.step += 1

    def measure(self, x: np.ndarray[Any, Any] | Tensor, outcome: Outcome) -> dict[str, float]:
        """Loss, fraction of variance unexplained, mean active features per row, share of dead features."""
        target = self._scaling.apply(self.rows(x))[1]
        spread = float((target - target.mean(0)).square().sum(dtype=torch.float64))
        dead = self.progress.silent > self.config.dead_after
        share = self.ranks.over_features(dead.sum()) / self.ranks.over_features(torch.tensor(len(dead)))
        figures = {
            "loss": float(outcome.loss.detach()), "fvu": float(outcome.squared_error) / max(spread, 1e-30),
            "l0": float(outcome.l0), "dead": float(share),
        }
        self.progress.curve.append([self.progress.step, *(float(f"{value:.6g}") for value in figures.values())])
        return figures

    def density(self) -> dict[str, Any]:
        """How many features fire how often: counts over shares of rows, in decades."""
        return self.progress.density.histogram(self.ranks.over_features)

    def sound(self) -> bool:
        """Whether the state is one to keep."""
        return not self.ranks.any(self.flag.settle() or not self.progress.finite())

    def blame(self, x: Rows | Tensor) -> None:
        """AuditorError where the data, or a rate halved too often, is why the loss does not stay finite."""
        if not bool(torch.isfinite(self.rows(x)).all()):
            raise AuditorError(
                f"Batch {self.progress.step} of the store holds values that are not finite.",
                "Check the store; record it again if its check fails.",
            )
        if self.progress.rate / 2 < 2**-6:
            raise AuditorError(
                f"Training did not stay finite at step {self.progress.step}, even at a rate of "
                f"{self.config.lr * self.progress.rate:.1g}.", "Lower the learning rate, or lengthen the warm-up.",
            )

    def go_back(self, path: Path, step: int, *, halve: bool) -> None:
        """Return to the state kept as `path`, or to the beginning; with half the learning rate if `halve`."""
        rate, mishaps, seconds = self.progress.rate, self.progress.mishaps, self.progress.seconds
        self.begin()
        if kept.exists(path):
            self.load(path)
        if halve:
            mishaps = [*mishaps, {"step": step, "back_to": self.progress.step, "rate": rate / 2}]
        self.progress.rate, self.progress.mishaps = (rate / 2 if halve else rate), mishaps
        self.progress.seconds = seconds

    def identity(self) -> dict[str, Any]:
        """What two parts of one run must share."""
        settings = self.config.model_dump(mode="json", exclude=_FREE_SETTINGS)
        return {**settings, "hook": self.reading.hooks, "device": self.device.type, "store": self.store.digest}

    def save(self, path: Path) -> None:
        """Keep the state as `path`."""
        self.progress.arch, self.progress.piece = self.architecture.state(), self.pieces.rows
        if isinstance(self.store, Computed):
            self.progress.source = self.store.marks()
        self.ranks.save(self.progress, path, self.identity(), self.flag)

    def load(self, path: Path) -> None:
        """Take up the state kept as `path`."""
        self.ranks.load(self.progress, path, self.identity(), self.flag)
        self.architecture.restore(self.progress.arch)
        self.pieces.rows = self.progress.piece
        if isinstance(self.store, Computed):
            self.store.take_marks(self.progress.source)

    def finish(self) -> Dictionary:
        """The dictionary on raw activations, as it is now."""
        sae = self.architecture.finish(self.progress.parameters)
        curve = self.progress.curve
        every = max(1, -(-len(curve) // _CURVE_POINTS))
        sae.meta = {
            **_model_facts(self.store), "store_digest": self.store.digest,
            "train": self.config.model_dump(mode="json", exclude={"store", "others", "model", "samples", "sweep"}),
            "input_scale": self.scaling.factors(), "rows": self.progress.step * self.config.batch_size,
            "architecture": self.architecture.facts(), "mishaps": self.progress.mishaps,
            "curve": {"columns": ["step", "loss", "fvu", "l0", "dead"], "rows": [*curve[:-1:every], *curve[-1:]]},
            "density": self.density(), "micro_batch": self.pieces.rows,
            "torch": torch.__version__, "device": self.device.type, "threads": torch.get_num_threads(),
            **self.ranks.facts(),
        }
        return sae

    def _sample(self) -> Tensor:
        rows: list[Tensor] = []
        held = 0
        # Another order than training's, so that it is no batch seen first.
        size = min(self.config.batch_size, _SAMPLE_ROWS, max(1, self.store.n_rows))
        for x in self._read(size, self.config.order_seed() + 1, 0):
            rows.append(torch.as_tensor(x, dtype=torch.float32).cpu().clone())
            held += len(x)
            if held >= _SAMPLE_ROWS:
                break
        if not rows:
            raise AuditorError("The store has no rows to learn from.", "Record samples, or choose other positions.")
        return torch.cat(rows)[:_SAMPLE_ROWS]

    def _read(self, size: int, seed: int, first: int, room: Room | None = None) -> Iterator[np.ndarray[Any, Any]]:
        hooks = self.reading.hooks
        which = hooks[0] if len(hooks) == 1 else hooks
        into = {"room": room} if room and isinstance(self.store, Store) else {}
        return self.store.batches(size, seed=seed, hook=which, start=first, kinds=KINDS[self.config.kinds], **into)


def _model_facts(store: Source) -> dict[str, str]:
    model = store.meta.get("model")
    facts = model if isinstance(model, Mapping) else {}
    return {"model": str(facts.get("name", "")), "model_digest": str(facts.get("digest", ""))}


def schedule(config: TrainConfig, step: int) -> float:
    """Share of the learning rate at `step`: a linear rise, a plateau, a linear fall to 0."""
    rise = min(1.0, (step + 1) / max(1.0, config.warmup * config.steps))
    fall = min(1.0, (config.steps - step) / max(1.0, config.decay * config.steps))
    return min(rise, fall)
