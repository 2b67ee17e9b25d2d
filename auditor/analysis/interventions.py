"""What a feature does: it is ablated, scaled or clamped, and the change is shown against matched null features.

The dictionary's error term is kept: x becomes x + (a_new − a) · W_dec[f], so nothing but the feature changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.analysis.feature_edit import Mode, check_feature, new_activation
from auditor.analysis.measures import (
    MOST_LOGITS,
    UNITS,
    Measure,
    asked,
    effects,
    groups_of,
    kl,
    ordinary,
    without,
)
from auditor.analysis.next_token import SetRows, next_token_logits, of_classes, with_caption
from auditor.analysis.nulls import Estimate, Interval, density_matched, mean_estimate, null_p, random_directions
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.sample import Sample
from auditor.models import Model
from auditor.models.inputs import Inputs
from auditor.models.sinks import sinks
from auditor.sae import Sae


@dataclass(frozen=True)
class Effect:
    """The causal effect of editing one feature, mean over samples, beside what it must beat.

    `null`: the same mean effect of each density-matched feature, put through the same pipeline; `random`: of random
    directions with the size of this feature's own change; `p` and `p_random`: (1 + number at least as extreme) /
    (1 + n), two-sided. `off_target`: KL of all else that is predicted (the rest of the distribution, or control
    samples). `fired`: samples in which the feature fires. `density`: of the feature and of the null features (lowest,
    highest), share of the tested positions.
    """

    feature: int
    mode: str
    measure: str
    estimate: float
    interval: Interval
    n: int
    unit: str
    fired: int
    null: list[float]
    p: float
    random: list[float]
    p_random: float
    baselines: dict[str, float]
    off_target: Estimate | None
    density: tuple[float, float, float]
    seed: int
    per_sample: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.mode} feature {self.feature}: {self.estimate:+.4g} {self.unit} [{low:.4g}, {high:.4g}] "
            f"(n = {self.n}, fires in {self.fired}); {len(self.null)} matched features: mean "
            f"{self.baselines['null mean']:+.4g}, p = {self.p:.3g}; {len(self.random)} random directions: mean "
            f"{self.baselines['random direction mean']:+.4g}, p = {self.p_random:.3g}"
        )


@dataclass(frozen=True)
class Dose:
    """Effects of clamping one feature to several levels; `amounts` in units of its largest activation here."""

    feature: int
    unit: str
    amounts: list[float]
    effects: list[Estimate]


@dataclass(frozen=True)
class _Clean:
    """One sample as it is: inputs, where and which next tokens are asked, log probabilities, residual and fires."""

    inputs: Inputs
    positions: list[int]
    targets: Tensor | None
    logprobs: Tensor
    x: Tensor
    ordinary: Tensor
    values: Tensor
    ids: Tensor

    def activation(self, feature: int) -> Tensor:
        """Of one feature at each position [P]; 0 at special tokens and padding."""
        return (self.values * (self.ids == feature)).sum(1) * self.ordinary


def feature_effect(
    model: Model,
    sae: Sae,
    feature: int,
    samples: Sequence[Sample],
    *,
    measure: Measure = "kl",
    targets: Sequence[str] | None = None,
    mode: Mode = "ablate",
    amount: float = 1.0,
    n_null: int = 100,
    n_random: int = 20,
    controls: Sequence[Sample] = (),
    hook: str = "",
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Effect:
    """Edit a feature at all ordinary positions of each sample and measure what changes.

    `measure`: "target": log probability of the sample's token in `targets` after its last position; "loss": mean
    negative log likelihood of its text (of the caption, for a captioned image); "kl": mean KL of the next-token
    distributions. `amount`: factor of a scale, or level of a clamp as a multiple of the feature's (each null
    feature's own) largest activation on these samples. Null features are matched by how often they fire on these very
    samples, so that a feature chosen because it fires here is not compared with silent ones. AuditorError when the
    feature never fires here and is ablated or scaled.
    """
    reporter = reporter or Reporter()
    check_feature(sae, feature)
    sae.must_be_plain("Intervening on a feature")
    sae = sae.to(model.device)
    clean = _clean_runs(model, sae, hook or sae.hook, samples, measure, targets)
    counts, largest = _fires(clean, sae.d_sae)
    if counts[feature] == 0:
        raise AuditorError(
            f"Feature {feature} fires on none of these {len(samples)} samples.",
            "Choose samples on which it fires; its examples list some.",
        )
    total = sum(int(run.ordinary.sum()) for run in clean)
    null = density_matched(counts / total, feature, n_null, seed).tolist()
    directions = torch.from_numpy(random_directions(n_random, sae.d_in, seed)).to(model.device)
    reporter.started("Testing the feature", len(clean) + len(controls), "samples")
    rows, spills = [], []
    for done, run in enumerate(clean, start=1):
        changes = _changes(sae, run, [feature, *null], largest, mode, amount)
        size = changes[0].norm(dim=1, keepdim=True)
        edited = _measured(model, hook or sae.hook, run, [*changes, *(size * d for d in directions)], measure)
        rows.append(edited.effects)
        spills.append(edited.off_target)
        reporter.step(done, len(clean) + len(controls), unit="samples")
    off = _off_target(model, sae, feature, controls, spills, largest, mode, amount, hook or sae.hook, seed)
    own, nulls, random = np.split(np.array(rows), [1, 1 + len(null)], axis=1)  # [samples, 1 + null + random]
    own, nulls, random = own[:, 0], nulls.mean(0), random.mean(0)
    estimate = mean_estimate(own, groups=groups_of(samples), seed=seed)
    matched = counts[null] / total if null else np.zeros(1)
    return Effect(
        feature=feature,
        mode=mode,
        measure=measure,
        estimate=estimate.estimate,
        interval=estimate.interval,
        n=len(own),
        unit=UNITS[measure],
        fired=sum(bool((run.activation(feature) > 0).any()) for run in clean),
        null=nulls.tolist(),
        p=null_p(estimate.estimate, nulls),
        random=random.tolist(),
        p_random=null_p(estimate.estimate, random),
        baselines=_baselines(nulls, random),
        off_target=off,
        density=(float(counts[feature] / total), float(matched.min()), float(matched.max())),
        seed=seed,
        per_sample=own.tolist(),
    )


def _baselines(nulls: NDArray[np.float64], random: NDArray[np.float64]) -> dict[str, float]:
    """What the effects of null features and of random directions come to; 0 of none."""
    return {
        "null mean": float(nulls.mean()) if len(nulls) else 0.0,
        "null 95 % of |effect|": float(np.quantile(np.abs(nulls), 0.95)) if len(nulls) else 0.0,
        "random direction mean": float(random.mean()) if len(random) else 0.0,
    }


def dose_response(
    model: Model,
    sae: Sae,
    feature: int,
    samples: Sequence[Sample],
    *,
    amounts: Sequence[float] = (0.0, 0.5, 1.0, 2.0, 4.0),
    measure: Measure = "kl",
    targets: Sequence[str] | None = None,
    hook: str = "",
    seed: int = 0,
) -> Dose:
    """The effect of clamping a feature at each level, with its bootstrap interval over samples."""
    check_feature(sae, feature)
    sae.must_be_plain("Intervening on a feature")
    sae = sae.to(model.device)
    clean = _clean_runs(model, sae, hook or sae.hook, samples, measure, targets)
    largest = _fires(clean, sae.d_sae)[1]
    if largest[feature] == 0:
        raise AuditorError(f"Feature {feature} fires on none of these samples.", "Choose samples on which it fires.")
    rows = []
    for run in clean:
        changes = [_changes(sae, run, [feature], largest, "clamp", amount)[0] for amount in amounts]
        rows.append(_measured(model, hook or sae.hook, run, changes, measure).effects)
    effects = np.array(rows)
    groups = groups_of(samples)
    figures = [mean_estimate(column, UNITS[measure], groups=groups, seed=seed) for column in effects.T]
    return Dose(feature, UNITS[measure], list(amounts), figures)


@dataclass(frozen=True)
class _Measured:
    """Effects of each change [changes]; KL of everything but the target for the first of them."""

    effects: list[float]
    off_target: float | None


def _measured(model: Model, hook: str, run: _Clean, changes: list[Tensor], measure: Measure) -> _Measured:
    """Effects of many changes [P, width] of one sample's residual rows; a change of nothing has none."""
    found, off = np.zeros(len(changes)), None
    active = [i for i, change in enumerate(changes) if bool(change.any())]
    for part in _parts(active, max(1, MOST_LOGITS // len(run.positions))):
        edit = SetRows(hook, run.x + torch.stack([changes[i] for i in part]))
        with model.given(hook):
            logits = next_token_logits(model, model.copies(run.inputs, len(part)), [edit], run.positions)[0]
        logprobs = logits.log_softmax(-1)
        found[part] = effects(run.logprobs, run.targets, logprobs, measure).double().cpu().numpy()
        if part[0] == 0 and run.targets is not None:
            off = float(kl(without(run.logprobs, run.targets), without(logprobs[0], run.targets)).mean())
    if off is None and run.targets is not None:
        off = 0.0
    return _Measured(found.tolist(), off)


def _changes(
    sae: Sae, run: _Clean, features: list[int], largest: NDArray[np.float64], mode: Mode, amount: float
) -> list[Tensor]:
    """What each feature's edit adds to the residual rows, [P, width] each."""
    changes = []
    for number in features:
        now = run.activation(number)
        level = amount * float(largest[number]) if mode == "clamp" else amount
        new = new_activation(now, mode, level) * run.ordinary
        changes.append((new - now)[:, None] * sae.W_dec[number])
    return changes


def _clean_runs(
    model: Model,
    sae: Sae,
    hook: str,
    samples: Sequence[Sample],
    measure: Measure,
    targets: Sequence[str] | None,
) -> list[_Clean]:
    if not samples:
        raise AuditorError("There are no samples to test on.", "Choose at least one sample.")
    if measure not in UNITS:
        raise AuditorError(f"“{measure}” is not a measure.", f"Choose one of {', '.join(UNITS)}.")
    if of_classes(model):
        raise AuditorError(
            f"“{model.name}” predicts no text that a feature could be tested on.",
            "Test it as an edit, which is measured on classes: --edit 'feature 12 ablate', or Run → Edit the network….",
        )
    if measure == "target" and (targets is None or len(targets) != len(samples)):
        raise AuditorError("Each sample needs its target token.", "Give as many targets as samples.")
    runs = []
    for number, sample in enumerate(samples):
        inputs = model.encode([with_caption(sample) if measure == "loss" else sample]).to(model.device)
        at, tokens = asked(model, sample, inputs, measure, targets[number] if targets else "")
        logits, records = next_token_logits(model, inputs, [], at, record=[hook])
        x = records[hook][0]
        values, ids = sae.encode_sparse(x)
        plain = ordinary(inputs.kind[0])
        used = plain & ~sinks(hook, x[None], plain[None])[0]
        runs.append(_Clean(inputs, at, tokens, logits[0].log_softmax(-1), x, used, values, ids))
    return runs


def _fires(clean: list[_Clean], d_sae: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How often each feature fires at ordinary positions of the samples, and its largest activation; [d_sae] each."""
    counts, largest = np.zeros(d_sae), np.zeros(d_sae)
    for run in clean:
        fires = (run.values > 0) & run.ordinary[:, None]
        ids, values = run.ids[fires].cpu().numpy(), run.values[fires].double().cpu().numpy()
        counts += np.bincount(ids, minlength=d_sae)
        np.maximum.at(largest, ids, values)
    return counts, largest


def _off_target(
    model: Model,
    sae: Sae,
    feature: int,
    controls: Sequence[Sample],
    spills: list[float | None],
    largest: NDArray[np.float64],
    mode: Mode,
    amount: float,
    hook: str,
    seed: int,
) -> Estimate | None:
    """KL on control samples where there are any, else of what is predicted beside the targets."""
    if controls:
        values = []
        for run in _clean_runs(model, sae, hook, controls, "kl", None):
            change = _changes(sae, run, [feature], largest, mode, amount)
            values.append(_measured(model, hook, run, change, "kl").effects[0])
        return mean_estimate(values, "nats (KL, control samples)", seed=seed)
    beside = [spill for spill in spills if spill is not None]
    return mean_estimate(beside, "nats (KL beside the targets)", seed=seed) if beside else None


def _parts(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
