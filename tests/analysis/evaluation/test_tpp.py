"""Targeted probe perturbation of made data: planted features hurt their own probe alone."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.analysis.evaluation.ablating import RANDOM_FEATURES, attributions, without
from auditor.analysis.evaluation.figures import CONTROL, DICTIONARY, NEURONS
from auditor.analysis.evaluation.labelled import halves
from auditor.analysis.evaluation.probes import fit, fit_dense
from auditor.analysis.evaluation.tpp import tpp
from auditor.base.errors import AuditorError
from tests.analysis.evaluation.made import classes, one, orthonormal, pooled
from tests.analysis.evaluation.test_probing import planted


def test_that_taking_out_a_planted_feature_hurts_its_own_probe_alone() -> None:
    held, kinds = planted()
    found = tpp(held, kinds, (1, 5), seeds=3)
    best = one(found, "1 ablated", DICTIONARY)
    assert best.estimate > 0.35 and best.interval[0] > 0.3
    for other in (RANDOM_FEATURES, NEURONS, CONTROL):
        assert one(found, "1 ablated", other).interval[1] < best.interval[0], other


def test_that_the_figure_is_that_of_the_paper() -> None:
    held, kinds = planted(3)
    (figure,) = [f for f in tpp(held, kinds, (2,), seeds=2) if f.of == DICTIONARY]
    assert figure.estimate == pytest.approx(np.mean([by_hand(held, kinds, seed) for seed in range(2)]), abs=1e-9)


def by_hand(held, kinds, seed):
    """One split's figure, from rows that are ablated one by one."""
    learn, test = halves(kinds.groups, kinds.of, seed)
    x, codes, directions = held.mean, held.features.codes, held.features.directions
    truths = kinds.of[:, None] == np.arange(3)
    probe = fit_dense(x[learn], truths[learn], seed)

    def accuracy(rows, j):
        right = (rows @ probe.weights[:, j] + probe.bias[j] > 0) == truths[test, j]
        return (right[truths[test, j]].mean() + right[~truths[test, j]].mean()) / 2

    drops = np.empty((3, 3))
    for i in range(3):
        high, low = learn[truths[learn, i]], learn[~truths[learn, i]]
        gain = np.maximum(codes[high].mean(0) - codes[low].mean(0), 0) * (directions @ probe.weights[:, i])
        some = [f for f in np.argsort(-gain)[:2] if gain[f] > 0]
        ablated = x[test] - codes[np.ix_(test, some)] @ directions[some]
        drops[i] = [accuracy(x[test], j) - accuracy(ablated, j) for j in range(3)]
    return np.trace(drops) / 3 - (drops.sum() - np.trace(drops)) / 6


def test_that_two_classes_are_too_few() -> None:
    held, _ = planted()
    with pytest.raises(AuditorError, match="needs three classes"):
        tpp(held, classes(np.arange(180) % 2), (1,))


def test_that_ablating_rows_and_then_probing_is_what_the_probe_is_said_to_read() -> None:
    rng = np.random.default_rng(7)
    held = pooled(rng.random((40, 6)), orthonormal(6, 12, 1), noise=0.3)
    truths = rng.random((40, 2)) < 0.5
    probe, rows = fit(held.mean, truths), np.arange(5, 25)
    for one_of in held.representations(np.arange(20)):
        some = np.array([1, 3])
        changed = held.mean[rows] - (one_of.codes[rows][:, some] - one_of.rest[some]) @ one_of.directions[some]
        found = without(one_of, some, probe, probe.logits(held.mean[rows]), rows)
        assert found == pytest.approx(probe.logits(changed), abs=1e-4)
        gain = attributions(one_of, probe, 1, np.arange(20), np.arange(20, 40))
        means = one_of.codes[:20].mean(0) - one_of.codes[20:].mean(0)
        assert gain == pytest.approx(means * (one_of.directions @ probe.weights[:, 1]), abs=1e-5)
