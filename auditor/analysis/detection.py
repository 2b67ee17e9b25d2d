"""Does a feature detect a concept on held-out samples, and better than matched features and simple baselines do?

Samples are scored by the largest activation over their ordinary positions. One half (whole groups of samples) chooses
thresholds and fits baselines, the other half gives every figure that is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu, rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from auditor.analysis.measures import ordinary
from auditor.analysis.nulls import (
    Estimate,
    benjamini_hochberg,
    density_matched,
    null_p,
    proportion,
    random_directions,
)
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.sample import Sample
from auditor.models import Model
from auditor.sae import Sae

Array = NDArray[np.float64]
Floats = NDArray[np.float32]
Truth = NDArray[np.bool_]


@dataclass(frozen=True)
class Pooled:
    """Samples as detectors see them: largest feature activations [n, d_sae]; mean, largest and smallest residual rows
    [n, d_in]; length in positions [n]; truth bool [n]; group [n]."""

    features: Floats
    mean: Floats
    highest: Floats
    lowest: Floats
    length: Array
    truth: Truth
    groups: list[str]

    def part(self, rows: NDArray[np.int64]) -> Pooled:
        """Some of the samples."""
        return Pooled(
            features=self.features[rows],
            mean=self.mean[rows],
            highest=self.highest[rows],
            lowest=self.lowest[rows],
            length=self.length[rows],
            truth=self.truth[rows],
            groups=[self.groups[row] for row in rows],
        )


@dataclass(frozen=True)
class Detector:
    """One detector on the held-out half: AUROC (bootstrap over groups), and precision and recall (Wilson) of
    "score > threshold", with the threshold that gave the best balanced accuracy on the other half."""

    name: str
    auroc: Estimate
    precision: Estimate
    recall: Estimate
    threshold: float

    def __str__(self) -> str:
        return f"{self.name}: AUROC {self.auroc}; precision {self.precision}; recall {self.recall}"


@dataclass(frozen=True)
class Detection:
    """A feature as a detector of a concept, beside what it must beat.

    `null`: held-out AUROC of each feature that fires on about as many training samples; `p`: (1 + number of them at
    least as high) / (1 + n). `baselines`: best single neuron, mean-difference direction, logistic probe, length of
    the sample, best of some random directions. `beaten`: names of the baselines whose AUROC lies below the feature's.
    """

    feature: int
    detector: Detector
    null: list[float]
    p: float
    baselines: list[Detector]
    beaten: list[str]
    n_train: tuple[int, int]
    n_test: tuple[int, int]
    seed: int

    def __str__(self) -> str:
        lines = [f"feature {self.feature} — {self.detector}"]
        lines.append(f"{len(self.null)} matched features: mean AUROC {np.mean(self.null):.3f}, p = {self.p:.3g}")
        return "\n".join([*lines, *(str(baseline) for baseline in self.baselines)])


@dataclass(frozen=True)
class Contrast:
    """All features that fire, ranked by how they tell two sets apart: AUROC, p (Mann-Whitney, two-sided) and q
    (Benjamini-Hochberg over `family` features); most telling first. To be confirmed on other samples."""

    ids: NDArray[np.int64]
    auroc: Array
    p: Array
    q: Array
    family: int
    n: tuple[int, int] = field(default=(0, 0))


def pool(
    model: Model,
    sae: Sae,
    positives: Sequence[Sample],
    negatives: Sequence[Sample],
    *,
    hook: str = "",
    batch_size: int = 16,
    reporter: Reporter | None = None,
) -> Pooled:
    """Run all samples and keep of each what detectors need. AuditorError for an empty set or a sample without rows."""
    reporter, at, sae = reporter or Reporter(), hook or sae.hook, sae.to(model.device)
    if not positives or not negatives:
        raise AuditorError("Detection needs samples with and without the concept.", "Add the missing kind.")
    samples = [*positives, *negatives]
    reporter.started("Scoring samples", len(samples), "samples")
    columns: list[tuple[Floats, Floats, Floats, Floats, int]] = []
    for start in range(0, len(samples), batch_size):
        inputs = model.encode(samples[start : start + batch_size]).to(model.device)
        run = model.run(inputs, record=[at], logits=False)
        kind = run.positions(at).kind
        for row, rows in enumerate(run.rows(at)):
            used = ordinary(kind[row])
            if not bool(used.any()):
                raise AuditorError(f"Sample “{samples[start + row].id}” has no position to score.", "Leave it out.")
            x = rows[used].float()
            values, ids = sae.encode_sparse(x)
            largest = np.zeros(sae.d_sae, dtype=np.float32)
            np.maximum.at(largest, ids.cpu().numpy().ravel(), values.cpu().numpy().ravel())
            kept = (t.cpu().numpy() for t in (x.mean(0), x.amax(0), x.amin(0)))
            columns.append((largest, *kept, len(x)))
        reporter.step(min(start + batch_size, len(samples)), len(samples), unit="samples")
    features, mean, highest, lowest, length = (np.array(column) for column in zip(*columns, strict=True))
    truth = np.arange(len(samples)) < len(positives)
    groups = [sample.group or sample.id for sample in samples]
    return Pooled(features, mean, highest, lowest, length.astype(np.float64), truth, groups)


def halves(pooled: Pooled, seed: int = 0) -> tuple[Pooled, Pooled]:
    """Two halves with no group in both, each kind of group dealt out evenly; AuditorError when one lacks a class."""
    names, member = np.unique(np.array(pooled.groups), return_inverse=True)
    share = np.bincount(member, weights=pooled.truth) / np.bincount(member)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(share[order], kind="stable")]
    side = np.empty(len(names), dtype=np.int64)
    side[order] = np.arange(len(names)) % 2
    parts = [pooled.part(np.flatnonzero(side[member] == half)) for half in (0, 1)]
    for part in parts:
        if part.truth.all() or not part.truth.any():
            raise AuditorError(
                "A half of the samples lacks positives or negatives.", "Give at least two groups of samples of each."
            )
    return parts[0], parts[1]


def detect(
    model: Model,
    sae: Sae,
    feature: int,
    positives: Sequence[Sample],
    negatives: Sequence[Sample],
    *,
    hook: str = "",
    n_null: int = 100,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Detection:
    """`detect_pooled` of samples with and without the concept."""
    if not 0 <= feature < sae.d_sae:
        raise AuditorError(f"There is no feature {feature}.", f"Choose one of 0 to {sae.d_sae - 1}.")
    return detect_pooled(
        pool(model, sae, positives, negatives, hook=hook, reporter=reporter), feature, n_null=n_null, seed=seed
    )


def detect_pooled(pooled: Pooled, feature: int, *, n_null: int = 100, seed: int = 0) -> Detection:
    """Held-out detection of the concept by one feature, by matched features and by the baselines."""
    train, test = halves(pooled, seed)
    firing = (train.features > 0).mean(0)
    if firing[feature] == 0:
        raise AuditorError(
            f"Feature {feature} fires on no sample of the training half.", "Choose samples or a feature that fires."
        )
    null_ids = density_matched(firing, feature, n_null, seed)
    null = aurocs(test.features[:, null_ids], test.truth)
    own = _detector("feature", train.features[:, feature], test.features[:, feature], train, test, seed)
    baselines = [
        _best_neuron(train, test, seed),
        _mean_difference(train, test, seed),
        _probe(train, test, seed),
        _random_direction(train, test, seed),
        _oriented("length of the sample", train.length, test.length, train, test, seed),
    ]
    return Detection(
        feature=feature,
        detector=own,
        null=null.tolist(),
        p=null_p(own.auroc.estimate, null, two_sided=False),
        baselines=baselines,
        beaten=[b.name for b in baselines if b.auroc.estimate < own.auroc.estimate],
        n_train=(int(train.truth.sum()), int((~train.truth).sum())),
        n_test=(int(test.truth.sum()), int((~test.truth).sum())),
        seed=seed,
    )


def contrast(pooled: Pooled) -> Contrast:
    """Every feature that fires in these samples, ranked by q; use it on the training half only."""
    family = np.flatnonzero((pooled.features > 0).any(0))
    if not len(family):
        raise AuditorError("No feature fires on these samples.", "Choose other samples.")
    scores = pooled.features[:, family].astype(np.float64)
    test = mannwhitneyu(scores[pooled.truth], scores[~pooled.truth], axis=0, method="asymptotic")
    p = np.nan_to_num(np.asarray(test.pvalue, dtype=np.float64), nan=1.0)
    auroc = aurocs(scores, pooled.truth)
    order = np.lexsort((-np.abs(auroc - 0.5), p))
    q = benjamini_hochberg(p)
    n = (int(pooled.truth.sum()), int((~pooled.truth).sum()))
    return Contrast(family[order].astype(np.int64), auroc[order], p[order], q[order], len(family), n)


def aurocs(scores: NDArray[np.floating], truth: Truth) -> Array:
    """Area under the ROC curve of each column [n, m] (Mann-Whitney U / (positives × negatives); ties count half)."""
    ranks = rankdata(scores, axis=0)
    positive, negative = int(truth.sum()), int((~truth).sum())
    u = ranks[truth].sum(0) - positive * (positive + 1) / 2
    return np.asarray(u / (positive * negative), dtype=np.float64)


def auroc_estimate(
    scores: NDArray[np.floating], truth: Truth, groups: Sequence[str], *, draws: int = 1000, seed: int = 0
) -> Estimate:
    """AUROC with its bootstrap interval: groups of samples are drawn, draws without both classes are left out."""
    wins = (np.sign(scores[truth][:, None] - scores[~truth][None]) + 1) / 2
    member = np.unique(np.array(groups), return_inverse=True)[1]
    n = int(member.max()) + 1
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    positive, negative = counts[:, member[truth]], counts[:, member[~truth]]
    whole = positive.sum(1) * negative.sum(1)
    figures = ((positive @ wins) * negative).sum(1)[whole > 0] / whole[whole > 0]
    low, high = np.quantile(figures, [0.025, 0.975]) if len(figures) else (0.0, 1.0)
    return Estimate(float(wins.mean()), (float(low), float(high)), len(truth))


def best_threshold(scores: NDArray[np.floating], truth: Truth) -> float:
    """The threshold t at which "score > t" has the highest balanced accuracy; the lowest such t between two scores."""
    values = np.unique(scores.astype(np.float64))
    cuts = np.concatenate(([values[0] - 1], (values[:-1] + values[1:]) / 2))
    sensitivity = 1 - np.searchsorted(np.sort(scores[truth]), cuts, side="right") / truth.sum()
    fall_out = 1 - np.searchsorted(np.sort(scores[~truth]), cuts, side="right") / (~truth).sum()
    return float(cuts[np.argmax(sensitivity - fall_out)])


def _detector(
    name: str, fitted: NDArray[np.floating], held: NDArray[np.floating], train: Pooled, test: Pooled, seed: int
) -> Detector:
    """From scores of both halves."""
    threshold = best_threshold(fitted, train.truth)
    said = held > threshold
    hits = int((said & test.truth).sum())
    return Detector(
        name=name,
        auroc=auroc_estimate(held, test.truth, test.groups, seed=seed),
        precision=proportion(hits, int(said.sum())),
        recall=proportion(hits, int(test.truth.sum())),
        threshold=threshold,
    )


def _oriented(
    name: str, fitted: NDArray[np.floating], held: NDArray[np.floating], train: Pooled, test: Pooled, seed: int
) -> Detector:
    """`_detector` with the sign that the training half asks for."""
    sign = 1.0 if aurocs(fitted[:, None], train.truth)[0] >= 0.5 else -1.0
    return _detector(name, sign * fitted, sign * held, train, test, seed)


def _best_neuron(train: Pooled, test: Pooled, seed: int) -> Detector:
    both = np.concatenate([train.highest, -train.lowest], 1)
    best = int(aurocs(both, train.truth).argmax())
    width = train.highest.shape[1]
    name = f"best neuron ({'+' if best < width else '−'}{best % width})"
    held = np.concatenate([test.highest, -test.lowest], 1)[:, best]
    return _detector(name, both[:, best], held, train, test, seed)


def _mean_difference(train: Pooled, test: Pooled, seed: int) -> Detector:
    direction = train.mean[train.truth].mean(0) - train.mean[~train.truth].mean(0)
    return _detector("mean difference", train.mean @ direction, test.mean @ direction, train, test, seed)


def _probe(train: Pooled, test: Pooled, seed: int) -> Detector:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=5000, class_weight="balanced"))
    probe.fit(train.mean.astype(np.float64), train.truth)
    fitted, held = (probe.decision_function(part.mean.astype(np.float64)) for part in (train, test))
    return _detector("logistic probe", fitted, held, train, test, seed)


def _random_direction(train: Pooled, test: Pooled, seed: int, n: int = 20) -> Detector:
    """The best on the training half of n random directions, either sign: what luck in choosing gives."""
    directions = random_directions(n, train.mean.shape[1], seed).T
    both = np.concatenate([directions, -directions], 1)
    best = int(aurocs(train.mean @ both, train.truth).argmax())
    fitted, held = train.mean @ both[:, best], test.mean @ both[:, best]
    return _detector(f"best of {n} random directions", fitted, held, train, test, seed)
