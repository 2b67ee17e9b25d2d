"""RAVEL of made entities whose answers are read off their rows: a disentangled dictionary reaches 1, a rotation not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from auditor.analysis.evaluation.figures import DICTIONARY, NEURONS
from auditor.analysis.evaluation.ravel import (
    ALL,
    CAUSE,
    DISENTANGLED,
    ISOLATION,
    WHOLE,
    Entities,
    carriers,
    ravel,
    weighed,
)
from auditor.base.errors import AuditorError
from tests.analysis.evaluation.made import one, orthonormal, pooled, represented

SIZES = (5, 4, 3)


def world(seed: int = 0, noise: float = 0.02):
    """96 entities of three attributes, whose rows are the sum of a direction of each value; what reads them."""
    rng = np.random.default_rng(seed)
    values = np.stack([rng.integers(0, size, 96) for size in SIZES], 1)
    starts = np.cumsum([0, *SIZES[:-1]])
    codes = np.zeros((96, sum(SIZES)))
    for at, start in enumerate(starts):
        codes[np.arange(96), start + values[:, at]] = 1
    directions = orthonormal(sum(SIZES), 32, seed)
    held = pooled(np.tile(codes, (3, 1)), directions, noise=noise)

    def answers(ask, bases, rows):
        return (rows @ directions[starts[ask] : starts[ask] + SIZES[ask]].T).argmax(1)

    return held, Entities(("a", "b", "c"), values, np.ones(values.shape, bool)), answers


def test_that_a_disentangled_dictionary_reaches_one_and_a_rotation_of_it_does_not() -> None:
    held, entities, answers = world()
    found = ravel(held, entities, answers, k=5, pairs=60, seeds=3)
    for name in (DISENTANGLED, CAUSE, ISOLATION):
        assert one(found, name, DICTIONARY).estimate > 0.97, name
    figure = one(found, DISENTANGLED, DICTIONARY)
    assert figure.n == 180 and figure.interval[0] > 0.95
    turn = orthonormal(12, 12, 9)
    rotated = represented(DICTIONARY, held.features.codes @ turn, turn.T @ held.features.directions)
    worse = ravel(replace(held, features=rotated), entities, answers, k=5, pairs=60, seeds=3)
    assert one(worse, DISENTANGLED, DICTIONARY).interval[1] < 0.9
    assert one(found, CAUSE, ALL).estimate > 0.99 and one(found, ISOLATION, ALL).estimate < 0.01
    whole = {name: one(found, name, WHOLE).estimate for name in (CAUSE, ISOLATION, DISENTANGLED)}
    assert whole[CAUSE] > 0.99 and whole[ISOLATION] < 0.01 and whole[DISENTANGLED] == pytest.approx(0.5, abs=0.01)


def test_that_a_dictionary_that_changes_nothing_is_given_one_half() -> None:
    held, entities, answers = world()
    silent = represented(DICTIONARY, 0 * held.features.codes, held.features.directions)
    found = ravel(replace(held, features=silent), entities, answers, k=5, pairs=60, seeds=2)
    told = [one(found, name, DICTIONARY).estimate for name in (CAUSE, ISOLATION, DISENTANGLED)]
    assert told == [0, 1, 0.5]


def test_that_carriers_are_what_an_analysis_of_variance_gives() -> None:
    rng = np.random.default_rng(4)
    codes, values = rng.random((30, 8)), rng.integers(0, 3, 30)
    codes[:, 2] += values
    codes[:, 5] += 2.0 * (values == 1)
    codes[:, 6] += 0.02 * values
    directions = rng.standard_normal((8, 6))
    scores = []
    for f in range(8):
        groups = [codes[values == v, f] for v in range(3)]
        between = sum(len(g) * (g.mean() - codes[:, f].mean()) ** 2 for g in groups) / 2
        within = sum(((g - g.mean()) ** 2).sum() for g in groups) / 27
        scores.append((between - within) * (directions[f] ** 2).sum())
    found = carriers(represented("x", codes, directions), np.arange(30), values, 4)
    assert found.tolist() == sorted((2, 5), key=lambda f: -scores[f])  # no other one is beyond chance


def test_that_a_model_that_knows_too_little_is_refused() -> None:
    held, entities, answers = world()
    known = entities.known.copy()
    known[5:, 1] = False
    with pytest.raises(AuditorError, match="knows the b of 5 of 96 entities"):
        ravel(held, replace(entities, known=known), answers)


def test_that_a_probe_weighs_the_features_of_its_attribute_and_both_rankings_stand_beside_each_other() -> None:
    held, entities, answers = world()
    found = ravel(held, entities, answers, k=5, pairs=60, seeds=2, rankings=("variance", "probe"))
    for name in (DISENTANGLED, CAUSE, ISOLATION):
        assert one(found, f"{name} (probe's features)", DICTIONARY).estimate > 0.97, name
        both = [one(found, f"{name}{ranked}", WHOLE).estimate for ranked in ("", " (probe's features)")]
        assert both[0] == both[1]
    alone = ravel(held, entities, answers, k=5, pairs=60, seeds=2)
    assert one(alone, CAUSE, NEURONS) == one(found, CAUSE, NEURONS)
    assert one(found, f"{DISENTANGLED} (probe's features)", NEURONS).interval[1] < 0.9


def test_that_weights_of_a_probe_are_those_of_columns_of_one_scale() -> None:
    rng = np.random.default_rng(6)
    values = rng.integers(0, 3, 90)
    codes = 0.3 * rng.random((90, 8))
    codes[:, 1] += values == 0
    codes[:, 4] = 1e-3 * ((values == 2) + 0.1 * rng.random(90))  # small, and as telling once it is scaled
    codes[:, 6] = 5.0  # constant
    found = weighed(represented("x", codes, rng.standard_normal((8, 6))), np.arange(90), values, 2)
    assert sorted(found.tolist()) == [1, 4]
    assert 6 not in weighed(represented("x", codes, np.ones((8, 6))), np.arange(90), values, 8)
