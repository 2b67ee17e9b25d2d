"""Figures over reseeded splits: estimate, bootstrap interval and spread, beside ten lines of numpy."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.analysis.evaluation import figures
from auditor.analysis.evaluation.figures import Split, balanced_accuracy, figure


def share(rows, values):
    return Split(rows, lambda counts: (counts @ values / counts.sum(1))[:, None])


def test_that_estimate_interval_and_spread_are_those_of_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(0)
    values = [rng.random(60), rng.random(60)]
    rows = [np.arange(60), np.arange(40, 100)]
    found = figure("m", "f", "d", [share(*pair) for pair in zip(rows, values, strict=True)], list(range(100)), "s")
    means = [value.mean() for value in values]
    assert found is not None and found.estimate == pytest.approx(np.mean(means))
    assert found.spread == pytest.approx(np.std(means, ddof=1)) and (found.n, found.seeds) == (100, 2)
    drawn = []
    for _ in range(4000):
        count = np.bincount(rng.integers(0, 100, 100), minlength=100)
        each = [np.average(v, weights=count[r]) for r, v in zip(rows, values, strict=True)]
        drawn.append(np.mean(rng.choice(each, 2)))
    assert found.interval == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.012)


def test_that_groups_are_drawn_whole_and_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(1).random(10), 20)
    rows = np.arange(200)
    alone = figure("m", "f", "d", [share(rows, values)], list(range(200)), "s")
    whole = figure("m", "f", "d", [share(rows, values)], [at // 20 for at in range(200)], "s")
    assert alone is not None and whole is not None and alone.estimate == whole.estimate
    assert whole.interval[1] - whole.interval[0] > 2.5 * (alone.interval[1] - alone.interval[0])


def test_that_a_ratio_is_made_of_means_and_does_not_exist_where_it_is_of_nothing() -> None:
    parts = [Split(np.arange(4), lambda counts, n=n: np.tile([n, 4.0], (len(counts), 1))) for n in (1.0, 3.0)]
    found = figure("m", "f", "d", parts, list("abcd"), "s", combine=lambda held: held[:, 0] / held[:, 1])
    assert found is not None and found.estimate == 0.5 and found.interval == (0.25, 0.75)
    assert found.spread == pytest.approx(np.std([0.25, 0.75], ddof=1))
    assert figure("m", "f", "d", parts, list("abcd"), "s", combine=lambda held: 0 * held[:, 0] / 0) is None


def test_that_balanced_accuracy_is_the_mean_of_both_sides() -> None:
    rng = np.random.default_rng(2)
    correct, truth, counts = rng.random((30, 3)) < 0.7, rng.random(30) < 0.3, rng.integers(1, 4, (5, 30)).astype(float)
    found = balanced_accuracy(counts, correct, truth)
    for draw in range(5):
        for column in range(3):
            repeated = np.repeat(np.arange(30), counts[draw].astype(int))
            right, side = correct[repeated, column], truth[repeated]
            assert found[draw, column] == pytest.approx((right[side].mean() + right[~side].mean()) / 2)


def test_that_draws_are_the_same_however_many_are_worked_on_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values, names = np.random.default_rng(3).random(90), [str(at // 3) for at in range(90)]
    whole = figure("m", "f", "d", [share(np.arange(90), values)], names, "s", seed=5)
    figures._drawn.cache_clear()
    monkeypatch.setattr(figures, "_CELLS", 400)  # thirteen draws of thirty groups, four of ninety samples
    assert figure("m", "f", "d", [share(np.arange(90), values)], names, "s", seed=5) == whole
    expected = np.random.default_rng(5).multinomial(30, np.full(30, 1 / 30), size=1000)
    drawn, member = figures._drawn(tuple(names), 5)
    assert (drawn[0] == 1).all() and np.array_equal(drawn[1:], expected) and len(set(member[:6].tolist())) == 2
