"""The one loop that trains every dictionary: read a batch, let each run take a step, report, keep what was reached."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Part, Reporter
from auditor.models.device import device_named
from auditor.sae import checkpoint, memory
from auditor.sae.archs import ARCHITECTURES
from auditor.sae.archs.architecture import Outcome
from auditor.sae.baselines import Components, ComponentsOnce
from auditor.sae.clt import Dictionary
from auditor.sae.distributed import Ranks, Rows, kept
from auditor.sae.quality import evaluate, passes
from auditor.sae.run import Trainer
from auditor.sae.scaling import reading_of
from auditor.sae.source import Computed, Source
from auditor.sae.sweep import label
from auditor.sae.took import Took
from auditor.sae.train_config import TrainConfig
from auditor.store.disk import Disk, FullDisk
from auditor.store.room import UntilRoom

__all__ = ["TrainConfig", "Trainer", "train", "train_all"]

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
    in the end, bit for bit on a CPU with the same number of threads. A full disk pauses it until there is room
    (`auditor.store.room`). `start` is the dictionary to go on from where a config says so; `probe` measures a
    dictionary every `splice_every` steps, `measure` each finished one, for its `meta`; `took` is filled in. Raises Stop
    once cancelled, after checkpoints are written; AuditorError when an `out` exists, the store or the memory does not
    fit, or weights do not stay finite. Where several processes train together as `ranks`, each calls this
    alike, and only the first one's result is whole.
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
    if len({run.trainer.reading.in_order for run in runs}) > 1:
        raise AuditorError(
            "One pass gives single rows or whole samples, and only temporal dictionaries read the latter.",
            "Sweep over them by themselves.",
        )
    for run in runs:
        run.take_up(resume)
    steps, room = configs[0].steps, UntilRoom(outs[0].parent, reporter, configs[0].steps, "steps")
    reporter.started(f"Training {outs[0].name if len(outs) == 1 else f'{len(outs)} dictionaries'}", steps, "steps")
    try:
        with _within_memory(lambda: runs[0].trainer.does_not_fit()):
            while any(run.trainer.progress.step < steps for run in runs):
                _pass(runs, reporter, probe, room)
            begun = time.monotonic() - room.seconds - reporter.rested
            saes = [run.trainer.finish() for run in runs]
            if not ranks.leads:
                return saes
            _evaluate(runs, saes, store, reporter)
            for sae in saes:
                sae.meta |= measure(sae) if measure else {}
    except Stop:
        for run in runs:
            # At the last step it was kept already, and other processes may have left.
            if run.trainer.progress.step < steps:
                run.stop(reporter)
        raise
    room.done = steps
    for run, sae, out in zip(runs, saes, outs, strict=True):
        half = run.trainer.config.half
        size = sum(t.numel() * (2 if half else t.element_size()) for t in sae.tensors().values())
        Disk(out, run.safe, room).surely(partial(sae.save, out, half=half), size)
    for run in runs:
        kept.forget(run.path)
        kept.forget(kept.folder(run.path))
    if took is not None:
        spent = runs[0].trainer.progress
        took.seconds, took.looking, took.steps = spent.seconds, spent.looking, steps
        took.after = time.monotonic() - room.seconds - reporter.rested - begun
    return saes


def _evaluate(runs: Sequence[_Kept], saes: Sequence[Dictionary], store: Source, reporter: Reporter) -> None:
    """Measure each dictionary on rows, as far as that is asked for: to be seen as work of its own, the bar of the steps
    being full."""
    config, several = runs[0].trainer.config, f"{len(saes)} dictionaries" if len(saes) > 1 else "the dictionary"
    # Those of one seed are measured on the same rows, and follow one another.
    ordered = sorted(zip(runs, saes, strict=True), key=lambda one: one[0].trainer.config.seed)
    sizes = [passes(sae) * min(config.evaluate_rows, store.n_rows) for _, sae in ordered]
    reporter.step(config.steps, config.steps, unit="steps")  # also of a run that lacked only this
    if config.evaluate_rows:
        reporter.started(f"Measuring {several}", sum(sizes), "rows")
    components = ComponentsOnce().of if len(saes) > 1 else Components.of
    for at, (run, sae) in enumerate(ordered):
        if config.half:  # what is measured is what is saved
            for tensor in sae.tensors().values():
                tensor.copy_(tensor.half())
        if config.evaluate_rows:
            part = Part(reporter, sum(sizes[:at]), sizes[at], sum(sizes))
            found = evaluate(sae, store, config.evaluate_rows, run.trainer.config.seed, part, components)
            # A stream keeps samples back to measure on.
            found = found.model_copy(update={"learned_from": not isinstance(store, Computed)})
            sae.meta["quality"] = found.model_dump(mode="json")


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
    """A run, the file that its state is kept in, what it is called among the others, and the step last kept."""

    trainer: Trainer
    path: Path
    name: str
    kept_at: int = 0

    def take_up(self, resume: bool) -> None:
        if resume and kept.exists(self.path):
            self.trainer.load(self.path)
            self.kept_at = self.trainer.progress.step
        elif self.trainer.ranks.leads:
            kept.forget(self.path)
            kept.forget(kept.folder(self.path))

    def keep(self, room: UntilRoom | None) -> None:
        """Keep the state; all processes wait as long as one finds the disk full, or without `room` raise FullDisk."""

        def wait(full: FullDisk) -> None:
            with self.trainer.ranks.together():
                if self.trainer.ranks.leads and room is not None:
                    room.done = self.trainer.progress.step
                    room(full)

        disk = Disk(self.path, self.safe, None if room is None else wait)
        disk.surely(lambda: self.trainer.save(self.path), self.trainer.kept_bytes())
        self.kept_at = self.trainer.progress.step

    def stop(self, reporter: Reporter) -> None:
        """Keep the state, unless the disk is full: the person wants it to end."""
        if self.trainer.sound():
            try:
                self.keep(None)
            except FullDisk as full:
                reporter.partial("warning", run=self.name, message=full.message)

    def safe(self) -> str:
        return f"step {self.kept_at} is kept" if self.kept_at else "nothing is kept yet"


def _pass(runs: Sequence[_Kept], reporter: Reporter, probe: Probe | None, room: UntilRoom) -> None:
    """Train until the last step, or until a number that is not finite has sent training back to the last good state."""
    trainers, ranks = [run.trainer for run in runs], runs[0].trainer.ranks
    config, first = trainers[0].config, min(trainer.progress.step for trainer in trainers)
    clock, last = time.monotonic() - reporter.rested, None
    for step, x in enumerate(trainers[0].batches(first), first + 1):
        rows = trainers[0].rows(ranks.share(x))
        for run in runs:
            # Runs that share a pass may have been kept at different steps when a kill came between two of them.
            if run.trainer.progress.step >= step:
                continue
            outcome = run.trainer.step(rows)
            if outcome is None:
                return _go_back(runs, run, [last, x], reporter)
            if step % config.metrics_every == 0 or step == config.steps:
                _tell(run, runs, x, outcome, reporter)
        begun, clock = clock, time.monotonic() - reporter.rested
        for trainer in trainers:
            trainer.progress.seconds += clock - begun
        if probe and config.splice_every and step % config.splice_every == 0 and step < config.steps:
            begun = time.monotonic() - reporter.rested
            for run in runs:
                sae = run.trainer.finish()
                with ranks.together():
                    if ranks.leads and (found := probe(sae)):
                        run.trainer.progress.probed.append({"step": step, **found})
                        reporter.partial("spliced", run=run.name, step=step, **found)
            looked = time.monotonic() - reporter.rested - begun
            clock += looked
            for trainer in trainers:
                trainer.progress.looking += looked
        if step % config.checkpoint_every == 0 or step == config.steps:
            for run in runs:
                if not run.trainer.sound():
                    return _go_back(runs, run, [x], reporter)
            waited = room.seconds
            for run in runs:
                run.keep(room)
            clock += room.seconds - waited
        with ranks.together():
            reporter.step(step, config.steps, unit="steps")
        # A GPU's flag is of the step before.
        last = x
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


def _go_back(runs: Sequence[_Kept], broken: _Kept, seen: Sequence[Rows | None], reporter: Reporter) -> None:
    """Return to the last good state, `broken` with half its learning rate, and tell the person. One of the batches
    `seen` is where it broke."""
    step = broken.trainer.progress.step
    broken.trainer.blame([x for x in seen if x is not None])
    for run in runs:
        run.trainer.go_back(run.path, step, halve=run is broken)
    trainer = broken.trainer
    reporter.partial(
        "warning", step=step, run=broken.name,
        message=f"The loss was not finite or leapt at step {step}: back at step {trainer.progress.step} "
        f"with a learning rate of {trainer.config.lr * trainer.progress.rate:.2g}.",
    )
