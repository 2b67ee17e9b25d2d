"""Logistic probes: many at once, both classes weighted alike, and the order in which features tell them apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

Array = NDArray[np.float64]
Truths = NDArray[np.bool_]
Rows = NDArray[np.int64]

SPARSE_PENALTY = 1e-3
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
_STEPS = 300


@dataclass(frozen=True)
class Probes:
    """One linear probe a column: logits are x @ weights + bias; weights [d, tasks], bias [tasks]."""

    weights: Array
    bias: Array

    def logits(self, x: NDArray[np.floating]) -> Array:
        """[n, tasks] of rows x [n, d]."""
        return np.asarray(x @ self.weights + self.bias)


def fit(x: NDArray[np.floating], truths: Truths, penalty: float = SPARSE_PENALTY, *, balanced: bool = True) -> Probes:
    """Probes of rows x [n, d] for each task's truth [n, tasks]: the least of mean log loss + penalty / 2 · |w|², where
    columns are scaled to unit variance first and, if `balanced`, positives weigh as much as negatives (one half)."""
    mean, spread = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    spread[spread < 1e-8 * max(float(spread.max(initial=0)), 1e-30)] = np.inf  # a constant column says nothing
    scaled = (x - mean) / spread
    signs = np.where(truths, 1.0, -1.0)
    each = np.full(truths.shape, 1 / len(x))
    if balanced:
        each = np.where(truths, 0.5 / truths.sum(0), 0.5 / (~truths).sum(0))
    d, tasks = x.shape[1], truths.shape[1]

    def loss(flat: Array) -> tuple[float, Array]:
        held = flat.reshape(d + 1, tasks)
        margin = signs * (scaled @ held[:-1] + held[-1])
        pull = -each * signs * expit(-margin)
        gradient = np.concatenate([scaled.T @ pull + penalty * held[:-1], pull.sum(0, keepdims=True)])
        value = (each * np.logaddexp(0, -margin)).sum() + penalty / 2 * (held[:-1] ** 2).sum()
        return float(value), gradient.reshape(-1)

    found = minimize(loss, np.zeros((d + 1) * tasks), jac=True, method="L-BFGS-B",
                     options={"maxiter": _STEPS, "gtol": 1e-5, "ftol": 1e-9}).x.reshape(d + 1, tasks)  # fmt: skip
    weights = found[:-1] / spread[:, None]
    return Probes(weights, found[-1] - mean @ weights)


def fit_dense(x: NDArray[np.floating], truths: Truths, seed: int, *, balanced: bool = True) -> Probes:
    """As `fit`, of all columns, with the penalty that is best on a quarter of the rows set aside for it."""
    aside = np.random.default_rng([seed, 7]).permutation(len(x)) < len(x) // 4
    best, chosen = -1.0, _PENALTIES[0]
    if _both(truths[aside]) and _both(truths[~aside]):
        for penalty in _PENALTIES:
            right = (fit(x[~aside], truths[~aside], penalty, balanced=balanced).logits(x[aside]) > 0) == truths[aside]
            score = float(np.mean([right[:, t][truths[aside, t] == side].mean()
                                   for t in range(truths.shape[1]) for side in (True, False)]))  # fmt: skip
            if score > best:
                best, chosen = score, penalty
    return fit(x, truths, chosen, balanced=balanced)


def _both(truths: Truths) -> bool:
    return bool(truths.any(0).all() and (~truths).any(0).all())


def telling(x: NDArray[np.floating], truths: Truths) -> Array:
    """How far each column tells each task's classes apart: difference of means over the standard deviation within the
    classes, signed, [tasks, d]; 0 for a constant column.

    SAEBench takes the difference of means alone; that ranks columns by their scale, which differs a thousandfold
    between raw neurons and would make that baseline weak.
    """
    truth, other = truths.astype(np.float64), (~truths).astype(np.float64)
    truth, other = truth / truth.sum(0), other / other.sum(0)
    high, low = truth.T @ x, other.T @ x
    square = x.astype(np.float64) ** 2
    within = ((truth + other).T @ square - high**2 - low**2) / 2
    # A column that is constant within both classes tells them best, and finitely.
    spread = np.maximum(np.sqrt(np.maximum(within, 0)), 1e-3 * x.std(0))
    found: Array = np.divide(high - low, spread, out=np.zeros_like(spread), where=spread > 0)
    return found


def most_telling(x: NDArray[np.floating], truths: Truths, k: int) -> Rows:
    """The k columns that tell each task's classes apart best, best first, [tasks, k]."""
    found: Rows = np.argsort(-np.abs(telling(x, truths)), axis=1, kind="stable")[:, :k]
    return found
