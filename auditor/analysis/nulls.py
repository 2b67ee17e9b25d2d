"""Intervals, corrected p values and null samples: what every figure of an analysis is shown beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from auditor.base.errors import AuditorError

Array = NDArray[np.float64]
Interval = tuple[float, float]
Statistic = Callable[[Array, int], Array]


@dataclass(frozen=True)
class Estimate:
    """A figure with what it needs beside it: its interval (at `level`), the sample size, the unit."""

    estimate: float
    interval: Interval
    n: int
    unit: str = ""
    level: float = 0.95

    def __str__(self) -> str:
        low, high = self.interval
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.estimate:.4g}{unit} [{low:.4g}, {high:.4g}] (n = {self.n}, {self.level:.0%} interval)"


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Interval of a share of successes (Wilson 1927, score interval); (0, 1) when n is 0."""
    if not 0 <= successes <= n:
        raise AuditorError(f"{successes} successes of {n} trials is not a count.", "Check the counts.")
    if n == 0:
        return 0.0, 1.0
    z = float(norm.ppf(0.5 + level / 2))
    share, spread = successes / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * float(np.sqrt(share * (1 - share) / n + spread / (4 * n)))
    return max(0.0, middle - half), min(1.0, middle + half)


def proportion(successes: int, n: int, unit: str = "", level: float = 0.95) -> Estimate:
    """A share of successes with its Wilson interval; 0 when n is 0, with the interval (0, 1)."""
    return Estimate(successes / n if n else 0.0, wilson(successes, n, level), n, unit, level)


def bootstrap_interval(
    values: ArrayLike,
    *,
    groups: Sequence[Any] | None = None,
    statistic: Statistic = np.mean,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval (Efron 1979) of `statistic(resampled [draws, n], axis 1)`; default: the mean.

    With `groups`, whole groups are drawn and the mean is that of their members: samples of one source are not
    independent. One value (or one group) gives the widest interval there is: (−inf, inf).
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not len(data):
        raise AuditorError("An interval needs a list of at least one number.", "Choose more samples.")
    generator = np.random.default_rng(seed)
    if groups is not None:
        members = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)[1]
        total, size = np.bincount(members, weights=data), np.bincount(members)
        if len(total) < 2:
            return -np.inf, np.inf
        picked = generator.integers(0, len(total), size=(draws, len(total)))
        figures = total[picked].sum(1) / size[picked].sum(1)
    elif len(data) < 2:
        return -np.inf, np.inf
    else:
        figures = np.asarray(statistic(data[generator.integers(0, len(data), size=(draws, len(data)))], 1))
    low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_estimate(
    values: ArrayLike, unit: str = "", *, groups: Sequence[Any] | None = None, level: float = 0.95, seed: int = 0
) -> Estimate:
    """The mean with its bootstrap interval over samples, or over groups of samples."""
    data = np.asarray(values, dtype=np.float64)
    interval = bootstrap_interval(data, groups=groups, level=level, seed=seed)
    return Estimate(float(data.mean()), interval, len(data), unit, level)


def null_p(observed: float, null: ArrayLike, *, two_sided: bool = True) -> float:
    """(1 + number of null values at least as extreme) / (1 + n) (Phipson and Smyth 2010, eq. 2); never 0."""
    drawn = np.asarray(null, dtype=np.float64)
    extreme = np.abs(drawn) >= abs(observed) if two_sided else drawn >= observed
    return float((1 + extreme.sum()) / (1 + len(drawn)))


def permutation_p(a: ArrayLike, b: ArrayLike, *, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of a difference of means under random relabelling of the two groups."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    pooled, n = np.concatenate([first, second]), len(first)
    generator = np.random.default_rng(seed)
    total, null = pooled.sum(), np.empty(draws)
    for start in range(0, draws, 1000):  # a thousand at a time: the order matrix stays small
        stop = min(start + 1000, draws)
        order = generator.random((stop - start, len(pooled))).argsort(1)[:, :n]
        part = pooled[order].sum(1)
        null[start:stop] = part / n - (total - part) / len(second)
    # Sums in another order differ in the last bits; an equal split must count as equally extreme.
    observed = float(abs(first.mean() - second.mean()) * (1 - 1e-12))
    return null_p(observed, null)


def benjamini_hochberg(p: ArrayLike) -> Array:
    """Adjusted p values (q values) of the whole searched family (Benjamini and Hochberg 1995), in the given order."""
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or np.isnan(values).any() or (values < 0).any() or (values > 1).any():
        raise AuditorError("A p value lies between 0 and 1.", "Check the test that gave these values.")
    n = len(values)
    order = np.argsort(values)
    scaled = values[order] * n / np.arange(1, n + 1)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted


def density_matched(index: Any, feature: int, n: int = 100, seed: int = 0) -> NDArray[np.int64]:
    """n other features whose density is nearest to that of `feature`, drawn at random among the 3 n nearest.

    `index` is a features index (its `.table` has columns id and density) or an array of densities by feature id.
    Features that never fire are not drawn. Fewer than n are given where the dictionary has no more.
    """
    if hasattr(index, "table"):
        ids, density = np.asarray(index.table["id"]), np.asarray(index.table["density"], dtype=np.float64)
    else:
        density = np.asarray(index, dtype=np.float64)
        ids = np.arange(len(density))
    at = np.flatnonzero(ids == feature)
    if not len(at):
        raise AuditorError(f"There is no feature {feature}.", f"Choose one of {len(ids)} features.")
    own = float(density[at[0]])
    if own <= 0:
        raise AuditorError(f"Feature {feature} never fired, so nothing matches its density.", "Choose a live feature.")
    pool = np.flatnonzero((density > 0) & (ids != feature))
    distance = np.abs(np.log(density[pool]) - np.log(own))
    generator = np.random.default_rng(seed)
    # Many features share one density: shuffling before the stable sort keeps the draw among equals fair.
    shuffled = generator.permutation(len(pool))
    near = pool[shuffled[np.argsort(distance[shuffled], kind="stable")[: 3 * n]]]
    chosen = generator.choice(near, size=min(n, len(near)), replace=False)
    return np.sort(ids[chosen]).astype(np.int64)


def random_directions(n: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """n independent directions of length 1, float32 [n, width]."""
    drawn = np.random.default_rng(seed).standard_normal((n, width))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn.astype(np.float32)
