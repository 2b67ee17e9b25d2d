"""Logistic probes: many at once, both classes weighted alike, and the order in which features tell them apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

Array = NDArray[np.float64]
Truths = NDArray[np.bool_]
Rows = NDArray[np.int64]

SPARSE_PENALTY = 1e-3
SPARSE_SHARE = 0.1
_SPARSE_STEPS = 300
_PENALTIES = (1.0, 1e-1, 1e-2, 1e-3)
_STEPS = 300
_CELLS = 1 << 23
"""Numbers of columns that are worked on at a time."""


@dataclass(frozen=True)
class Probes:
    """One linear probe a column: logits are x @ weights + bias; weights [d, tasks], bias [tasks]."""

    weights: Array
    bias: Array

    def logits(self, x: NDArray[np.floating]) -> Array:
        """[n, tasks] of rows x [n, d]."""
        return np.asarray(x @ self.weights + self.bias)


class _Problem:
    """The loss of `fit` on some rows, in scaled columns: a solution is flat, [d + 1, tasks]."""

    def __init__(self, x: NDArray[np.floating], truths: Truths, balanced: bool) -> None:
        self._mean, spread = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
        spread[spread < 1e-8 * max(float(spread.max(initial=0)), 1e-30)] = np.inf  # a constant column says nothing
        self._spread = spread
        self._scaled = (x - self._mean) / spread
        self._signs = np.where(truths, 1.0, -1.0)
        self._each = np.full(truths.shape, 1 / len(x))
        if balanced:
            self._each = np.where(truths, 0.5 / truths.sum(0), 0.5 / (~truths).sum(0))
        self._shape = x.shape[1] + 1, truths.shape[1]

    def solve(self, penalty: float, start: Array | None = None) -> Array:
        """The least, sought from `start` on."""
        first = np.zeros(self._shape).reshape(-1) if start is None else start
        found = minimize(self._loss, first, args=(penalty,), jac=True, method="L-BFGS-B",
                         options={"maxiter": _STEPS, "gtol": 1e-5, "ftol": 1e-8})  # fmt: skip
        return np.asarray(found.x, dtype=np.float64)

    def probes(self, solution: Array) -> Probes:
        """The probes of unscaled rows."""
        held = solution.reshape(self._shape)
        weights = held[:-1] / self._spread[:, None]
        return Probes(weights, held[-1] - self._mean @ weights)

    def _loss(self, flat: Array, penalty: float) -> tuple[float, Array]:
        held = flat.reshape(self._shape)
        margin = self._signs * (self._scaled @ held[:-1] + held[-1])
        pull = -self._each * self._signs * expit(-margin)
        gradient = np.concatenate([self._scaled.T @ pull + penalty * held[:-1], pull.sum(0, keepdims=True)])
        value = (self._each * np.logaddexp(0, -margin)).sum() + penalty / 2 * (held[:-1] ** 2).sum()
        return float(value), gradient.reshape(-1)


def fit(x: NDArray[np.floating], truths: Truths, penalty: float = SPARSE_PENALTY, *, balanced: bool = True) -> Probes:
    """Probes of rows x [n, d] for each task's truth [n, tasks]: the least of mean log loss + penalty / 2 · |w|², where
    columns are scaled to unit variance first and, if `balanced`, positives weigh as much as negatives (one half)."""
    problem = _Problem(x, truths, balanced)
    return problem.probes(problem.solve(penalty))


def fit_dense(x: NDArray[np.floating], truths: Truths, seed: int, *, balanced: bool = True) -> Probes:
    """As `fit`, of all columns, with the penalty that is best on a quarter of the rows set aside for it."""
    aside = np.random.default_rng([seed, 7]).permutation(len(x)) < len(x) // 4
    chosen, start, held = _PENALTIES[-1], None, None
    if _both(truths[aside]) and _both(truths[~aside]):
        problem, best = _Problem(x[~aside], truths[~aside], balanced), -1.0
        for penalty in _PENALTIES:  # from the strongest on: each starts near its own solution
            held = problem.solve(penalty, held)
            right = (problem.probes(held).logits(x[aside]) > 0) == truths[aside]
            score = float(np.mean([right[:, t][truths[aside, t] == side].mean()
                                   for t in range(truths.shape[1]) for side in (True, False)]))  # fmt: skip
            if score > best:
                best, chosen, start = score, penalty, held
    whole = _Problem(x, truths, balanced)
    return whole.probes(whole.solve(chosen, start))


def fit_sparse(x: NDArray[np.floating], truths: Truths, share: float = SPARSE_SHARE) -> Array:
    """The weights [d, tasks], most of them 0, of probes of rows x [n, d] whose columns are scaled to unit variance, and
    whose bias is the log odds of each task: the least of mean log loss + λ · |w|₁, where λ is `share` of the least one
    at which all weights are 0 (proximal gradients with momentum: Beck & Teboulle 2009, “FISTA”)."""
    spread = x.std(0, dtype=np.float64)
    scaled = np.divide(x - x.mean(0, dtype=np.float64), spread, out=np.zeros(x.shape), where=spread > 0)
    bias = logit(truths.mean(0))
    penalty = share * np.abs(scaled.T @ (truths - truths.mean(0))).max(0, initial=0) / len(x)
    rate = 4 * len(x) / max(float(np.linalg.norm(scaled @ scaled.T, 2)), 1e-12)
    weights = ahead = np.zeros((x.shape[1], truths.shape[1]))
    pace = 1.0
    for _ in range(_SPARSE_STEPS):
        gradient = scaled.T @ (expit(scaled @ ahead + bias) - truths) / len(x)
        stepped = ahead - rate * gradient
        new = np.sign(stepped) * np.maximum(np.abs(stepped) - rate * penalty, 0)
        faster = (1 + np.sqrt(1 + 4 * pace**2)) / 2
        ahead = new + (pace - 1) / faster * (new - weights)
        moved = np.abs(new - weights).max(initial=0)
        weights, pace = new, faster
        if moved < 1e-4 * np.abs(weights).max(initial=0):
            break
    return np.asarray(weights)


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
    step = max(1, _CELLS // max(1, len(x)))
    parts = [_telling(x[:, at : at + step], truth, other) for at in range(0, x.shape[1], step)]
    return np.concatenate(parts, 1) if parts else np.zeros((truths.shape[1], 0))


def _telling(x: NDArray[np.floating], truth: Array, other: Array) -> Array:
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
