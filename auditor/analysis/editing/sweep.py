"""Many edits tested one by one on the same samples: the unedited run is shared, and many edits run in one batch.

Row r of a batch is a copy of the sample under edit r, or under one of its controls. Blocks before the first that a
batch edits are not run again where the family knows how to leave them out.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from auditor.analysis.editing.effect import Asked, edited, unedited
from auditor.analysis.editing.measured import Measured
from auditor.analysis.editing.scene import Scene
from auditor.analysis.editing.spec import EditSpec
from auditor.analysis.measures import MOST_LOGITS, UNITS, Measure, groups_of
from auditor.analysis.next_token import SetRows
from auditor.analysis.nulls import Estimate, benjamini_hochberg, mean_estimate, null_p
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.sample import Sample
from auditor.models import Model
from auditor.models.edits import Edit

MOST_TOKENS = 8192
"""Rows × positions of one batch."""
MOST_EDITS = 200_000
_PROBES = 3


@dataclass(frozen=True)
class Swept:
    """One edit of a sweep: its effect, mean over the samples, and `per_sample`; `null` the mean under each control; `p`
    two-sided against them, `q` that p after Benjamini and Hochberg over the whole sweep; both None without controls."""

    spec: EditSpec
    effect: Estimate
    null: list[float]
    p: float | None
    q: float | None
    per_sample: list[float]


@dataclass(frozen=True)
class Planned:
    """What a sweep takes: edited runs (rows) in all, and minutes, extrapolated from `probed` rows."""

    edits: int
    runs: int
    minutes: float
    probed: int


@dataclass(frozen=True)
class _Trial:
    """A row of a batch: an edit, or its control of a seed."""

    number: int
    control: int
    edit: Edit


class Sweep:
    """`lines` as they were given: those that stand for several edits (with `each`, all that hold nothing still) are
    tested one by one, the others act in every run, the unedited one too."""

    def __init__(
        self, scene: Scene, lines: Sequence[EditSpec], samples: Sequence[Sample], *, each: bool = False,
        measure: Measure = "kl", target: str = "", n_controls: int = 20, seed: int = 0,
    ) -> None:  # fmt: skip
        self.scene, self.samples = scene, list(samples)
        self.measure, self.target, self.seed = measure, target, seed
        swept = [at for at, line in enumerate(lines) if line.sweeps or (each and not line.holds)]
        self._lines = [(at, spec) for at in swept for spec in lines[at].each(scene)]
        self._others = [(at, line) for at, line in enumerate(lines) if at not in swept]
        self._seeds = np.random.default_rng(seed).integers(1 << 31, size=n_controls).tolist()
        if not self.samples:
            raise AuditorError("There are no samples to test on.", "Choose at least one sample.")
        if not self._lines or len(self._lines) > MOST_EDITS:
            raise AuditorError(
                f"These are {len(self._lines):,} edits to test one by one.",
                f"Name between 1 and {MOST_EDITS:,} heads, neurons, features or weights.",
            )

    @property
    def specs(self) -> list[EditSpec]:
        """Every edit that is tested, in order."""
        return [spec for _, spec in self._lines]

    @property
    def runs(self) -> int:
        return len(self.samples) * len(self._lines) * (1 + len(self._seeds))

    def plan(self, reporter: Reporter | None = None) -> Planned:
        """Run a few batches of the first sample, spread over the edits, and extrapolate."""
        reporter = reporter or Reporter()
        clean = self._unedited(self.samples[0])
        chosen = np.unique(np.linspace(0, len(self._lines) - 1, _PROBES).round().astype(int)).tolist()
        for number in {at: number for number, (at, _) in reversed([*enumerate(self._lines)])}.values():
            self._built(clean, number)  # what a line reads, and what is wrong with it, is told before anything long
        seconds, probed = 0.0, 0
        for turn, number in enumerate([chosen[0], *chosen]):  # the first run warms up
            batches = self._batches(clean, range(number, len(self._lines)))
            for batch in islice(batches, 1 if _row_by_row(self._built(clean, number)) else 2):
                reporter.check()
                begun = time.perf_counter()
                self._run(clean, batch)
                if turn:
                    seconds, probed = seconds + time.perf_counter() - begun, probed + len(batch)
        return Planned(len(self._lines), self.runs, seconds * self.runs / probed / 60, probed)

    def run(
        self, reporter: Reporter | None = None, title: str = "Testing edits one by one",
        measured: Measured | None = None,
    ) -> list[Swept]:  # fmt: skip
        """Every edit's effect, in order. What `measured` holds is not run again, and what is run is added to it."""
        reporter, measured = reporter or Reporter(), Measured() if measured is None else measured
        reporter.started(title, self.runs, "runs")
        each = self.runs // len(self.samples)
        for row, sample in enumerate(self.samples):
            done = row * each
            if len(measured) >= done + each:
                continue
            clean = self._unedited(sample)
            for batch in self._batches(clean, range(len(self._lines))):
                done += len(batch)
                if len(measured) < done:
                    measured.add(self._run(clean, batch)[len(measured) - done :])
                    reporter.step(done, self.runs, f"sample {row + 1} of {len(self.samples)}", "runs")
        return self.told(measured)

    def again(self, measured: Measured) -> tuple[int, float, float]:
        """The first batch, run once more: how many of its values `measured` holds, the largest of them, and by how much
        they differ from it at most."""
        clean = self._unedited(self.samples[0])
        found = np.array(self._run(clean, next(self._batches(clean, range(len(self._lines))))))
        held = measured.values()[: len(found)]
        return len(held), float(np.abs(held).max()), float(np.abs(found[: len(held)] - held).max())

    def reached(self, measured: Measured) -> tuple[int, int]:
        """How many samples every edit was tested on, and how many edits those are: all of them; or, before the first
        sample is done, those that were tested on it."""
        trials = 1 + len(self._seeds)
        whole = len(measured) // (len(self._lines) * trials)
        return (whole, len(self._lines)) if whole else (1, len(measured) // trials)

    def told(self, measured: Measured) -> list[Swept]:
        """Of each edit that `reached` counts, its effect on the samples that it counts."""
        n, edits = self.reached(measured)
        figures = measured.values()[: n * edits * (1 + len(self._seeds))].reshape(n, edits, -1)
        samples, specs = self.samples[:n], self.specs[:edits]
        groups, unit = groups_of(samples), UNITS[self.measure]
        found = [mean_estimate(column, unit, groups=groups, seed=self.seed) for column in figures[:, :, 0].T]
        null, own = figures[:, :, 1:].mean(0).tolist(), figures[:, :, 0].T.tolist()
        p: list[float | None] = [None] * len(found)
        q = p
        if self._seeds:
            chances = [null_p(told.estimate, drawn) for told, drawn in zip(found, null, strict=True)]
            p, q = list(chances), benjamini_hochberg(chances).tolist()
        return [Swept(*row) for row in zip(specs, found, null, p, q, own, strict=True)]

    def _unedited(self, sample: Sample) -> _Clean:
        asked = unedited(self.scene, sample, self.measure, self.target, [])
        others = {at: spec.build(self.scene, asked.inputs) for at, spec in self._others}
        if others:
            asked = unedited(self.scene, sample, self.measure, self.target, list(others.values()))
        return _Clean(asked, others, {})

    def _built(self, clean: _Clean, number: int) -> Edit:
        return self._lines[number][1].build(self.scene, clean.asked.inputs)

    def _batches(self, clean: _Clean, numbers: Sequence[int]) -> Iterator[list[_Trial]]:
        """Trials that can run together: a few of what acts row by row, the controls of one edit of anything else."""
        batch: list[_Trial] = []
        for number in numbers:
            edit = self._built(clean, number)
            most = self._most(clean, edit)
            if not _row_by_row(edit):
                if batch:
                    yield batch
                    batch = []
                yield from self._by_itself(number, edit, most)
                continue
            for control in range(-1, len(self._seeds)):
                made = edit if control < 0 else edit.control([self._seeds[control]])
                assert made is not None
                trial = _Trial(number, control, made)
                if batch and (len(batch) >= most or not self._together(batch[-1], trial)):
                    yield batch
                    batch = []
                batch.append(trial)
        if batch:
            yield batch

    def _by_itself(self, number: int, edit: Edit, most: int) -> Iterator[list[_Trial]]:
        yield [_Trial(number, -1, edit)]
        size = most if edit.per_row else 1
        for start in range(0, len(self._seeds), size):
            part = self._seeds[start : start + size]
            control = edit.control(part)
            assert control is not None
            yield [_Trial(number, start + at, control) for at in range(len(part))]

    def _most(self, clean: _Clean, edit: Edit) -> int:
        """How many rows fit: of logits, at all positions where the last norm is edited, and of activations."""
        inputs = clean.asked.inputs
        whole = any(one.after_final_norm for one in (edit, *clean.others.values()))
        logits = inputs.predicted.ids.shape[1] if whole else len(clean.asked.positions)
        length = inputs.ids.shape[1] + (inputs.target.ids.shape[1] if inputs.target is not None else 0)
        return max(1, min(MOST_LOGITS // max(1, logits), MOST_TOKENS // max(1, length)))

    def _together(self, one: _Trial, other: _Trial) -> bool:
        """Of one block, so that those before it are left out for both; in the same place among the other edits."""
        alike = _block(one.edit.hook) == _block(other.edit.hook)
        same = self._lines[one.number][0] == self._lines[other.number][0]
        return alike and same and _row_by_row(one.edit) and _row_by_row(other.edit)

    def _run(self, clean: _Clean, batch: Sequence[_Trial]) -> list[float]:
        place = self._lines[batch[0].number][0]
        own: list[Edit] = list(dict.fromkeys(trial.edit for trial in batch))
        if len(own) > 1:
            by_hook: dict[str, dict[int, Edit]] = {}
            for row, edit in enumerate(own):
                by_hook.setdefault(edit.hook, {})[row] = edit
            own = [EachRow(hook, edits) for hook, edits in by_hook.items()]
        before = [edit for at, edit in clean.others.items() if at < place]
        after = [edit for at, edit in clean.others.items() if at > place]
        edits = [*before, *own, *after]
        with self._from_block(clean, edits, len(batch)) as given:
            return edited(self.scene, clean.asked, [*given, *edits], self.measure, len(batch))[0]

    @contextlib.contextmanager
    def _from_block(self, clean: _Clean, edits: Sequence[Edit], rows: int) -> Iterator[list[Edit]]:
        """The edit that puts in what the first edited block reads; empty where all has to be run."""
        model, points = self.scene.model, self.scene.model.hook_points
        start = _start(model, edits)
        if start is None:
            yield []
            return
        if start not in clean.streams:
            clean.streams.clear()  # blocks come in order: one is enough
            with torch.no_grad():
                held = model.run(clean.asked.inputs, record=[start], logits=False)
            clean.streams[start] = held.rows(start)
        with model.given(points[start].name):
            yield [SetRows(start, clean.streams[start].expand(rows, -1, -1))]


@dataclass
class _Clean:
    """A sample under the edits that every run has (by their place among the lines), and block inputs of that."""

    asked: Asked
    others: dict[int, Edit]
    streams: dict[str, Tensor]


class EachRow(Edit):
    """In row r of the batch, the edit of that number; other rows stay."""

    def __init__(self, hook: str, edits: Mapping[int, Edit]) -> None:
        super().__init__(hook)
        self.edits = dict(edits)

    def apply(self, x: Tensor) -> Tensor:
        rows = [self.edits[row].on_rows(x[row, None]) if row in self.edits else x[row, None] for row in range(len(x))]
        return torch.cat(rows)


def _row_by_row(edit: Edit) -> bool:
    kind = type(edit)
    plain = kind.bound is Edit.bound and kind.in_place is Edit.in_place
    return edit.per_row and bool(edit.hook) and (plain or _bound_by_rows(edit))


def _bound_by_rows(edit: Edit) -> bool:
    """An ablation looks at the batch only where it has no rows of its own to draw from."""
    from auditor.models.edits import Ablate

    return isinstance(edit, Ablate) and (edit.mode != "resample" or edit.rows is not None)


def _block(hook: str) -> tuple[str, int | None]:
    found = re.match(r"(.*?)blocks\.(\d+)\.", hook)
    return (found[1], int(found[2])) if found else ("", None)


def _start(model: Model, edits: Sequence[Edit]) -> str | None:
    """What the first block reads that any of `edits` acts in, where that is known and no block before it is needed."""
    first = [edit.hook for edit in edits if edit.hook]
    if len(first) < len(edits) or any(hook not in model.hook_points for hook in first):
        return None
    shallowest = min(first, key=lambda hook: model.hook_points[hook].depth)
    prefix, number = _block(shallowest)
    start = f"{prefix}blocks.{number}.resid_pre"
    point = model.hook_points.get(start) if number else None  # nothing lies before the first block
    return start if point is not None and point.stream == "text" else None
