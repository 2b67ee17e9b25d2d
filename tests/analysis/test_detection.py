"""Detection figures against known truths, and end to end on SmolLM2's first blocks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from auditor.analysis.detection import (
    Pooled,
    auroc_estimate,
    aurocs,
    best_threshold,
    contrast,
    detect,
    detect_pooled,
    halves,
    pool,
)
from auditor.base.errors import AuditorError
from auditor.data.sample import Sample
from tests.analysis.dictionaries import TEXTS, activation_dictionary


def made_up(n=120, d_sae=300, d_in=16, planted=7, seed=0, signal=3.0):
    """Features fire at random but one, which fires with the concept; the residual knows nothing of it."""
    generator = np.random.default_rng(seed)
    truth = np.arange(n) < n // 2
    features = generator.exponential(size=(n, d_sae)) * (generator.random((n, d_sae)) < 0.5)
    features[:, planted] = generator.exponential(size=n) * (generator.random(n) < np.where(truth, 0.95, 0.1)) * signal
    rows = generator.normal(size=(n, d_in)).astype(np.float32)
    groups = [f"g{i // 2}" for i in range(n)]
    length = generator.integers(5, 30, n).astype(float)
    return Pooled(features.astype(np.float32), rows, rows + 1, rows - 1, length, truth, groups)


def test_that_auroc_equals_sklearn_with_ties():
    generator = np.random.default_rng(1)
    scores, truth = generator.integers(0, 6, (80, 5)).astype(float), generator.random(80) < 0.4
    expected = [roc_auc_score(truth, column) for column in scores.T]
    np.testing.assert_allclose(aurocs(scores, truth), expected)
    estimate = auroc_estimate(scores[:, 0], truth, [str(i) for i in range(80)])
    assert estimate.estimate == pytest.approx(expected[0])
    assert estimate.interval[0] < expected[0] < estimate.interval[1] and estimate.n == 80


def test_that_the_auroc_interval_covers_the_truth_about_as_often_as_it_says():
    inside, generator = 0, np.random.default_rng(3)
    for seed in range(100):
        truth = np.arange(80) < 40
        scores = generator.normal(size=80) + truth  # AUROC = Φ(1/√2) = 0.7602
        low, high = auroc_estimate(scores, truth, [str(i) for i in range(80)], draws=300, seed=seed).interval
        inside += low <= 0.7602 <= high
    assert 0.86 <= inside / 100 <= 1.0


def test_that_the_threshold_has_the_best_balanced_accuracy():
    generator = np.random.default_rng(2)
    truth = generator.random(60) < 0.3
    scores = generator.normal(size=60) + 1.2 * truth

    def accuracy(t):
        return (scores[truth] > t).mean() + (scores[~truth] <= t).mean()

    best = max(accuracy(t) for t in [*scores, scores.min() - 1])
    assert accuracy(best_threshold(scores, truth)) == pytest.approx(best)


def test_that_halves_share_no_group_and_both_hold_both_classes():
    pooled = made_up(n=44)
    train, test = halves(pooled, seed=5)
    assert not set(train.groups) & set(test.groups) and len(train.truth) + len(test.truth) == 44
    assert abs(train.truth.mean() - test.truth.mean()) < 0.15
    with pytest.raises(AuditorError, match="lacks"):
        halves(made_up(n=4))


def test_that_a_planted_detector_beats_null_and_baselines_and_a_bystander_does_not():
    pooled = made_up()
    found, other = detect_pooled(pooled, 7), detect_pooled(pooled, 20)
    assert found.detector.auroc.interval[0] > 0.8 and found.p == pytest.approx(1 / 101)
    assert found.detector.recall.estimate > 0.8 and found.detector.precision.n > 0
    assert len(found.null) == 100 and np.mean(found.null) == pytest.approx(0.5, abs=0.03)
    assert len(found.beaten) == len(found.baselines) == 5
    assert other.p > 0.05
    assert "matched features" in str(found) and detect_pooled(pooled, 7) == found


def test_that_a_concept_that_the_residual_knows_is_found_by_the_simple_baselines():
    pooled = made_up(seed=4)
    pooled.mean[:, 3] += 4 * pooled.truth
    pooled.highest[:, 3] += 4 * pooled.truth
    result = detect_pooled(pooled, 20)
    scores = {b.name.split(" (")[0]: b.auroc.estimate for b in result.baselines}
    assert min(scores["best neuron"], scores["mean difference"], scores["logistic probe"]) > 0.9
    assert "best neuron (+3)" in [b.name for b in result.baselines]


def test_that_contrast_finds_the_planted_feature_and_controls_the_family():
    found = contrast(made_up())
    assert found.ids[0] == 7 and found.q[0] < 1e-6 and found.family == 300
    assert (found.q[1:] < 0.05).sum() <= 2
    assert (np.diff(found.p) >= 0).all()


def test_that_code_is_told_from_prose_on_held_out_texts(tiny_llama):
    code = ["def f(x):\n    return x", "import os\nprint(os.name)", "for i in range(3):\n    pass", "x = [1]\ny = {}",
            "class A:\n    def b(self):\n        self.c = 1", "if a == b:\n    c += 1\nelse:\n    d()"]  # fmt: skip
    prose = ["The fox ran home.", "We had soup and bread.", "She smiled at the small child.", "Rain fell on the town.",
             "He reads old letters.", "Their garden is full of roses."]  # fmt: skip
    positives = [Sample(id=f"c{i}", text=t) for i, t in enumerate(code)]
    negatives = [Sample(id=f"p{i}", text=t) for i, t in enumerate(prose)]
    sae = activation_dictionary(tiny_llama, "blocks.1.resid_post", d_sae=256, k=8, seed=1)
    pooled = pool(tiny_llama, sae, positives, negatives, batch_size=5)
    row = tiny_llama.run(tiny_llama.encode([negatives[0]]), record=[sae.hook], logits=False).rows(sae.hook)[0, 1:]
    np.testing.assert_allclose(pooled.features[6], sae.encode(row).amax(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(pooled.mean[6], row.mean(0), rtol=1e-3, atol=1e-3)
    best = int(contrast(pooled).ids[0])
    result = detect(tiny_llama, sae, best, positives, negatives, n_null=50)
    assert result.n_train == (3, 3) and result.n_test == (3, 3) and len(result.null) == 50
    probe = next(b for b in result.baselines if b.name == "logistic probe")
    assert probe.auroc.estimate > 0.85


def test_that_what_cannot_be_scored_is_refused(tiny_llama):
    sae = activation_dictionary(tiny_llama, "blocks.1.resid_post", d_sae=64, k=4)
    some = [Sample(id=f"s{i}", text=t) for i, t in enumerate(TEXTS)]
    with pytest.raises(AuditorError, match="with and without"):
        detect(tiny_llama, sae, 0, some, [])
    with pytest.raises(AuditorError, match="no feature"):
        detect(tiny_llama, sae, 64, some[:3], some[3:])
