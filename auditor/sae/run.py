"""One run of training: its weights, optimiser and counters, and what a step does to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.models.device import device_named
from auditor.sae import memory
from auditor.sae.archs import ARCHITECTURES
from auditor.sae.archs.architecture import Batch, Outcome
from auditor.sae.checkpoint import Progress
from auditor.sae.clt import Dictionary
from auditor.sae.density import Density
from auditor.sae.distributed import Ranks, Rows, kept
from auditor.sae.feed import Feed
from auditor.sae.finite import FiniteFlag
from auditor.sae.microbatch import LEAST_ROWS, MicroBatches
from auditor.sae.parameters import Parameters
from auditor.sae.pump import Pump, pumps
from auditor.sae.scaling import Scaling, reading_of
from auditor.sae.source import KINDS, Computed, Source
from auditor.sae.train_config import TrainConfig
from auditor.sae.whole_samples import batches_in_order
from auditor.store import Store
from auditor.store.shuffle import Room

_SAMPLE_ROWS = 8192
_CURVE_POINTS = 200
_LOOK_EVERY = 10
# Steps from which on a process that reads the store is worth its start.
_LONG = 500
# Settings that may differ between the parts of an interrupted run: none changes the weights.
_FREE_SETTINGS = {"store", "others", "model", "samples", "sweep", "checkpoint_every", "metrics_every", "splice_every",
                  "splice_samples", "look_samples", "random_model", "half", "evaluate_rows"}  # fmt: skip


class Trainer:
    """One run: weights, optimiser, counters, and the data's scale. Construction reads 8192 rows."""

    def __init__(
        self, config: TrainConfig, store: Source, start: Dictionary | None = None, ranks: Ranks | None = None
    ) -> None:
        self.config, self.store, self._start = config, store, start if config.start_from else None
        self.ranks = ranks or Ranks()
        self._kind = ARCHITECTURES.get(config.arch)
        self.reading = reading_of(dict(store.hook_points), self._kind.takes, config.hook, config.target)
        if self.reading.in_order and (self.ranks.size > 1 or isinstance(store, Computed)):
            raise AuditorError(
                "A temporal dictionary learns from whole samples in order, which come from a store, in one process.",
                "Record the samples first, and train without --processes.",
            )
        self.device = device_named(config.device)
        sample = self.reading.judged(self._sample())
        self.scaling = Scaling.of(self.reading, sample, config.normalise)
        self._scaling = self.scaling.to(self.device)
        x, target = self.scaling.apply(sample)
        self._sample_batch = Batch(x, 0, torch.zeros(config.d_sae, dtype=torch.bool), target)
        self.begin()

    def begin(self) -> None:
        """The state before the first step."""
        # What is held so far makes room first.
        self.__dict__.pop("architecture", None)
        self.__dict__.pop("progress", None)
        config, sample = self.config, self._sample_batch
        make, settings = self.ranks.architecture(self._kind), self._kind.config_class.of(self.ranks.settings(config))
        self.architecture = make(settings, self.scaling, sample, self.device)
        started = self.architecture.begin(sample) if self._start is None else self.architecture.adopt(self._start)
        optimiser = torch.optim.Adam(list(started.named().values()), lr=config.lr, fused=True)
        if self.ranks.fuses:
            self._fuse(started, optimiser)
        self.ranks.begun(started)
        silent = torch.zeros(started.d_sae, dtype=torch.int64, device=self.device)
        self.progress = Progress(
            started, optimiser, silent, Density.start(started.d_sae, self.device), arch=self.architecture.state()
        )
        self.pieces = MicroBatches(self.architecture, self.does_not_fit)
        self.flag = FiniteFlag(self.device, config.spike)

    def _fuse(self, parameters: Parameters, optimiser: torch.optim.Adam) -> None:
        try:
            self.architecture.prepare(
                parameters, optimiser, batch_size=self.config.batch_size, dead_after=self.config.dead_after
            )
        except RuntimeError as error:
            if not memory.out_of_memory(error):
                raise
            # A fused step takes whole batches; without one they are taken in pieces that fit.
            self.architecture.fused = None

    def batches(self, first: int | None = None) -> Iterator[Any]:
        """The store's batches from number `first` on, or from the next one; on a GPU on their way while it computes."""
        first = self.progress.step if first is None else first
        size, seed = self.config.batch_size, self.config.order_seed()
        if self.device.type == "cpu" or isinstance(self.store, Computed) or self.reading.in_order:
            return self._read(size, seed, first)
        store, hooks = self.store, self.reading.hooks
        numbers = store.numbers(*hooks) if isinstance(store, Store) else None
        feed = Feed(self.device, numbers)
        # Not a subclass: the process opens by itself what lies at the path.
        if numbers and type(store) is Store and self.config.steps - first >= _LONG and pumps(store.path):
            how = {"seed": seed, "hook": hooks, "start": first, "kinds": KINDS[self.config.kinds]}
            columns = sum(store.hook_points[hook] for hook in hooks)
            return feed.pumped(Pump(store.path, size, columns, numbers, how, pinned=True))
        return feed.send(self._read(size, seed, first, feed.room))

    def rows(self, x: np.ndarray[Any, Any] | Tensor) -> Tensor:
        """Raw rows [B, all columns] as float32 on the device of training."""
        rows = x if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        return rows.to(self.device, torch.float32)

    def batch(self, x: np.ndarray[Any, Any] | Tensor) -> Batch:
        """Raw rows as the architecture takes them."""
        rows, dead = self.rows(x), self.progress.silent > self.config.dead_after
        inputs, target = self._scaling.apply(rows)
        return Batch(inputs, self.progress.step, dead, target, **self.reading.order(rows))

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
        self.update(outcome, fused=fused is not None, rows=batch.counted if self.reading.in_order else None)
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

    def does_not_fit(self, how: str = "") -> AuditorError:
        """The error that says so, and what would fit into what is free and what this training holds."""
        config = self.config.model_copy(update={"batch_size": min(LEAST_ROWS, self.config.batch_size)})
        widths = self.reading.d_in, self.reading.d_out if self.reading.targets else None
        room = memory.free_bytes(self.device) + memory.held_bytes(config, *widths)
        return AuditorError(f"The dictionary does not fit the memory{how}.", memory.advice(config, *widths, room))

    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.config.lr * self.progress.rate * schedule(self.config, self.progress.step)

    def update(self, outcome: Outcome, *, fused: bool = False, rows: int | None = None) -> None:
        """One step of Adam unless the step was `fused`, which counts silence itself, and the counters: of so many
        `rows` where not all of a batch count."""
        progress, rows = self.progress, self.config.batch_size if rows is None else rows
        if not fused:
            for group in progress.optimiser.param_groups:
                group["lr"] = self.rate()
            self.architecture.before_update(progress.parameters)
            progress.optimiser.step()
            self.architecture.after_update(progress.parameters)
            progress.silent += rows
            progress.silent.masked_fill_(outcome.counts > 0, 0)
        progress.density.add(outcome.counts, max(1, rows))
        progress.step += 1

    def measure(self, x: np.ndarray[Any, Any] | Tensor, outcome: Outcome) -> dict[str, float]:
        """Loss, fraction of variance unexplained, mean active features per row, share of dead features."""
        target = self._scaling.apply(self.reading.judged(self.rows(x)))[1]
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

    def blame(self, seen: Sequence[Rows | Tensor]) -> None:
        """AuditorError where the data (the last batches `seen`), or a rate halved too often, is why the loss does not
        stay finite."""
        for back, x in enumerate(reversed(seen)):
            if not bool(torch.isfinite(self.rows(x)).all()):
                raise AuditorError(
                    f"Batch {self.progress.step - back} of the store holds values that are not finite.",
                    "Check the store; record it again if its check fails.",
                )
        if self.progress.rate / 2 < 2**-6:
            raise AuditorError(
                f"Training did not stay finite at step {self.progress.step}, even at a rate of "
                f"{self.config.lr * self.progress.rate:.1g}.", "Lower the learning rate, or lengthen the warm-up.",
            )

    def go_back(self, path: Path, step: int, *, halve: bool) -> None:
        """Return to the state kept as `path`, or to the beginning; with half the learning rate if `halve`."""
        rate, mishaps, spent = self.progress.rate, self.progress.mishaps, (self.progress.seconds, self.progress.looking)
        self.begin()
        if kept.exists(path):
            self.load(path)
        if halve:
            mishaps = [*mishaps, {"step": step, "back_to": self.progress.step, "rate": rate / 2}]
        self.progress.rate, self.progress.mishaps = (rate / 2 if halve else rate), mishaps
        self.progress.seconds, self.progress.looking = spent

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

    def kept_bytes(self) -> int:
        """Bytes of a checkpoint, of all processes together."""
        return kept.size(self.progress.tensors(self.flag), self.ranks.split)

    def load(self, path: Path) -> None:
        """Take up the state kept as `path`."""
        self.ranks.load(self.progress, path, self.identity(), self.flag)
        if self.architecture.fused is None:
            as_adam(self.progress)
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
            "probed": self.progress.probed, "density": self.density(), "micro_batch": self.pieces.rows,
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
        hooks, kinds = self.reading.hooks, KINDS[self.config.kinds]
        if self.reading.in_order:
            return batches_in_order(self.store, size, seed=seed, hooks=hooks, start=first, kinds=kinds)
        which = hooks[0] if len(hooks) == 1 else hooks
        into = {"room": room} if room and isinstance(self.store, Store) else {}
        return self.store.batches(size, seed=seed, hook=which, start=first, kinds=kinds, **into)


def as_adam(progress: Progress) -> None:
    """What a fused step left of its moments, as Adam takes them."""
    state = progress.optimiser.state
    clock = state[progress.parameters.b_dec].pop("clock", None)
    if clock is None:
        return
    for tensor in progress.parameters.named().values():
        held = state[tensor]
        held["exp_avg"] = held["exp_avg"].float()
        held["step"] = clock[0].float()


def _model_facts(store: Source) -> dict[str, str]:
    model = store.meta.get("model")
    facts = model if isinstance(model, Mapping) else {}
    return {"model": str(facts.get("name", "")), "model_digest": str(facts.get("digest", ""))}


def schedule(config: TrainConfig, step: int) -> float:
    """Share of the learning rate at `step`: a linear rise, a plateau, a linear fall to 0."""
    rise = min(1.0, (step + 1) / max(1.0, config.warmup * config.steps))
    fall = min(1.0, (config.steps - step) / max(1.0, config.decay * config.steps))
    return min(rise, fall)
