"""k-sparse probing of made data: a planted feature is enough, random directions and chance are not."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.analysis.evaluation.figures import COMPONENTS, CONTROL, DICTIONARY, NEURONS
from auditor.analysis.evaluation.probing import DENSE, MAJORITY, probing
from tests.analysis.evaluation.made import classes, one, orthonormal, pooled


def planted(seed: int = 0):
    """Three classes, each with a feature that fires on nothing else, among 24 that fire at random."""
    rng = np.random.default_rng(seed)
    of = np.arange(180) % 3
    codes = rng.random((180, 27)) * (rng.random((180, 27)) < 0.3) * 2
    codes[:, :3] = (of[:, None] == np.arange(3)) * (0.5 + rng.random((180, 3)))
    return pooled(codes, orthonormal(27, 40, seed), noise=0.02), classes(of)


def test_that_one_planted_feature_tells_a_class_where_one_neuron_does_not() -> None:
    held, kinds = planted()
    found = probing(held, kinds, (1, 5), seeds=3)
    name = "balanced accuracy, k = 1"
    best = one(found, name, DICTIONARY)
    assert best.estimate > 0.99 and 120 < best.n <= 180 and best.seeds == 3 and best.spread < 0.01
    for other in (NEURONS, COMPONENTS, CONTROL):
        worse = one(found, name, other)
        assert worse.interval[1] < best.interval[0] and worse.estimate > 0.4, other
        assert one(found, "balanced accuracy, k = 5", other).estimate > worse.estimate
    assert one(found, "balanced accuracy", DENSE).estimate > 0.95
    assert one(found, "balanced accuracy", MAJORITY).estimate == 0.5


def test_that_labels_that_say_nothing_give_chance() -> None:
    held, _ = planted()
    found = probing(held, classes(np.random.default_rng(5).permutation(180) % 2), (1, 5), seeds=5)
    for figure in found:
        assert figure.interval[0] < 0.5 + 0.02 and figure.estimate == pytest.approx(0.5, abs=0.09), figure
