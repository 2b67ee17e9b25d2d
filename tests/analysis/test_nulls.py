"""Intervals and null samples against known truths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from auditor.analysis.nulls import (
    benjamini_hochberg,
    bootstrap_interval,
    density_matched,
    mean_estimate,
    null_p,
    permutation_p,
    random_directions,
    wilson,
)
from auditor.base.errors import AuditorError


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 17), (50, 100), (9, 9)])
def test_that_wilson_equals_scipy(hits, n):
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_that_wilson_refuses_what_is_not_a_count():
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(AuditorError):
        wilson(5, 4)


def test_that_the_bootstrap_interval_covers_the_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(2)
    inside = 0
    for seed in range(200):
        low, high = bootstrap_interval(generator.normal(3, 2, size=40), seed=seed, draws=400)
        inside += low <= 3 <= high
    assert 0.88 <= inside / 200 <= 0.985


def test_that_whole_groups_are_drawn():
    values = np.repeat(np.random.default_rng(0).normal(size=6), 50)
    alone, grouped = bootstrap_interval(values), bootstrap_interval(values, groups=np.repeat(np.arange(6), 50))
    assert np.ptp(grouped) > 3 * np.ptp(alone)
    assert bootstrap_interval([1.0]) == (-np.inf, np.inf)
    assert "n = 300" in str(mean_estimate(values, "nats"))


def test_that_benjamini_hochberg_equals_scipy():
    p = np.random.default_rng(5).random(200) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p))
    with pytest.raises(AuditorError):
        benjamini_hochberg([0.2, np.nan])


def test_that_null_p_is_never_zero_and_counts_ties():
    assert null_p(5.0, np.zeros(99)) == pytest.approx(0.01)
    assert null_p(0.0, np.zeros(99)) == 1.0
    assert null_p(-2.0, [1.0, 3.0, -2.0]) == pytest.approx(3 / 4)


def test_that_permutation_p_is_small_for_a_shift_and_uniform_without():
    generator = np.random.default_rng(1)
    assert permutation_p(generator.normal(2, 1, 30), generator.normal(0, 1, 30), draws=999) == pytest.approx(0.001)
    flat = [permutation_p(generator.normal(size=12), generator.normal(size=9), draws=199, seed=s) for s in range(100)]
    assert 0.3 < np.mean(flat) < 0.7


def test_that_density_matched_features_have_near_density_and_the_seed_decides():
    density = 10 ** np.random.default_rng(3).uniform(-5, -1, 3000)
    density[::7] = 0
    drawn = density_matched(density, 1, n=100, seed=4)
    assert len(set(drawn)) == 100 and 1 not in drawn and (density[drawn] > 0).all()
    assert np.abs(np.log10(density[drawn] / density[1])).max() < 0.5
    np.testing.assert_array_equal(drawn, density_matched(density, 1, n=100, seed=4))
    assert set(drawn) != set(density_matched(density, 1, n=100, seed=5))
    with pytest.raises(AuditorError):
        density_matched(density, 7)


def test_that_random_directions_have_length_one():
    np.testing.assert_allclose(np.linalg.norm(random_directions(50, 33, 1), axis=1), 1, rtol=1e-5)
