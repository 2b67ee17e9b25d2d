"""What a list of edits does to a network's predictions, beside controls of equal size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from auditor.analysis.editing.scene import Scene
from auditor.analysis.editing.spec import EditSpec
from auditor.analysis.measures import MOST_LOGITS, UNITS, Measure, asked, effects, groups_of
from auditor.analysis.next_token import next_token_logits, of_classes
from auditor.analysis.nulls import Estimate, Interval, mean_estimate, null_p
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.sample import Sample
from auditor.models import Model
from auditor.models.edits import Edit
from auditor.models.inputs import Inputs

TOKENS = 12
MOST_TOLD = 256
"""Samples whose next-token probabilities are compared, at most: each holds two rows of the vocabulary."""


@dataclass(frozen=True)
class TokenChange:
    """A next token (or a class) whose probability changed: means over `n` samples, at each sample's last position.
    `control`: the mean change under each control, lowest and highest; None without controls."""

    token: str
    before: float
    after: float
    interval: Interval
    n: int
    control: tuple[float, float] | None

    @property
    def change(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class EditsEffect:
    """Edited against unedited runs, mean over `n` samples with its bootstrap interval; `null`: the same mean for each
    control, `p` two-sided; `free`: the same edits with nothing frozen, where the list freezes something beside them;
    `tokens`: those whose probability changed most, which is how they were chosen."""

    measure: Measure
    unit: str
    estimate: float
    interval: Interval
    n: int
    null: list[float]
    p: float | None
    tokens: list[TokenChange]
    free: Estimate | None = None
    per_sample: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """One sample before the edits: where next tokens are asked (the last position is the last of them), what came."""

    inputs: Inputs
    positions: list[int]
    targets: Tensor | None
    logprobs: Tensor


def edits_effect(
    scene: Scene,
    specs: Sequence[EditSpec],
    samples: Sequence[Sample],
    *,
    measure: Measure = "kl",
    target: str = "",
    n_controls: int = 20,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> EditsEffect:
    """Run each sample without and with the edits, all together and in order, and with `n_controls` lists in which each
    edit's place is taken by its control (`Edit.control`): another head or neuron of the layer, or a random direction,
    of equal size at each position; a random change of a weight. A control has the same seed in every sample. Frozen
    attention and norms have no control: they stay as they are."""
    if not specs:
        raise AuditorError("There is no edit to test.", "Add one.")
    if not samples:
        raise AuditorError("There are no samples to test on.", "Choose at least one sample.")
    reporter = reporter or Reporter()
    reporter.started("Testing the edits", len(samples), "samples")
    seeds = np.random.default_rng(seed).integers(1 << 31, size=n_controls).tolist()
    thawed = [at for at, spec in enumerate(specs) if not spec.holds]
    rows: list[list[float]] = []
    free: list[float] = []
    before: list[NDArray[np.float32]] = []
    after: list[NDArray[np.float32]] = []
    under: NDArray[np.float32] | None = None
    for number, sample in enumerate(samples, 1):
        clean = unedited(scene, sample, measure, target, [])
        edits = [spec.build(scene, clean.inputs) for spec in specs]
        seen = [edited(scene, clean, edits, measure, 1)]
        for batch in _controls(edits, seeds, clean):
            seen.append(edited(scene, clean, batch.edits, measure, batch.rows))
        rows.append([value for figures, _ in seen for value in figures])
        if 0 < len(thawed) < len(specs):
            free += edited(scene, clean, [edits[at] for at in thawed], measure, 1)[0]
        if len(before) < MOST_TOLD:
            before.append(_shares(clean.logprobs[-1]))
            after.append(seen[0][1][0])
            if len(seen) > 1:
                change = np.concatenate([shares for _, shares in seen[1:]]) - before[-1]
                under = change if under is None else under + change
        reporter.step(number, len(samples), unit="samples")
    figures = np.array(rows)  # [samples, 1 + controls]
    own, null = figures[:, 0], figures[:, 1:].mean(0)
    groups = groups_of(samples)
    estimate = mean_estimate(own, UNITS[measure], groups=groups, seed=seed)
    return EditsEffect(
        measure=measure,
        unit=UNITS[measure],
        estimate=estimate.estimate,
        interval=estimate.interval,
        n=len(own),
        null=null.tolist(),
        p=null_p(estimate.estimate, null) if len(null) else None,
        tokens=_tokens(scene, np.array(before), np.array(after), under, groups_of(samples[: len(before)]), seed),
        free=mean_estimate(free, UNITS[measure], groups=groups, seed=seed) if free else None,
        per_sample=own.tolist(),
    )


@dataclass(frozen=True)
class _Controls:
    """Lists of controls that run together, one in each row of a batch."""

    edits: list[Edit]
    rows: int


def _controls(edits: Sequence[Edit], seeds: Sequence[int], clean: Asked) -> list[_Controls]:
    """`seeds` in batches that fit; nothing where no edit has a control."""
    whole = any(edit.after_final_norm for edit in edits)
    asked_for = clean.inputs.predicted.ids.shape[1] if whole else len(clean.positions)
    size = max(1, MOST_LOGITS // max(1, asked_for)) if all(edit.per_row for edit in edits) else 1
    found = []
    for start in range(0, len(seeds), size):
        part = seeds[start : start + size]
        controls = [edit.control(part) for edit in edits]
        if all(control is None for control in controls):
            return []
        found.append(_Controls([control or edit for control, edit in zip(controls, edits, strict=True)], len(part)))
    return found


def unedited(scene: Scene, sample: Sample, measure: Measure, target: str, edits: Sequence[Edit]) -> Asked:
    """What others are compared with: the sample under those `edits` alone that every run has."""
    inputs = scene.model.encode([sample]).to(scene.model.device)
    at, tokens = asked(scene.model, sample, inputs, measure, target)
    last = int(inputs.predicted.mask.sum()) - 1
    logits = next_token_logits(scene.model, inputs, edits, [*at, last])[0]
    return Asked(inputs, [*at, last], tokens, logits[0].log_softmax(-1))


def edited(
    scene: Scene, clean: Asked, edits: Sequence[Edit], measure: Measure, rows: int
) -> tuple[list[float], NDArray[np.float32]]:
    """Effect and next-token probabilities at the last position of each row, [rows] and [rows, vocabulary]."""
    logits = next_token_logits(scene.model, scene.model.copies(clean.inputs, rows), edits, clean.positions)[0]
    logprobs = logits.log_softmax(-1)
    found = effects(clean.logprobs[:-1], clean.targets, logprobs[:, :-1], measure)
    if not bool(found.isfinite().all()):
        raise AuditorError(
            "Under these edits, or controls of equal size, the network's output is no number any more.",
            "Choose a smaller amount or factor.",
        )
    return found.double().cpu().tolist(), _shares(logprobs[:, -1])


def _shares(logprobs: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = logprobs.exp().float().cpu().numpy()
    return found


def _tokens(
    scene: Scene,
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    under: NDArray[np.float32] | None,
    groups: list[str] | None,
    seed: int,
) -> list[TokenChange]:
    """The tokens of largest mean change; `before` and `after` [samples, vocabulary], `under` [controls, vocabulary] the
    mean change under each control."""
    change = after - before
    chosen = np.argsort(-np.abs(change.mean(0)), kind="stable")[:TOKENS].tolist()
    under = None if under is None else under / np.float32(len(before))
    found = []
    for token, text in zip(chosen, _called(scene.model, chosen), strict=True):
        told = mean_estimate(change[:, token], "probability", groups=groups, seed=seed)
        ends = None if under is None else (float(under[:, token].min()), float(under[:, token].max()))
        found.append(
            TokenChange(
                text, float(before[:, token].mean()), float(after[:, token].mean()), told.interval, told.n, ends
            )
        )
    return found


def _called(model: Model, numbers: list[int]) -> list[str]:
    """Tokens as they are written; classes as the network's settings call them, else by their numbers."""
    if not of_classes(model):
        return model.token_strings(numbers)
    named = getattr(getattr(model.network, "config", None), "id2label", None) or {}
    return [str(named.get(number, f"class {number}")) for number in numbers]
