"""Spurious correlation removal of made data: taking out the planted feature that misleads sets the probe right."""

from __future__ import annotations

import numpy as np

from auditor.analysis.evaluation.ablating import RANDOM_FEATURES
from auditor.analysis.evaluation.figures import DICTIONARY, NEURONS
from auditor.analysis.evaluation.scr import BALANCED, MISLED, scr
from tests.analysis.evaluation.made import classes, one, orthonormal, pooled


def misleading(strength: float, seed: int = 0):
    """Two labels of two values; each value of the second has a feature, `strength` times as loud as the first's."""
    rng = np.random.default_rng(seed)
    kinds = np.repeat(np.arange(4), 60)
    kept, other = kinds // 2, kinds % 2
    codes = rng.random((240, 20)) * (rng.random((240, 20)) < 0.3)
    codes[:, 0] = kept * (1 + 0.6 * rng.standard_normal(240)).clip(0) + 0.4 * rng.random(240)
    codes[:, 1] = strength * other * (1 + 0.1 * rng.random(240))
    codes[:, 2] = strength * (1 - other) * (1 + 0.1 * rng.random(240))
    return pooled(codes, orthonormal(20, 30, seed), noise=0.05), classes(kept, "kept"), classes(other, "other")


def test_that_taking_out_what_misleads_sets_the_probe_right() -> None:
    found, said = scr(*misleading(1.0), (2, 5), seeds=3)
    assert said == ""
    wrong, right = one(found, "accuracy", MISLED), one(found, "accuracy", BALANCED)
    assert wrong.estimate < right.estimate - 0.1
    best = one(found, "2 ablated", DICTIONARY)
    assert best.estimate > 0.7 and best.interval[0] > 0.6
    for other in (RANDOM_FEATURES, NEURONS):
        assert one(found, "2 ablated", other).estimate < best.interval[0], other


def test_that_where_nothing_misleads_there_is_no_share_and_it_is_said() -> None:
    found, said = scr(*misleading(0.0), (1,), seeds=3)
    assert {figure.name for figure in found} == {"accuracy"}
    assert said.startswith("SCR does not exist here") and "“other”" in said
