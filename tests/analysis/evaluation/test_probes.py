"""Logistic probes and the ranking of columns, beside plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.analysis.evaluation.probes import fit, fit_dense, fit_sparse, most_telling, telling


def reference(x, truth, penalty, balanced):
    """Gradient descent on the same loss."""
    mean, spread = x.mean(0), x.std(0)
    z, y = (x - mean) / spread, np.where(truth, 1.0, -1.0)
    each = np.where(truth, 0.5 / truth.sum(), 0.5 / (~truth).sum()) if balanced else np.full(len(x), 1 / len(x))
    w, b = np.zeros(x.shape[1]), 0.0
    for _ in range(20_000):
        pull = -each * y / (1 + np.exp(y * (z @ w + b)))
        w, b = w - 1.0 * (z.T @ pull + penalty * w), b - 1.0 * pull.sum()
    return w / spread, b - mean @ (w / spread)


@pytest.mark.parametrize("balanced", [True, False])
def test_that_a_probe_is_the_least_of_its_loss(balanced: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 5)) * [1, 10, 0.1, 3, 1] + 4
    truths = np.stack([x[:, 0] + rng.standard_normal(120) > 5, x[:, 1] > 0], 1)
    found = fit(x, truths, 0.05, balanced=balanced)
    for task in range(2):
        weights, bias = reference(x, truths[:, task], 0.05, balanced)
        assert found.logits(x)[:, task] == pytest.approx(x @ weights + bias, abs=5e-3)


def test_that_a_constant_column_says_nothing_and_breaks_nothing() -> None:
    x = np.random.default_rng(1).standard_normal((50, 3))
    x[:, 1] = 7
    found = fit(x, x[:, :1] > 0)
    assert found.weights[1, 0] == 0 and np.isfinite(found.bias).all()
    assert telling(x, x[:, :1] > 0)[0, 1] == 0


def test_that_a_penalty_is_chosen_that_carries_over() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((80, 300))
    truth = x[:, :4].sum(1) > 0
    new = rng.standard_normal((400, 300))
    right = ((fit_dense(x, truth[:, None], 0).logits(new)[:, 0] > 0) == (new[:, :4].sum(1) > 0)).mean()
    assert right > 0.55


def test_that_columns_are_ranked_by_the_standardised_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    x, truth = rng.standard_normal((200, 6)) * [1, 100, 1, 1, 1, 1], rng.random(200) < 0.4
    x[truth, 2] += 2
    x[truth, 1] += 50
    x[truth, 4] -= 1
    found = telling(x, truth[:, None])[0]
    for column in range(6):
        a, b = x[truth, column], x[~truth, column]
        assert found[column] == pytest.approx((a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 2))
    assert most_telling(x, truth[:, None], 2).tolist() == [[2, 4]]
    monkeypatch.setattr("auditor.analysis.evaluation.probes._CELLS", 900)  # four columns at a time
    assert telling(x, truth[:, None])[0] == pytest.approx(found, rel=1e-12)
    assert telling(x[:, :0], truth[:, None]).shape == (1, 0)


def test_that_a_sparse_probe_is_where_no_weight_can_be_moved_for_less() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((60, 90)) * rng.uniform(0.01, 9, 90)
    x[:, 7] = 2.0
    truths = np.stack([x[:, 0] / x[:, 0].std() + 0.3 * rng.standard_normal(60) > 0.5, rng.random(60) < 0.3], 1)
    found = fit_sparse(x, truths, 0.3)
    scaled = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    share = truths.mean(0)
    penalty = 0.3 * np.abs(scaled.T @ (truths - share)).max(0) / 60
    said = 1 / (1 + np.exp(-(scaled @ found + np.log(share / (1 - share)))))
    gradient = scaled.T @ (said - truths) / 60
    for task in range(2):
        away = found[:, task] != 0
        assert 0 < away.sum() < 30 and not away[7]
        assert gradient[away, task] == pytest.approx(-penalty[task] * np.sign(found[away, task]), rel=0.02)
        assert (np.abs(gradient[~away, task]) <= 1.02 * penalty[task]).all()
    assert np.abs(found[:, 0]).argmax() == 0
