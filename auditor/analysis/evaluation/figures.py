"""A figure of an evaluation: its bootstrap interval over samples, and how far it moves when the split is drawn anew."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from auditor.analysis.nulls import Interval

Array = NDArray[np.float64]
Truth = NDArray[np.bool_]
Rows = NDArray[np.int64]

DICTIONARY = "dictionary"
NEURONS = "raw neurons"
COMPONENTS = "PCA components"
CONTROL = "random directions"
_DRAWS = 1000
_CELLS = 1 << 23
"""Draws times samples that are worked on at a time."""


@dataclass(frozen=True)
class Figure:
    """One figure of a dictionary (`of` is DICTIONARY) or of a baseline beside it.

    `interval`: 95 %, bootstrap over samples (whole groups of them) and over the splits; `n` of `unit`; `spread`:
    standard deviation of the figure over `seeds` reseeded splits, which arXiv 2605.18229 calls reseed noise.
    """

    measure: str
    name: str
    of: str
    estimate: float
    interval: Interval
    n: int
    unit: str
    seeds: int
    spread: float
    higher_is_better: bool = True


@dataclass(frozen=True)
class Split:
    """What one reseeded split gives: `statistic` maps how often each of the samples `rows` is drawn, [draws, rows], to
    the figure's parts [draws, parts]."""

    rows: Rows
    statistic: Callable[[Array], Array]


def figure(
    measure: str, name: str, of: str, splits: Sequence[Split], groups: Sequence[str], unit: str, *,
    combine: Callable[[Array], Array] | None = None, higher_is_better: bool = True, seed: int = 0,
) -> Figure | None:  # fmt: skip
    """The mean of a figure over reseeded splits of samples that belong to `groups`.

    Each draw of the bootstrap draws samples, the same for all splits: one that is drawn twice counts twice in every
    one; and it draws splits, since a figure may move more from split to split than from sample to sample. Parts are
    averaged over the splits before `combine` makes the figure of them [draws]; without it there is one part. None
    where the figure does not exist (a ratio of nothing).
    """
    drawn, member = _drawn(tuple(groups), seed)
    made = combine or (lambda parts: parts[:, 0])
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw may lack a class
        parts = np.stack([_parts(split, drawn, member[split.rows]) for split in splits])
        whole = made(_mean(parts, _shares(len(splits), seed)))
        each = np.array([made(part[:1])[0] for part in parts])
    if not np.isfinite(whole[0]):
        return None
    finite = whole[1:][np.isfinite(whole[1:])]
    low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) else (whole[0], whole[0])
    whole, low, high = np.round(whole, 12), round(float(low), 12), round(float(high), 12)  # sums of drops end in 1e-17
    spread = float(np.nanstd(each, ddof=1)) if np.isfinite(each).sum() > 1 else 0.0
    used = np.unique(np.concatenate([split.rows for split in splits]))
    return Figure(
        measure, name, of, float(whole[0]), (float(min(low, whole[0])), float(max(high, whole[0]))), len(used), unit,
        len(splits), spread, higher_is_better,
    )  # fmt: skip


def _parts(split: Split, drawn: NDArray[np.uint8], member: Rows) -> Array:
    """The figure's parts [1 + draws, parts], some draws at a time: counts of all take gigabytes."""
    step = max(1, _CELLS // max(1, len(member)))
    starts = range(0, len(drawn), step)
    return np.concatenate([split.statistic(drawn[at : at + step, member].astype(np.float64)) for at in starts])


@functools.lru_cache(maxsize=1)
def _drawn(groups: tuple[str, ...], seed: int) -> tuple[NDArray[np.uint8], Rows]:
    """How often each group is drawn, [1 + draws, groups], once each in the first row; and the group of each sample. A
    group is drawn once on average, so that 255 is out of reach."""
    member = np.unique(np.asarray(groups), return_inverse=True)[1]
    size = int(member.max()) + 1
    drawn = np.ones((1 + _DRAWS, size), dtype=np.uint8)
    generator, share = np.random.default_rng(seed), np.full(size, 1 / size)
    step = max(1, _CELLS // size)
    for start in range(1, 1 + _DRAWS, step):
        drawn[start : start + step] = generator.multinomial(size, share, size=min(step, 1 + _DRAWS - start))
    return drawn, np.asarray(member, dtype=np.int64)


@functools.lru_cache(maxsize=4)
def _shares(splits: int, seed: int) -> Array:
    """How much of each draw's mean is each split, [splits, 1 + draws]; as much of each in the first."""
    drawn = np.random.default_rng([seed, 43]).multinomial(splits, np.full(splits, 1 / splits), size=_DRAWS)
    return np.asarray(np.concatenate([np.ones((1, splits)), drawn]).T / splits)


def _mean(parts: Array, shares: Array) -> Array:
    """Over the splits [splits, draws, parts], of those that have the figure in a draw."""
    held = np.where(np.isfinite(parts), shares[:, :, None], 0)
    return np.asarray((np.where(held > 0, parts, 0) * held).sum(0) / held.sum(0))


def balanced_accuracy(counts: Array, correct: NDArray[np.bool_], truth: Truth) -> Array:
    """Mean of the shares of positives and of negatives that are right, [draws, columns], where each of the samples
    counts `counts` [draws, n] times; `correct` [n, columns], `truth` [n]."""
    right = correct.astype(np.float64)
    sides = [counts[:, side] @ right[side] / counts[:, side].sum(1, keepdims=True) for side in (truth, ~truth)]
    return np.asarray((sides[0] + sides[1]) / 2)
