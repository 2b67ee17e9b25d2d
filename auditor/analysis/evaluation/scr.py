"""Spurious correlation removal: a probe that learned the wrong thing is set right by taking out its features.

Marks et al. 2024, “Sparse feature circuits” (SHIFT); Karvonen et al. 2024, “Evaluating sparse autoencoders on targeted
concept erasure tasks”; SAEBench (Karvonen et al. 2025), “SCR”. A probe of a label learns from samples in which a second
label always goes with it, and is tested on samples in which all four kinds are equally common. With the N features
ablated that give most to a probe of the second label,

    SCR = (A_ablated − A_misled) / (A_balanced − A_misled),

where A_balanced is the accuracy of a probe that learned from all four kinds: 1 where the misleading is gone, 0 where
nothing is gained, below 0 where it is made worse. Both pairings of the values are taken, and numerators and
denominators are averaged before they are divided.

Chanin 2026 (arXiv 2605.18229) finds that SCR at its usual settings is noisy over reseeds and, with many features
ablated, runs against the known truth: it says little of which of two dictionaries is better.

Where this differs from SAEBench: the label that is to be kept is chosen, not the direction that is harder; accuracy is
that over four kinds of equal weight; ablated coordinates of a baseline go to their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auditor.analysis.evaluation.ablating import RANDOM_FEATURES, attributions, strongest, without
from auditor.analysis.evaluation.figures import DICTIONARY, Array, Figure, Rows, Split, Truth, figure
from auditor.analysis.evaluation.labelled import Classes, halves
from auditor.analysis.evaluation.pooled import Pooled
from auditor.analysis.evaluation.probes import fit_dense
from auditor.base.reporter import Reporter

MISLED, BALANCED = "probe that was misled", "probe of balanced samples"
_LEAST_MISLED = 0.02


@dataclass(frozen=True)
class _Accuracies:
    """Which of the tested samples each probe gets right [test]."""

    misled: Truth
    balanced: Truth


def scr(
    pooled: Pooled, kept: Classes, spurious: Classes, ks: Sequence[int], *, seeds: int = 5, seed: int = 0,
    reporter: Reporter | None = None,
) -> tuple[list[Figure], str]:  # fmt: skip
    """For each k: the share of the misleading that is gone, and the accuracies that it is a share of; and a sentence,
    empty where all is well, that says that the probe was not misled enough for there to be a share."""
    reporter = reporter or Reporter()
    truth, other = kept.of == 1, spurious.of == 1
    kinds = 2 * kept.of + spurious.of
    found: dict[tuple[str, str], list[Split]] = {}
    reporter.started("Spurious correlation removal", seeds, "splits")
    for number in range(seeds):
        learn, test = halves(kept.groups, kinds, seed + number)
        x = pooled.mean
        balanced = fit_dense(x[learn], truth[learn, None], seed + number)
        second = fit_dense(x[learn], other[learn, None], seed + number)
        right = (balanced.logits(x[test])[:, 0] > 0) == truth[test]
        orders = np.random.default_rng([seed + number, 23])
        for pairing in (False, True):
            only = learn[(truth == (other ^ pairing))[learn]]
            probe = fit_dense(x[only], truth[only, None], seed + number)
            clean = probe.logits(x[test])
            both = _Accuracies((clean[:, 0] > 0) == truth[test], right)
            for name, of in ((MISLED, both.misled), (BALANCED, both.balanced)):
                found.setdefault(("accuracy", name), []).append(_accuracy(of, kinds[test], test))
            for held in pooled.representations(learn):
                high, low = learn[other[learn]], learn[~other[learn]]
                effects = np.abs(attributions(held, second, 0, high, low))
                drawn = orders.permutation(len(effects))
                for k in ks:
                    chosen = {held.name: strongest(effects, k)}
                    if held.name == DICTIONARY:
                        chosen[RANDOM_FEATURES] = drawn[:k]
                    for name, features in chosen.items():
                        ablated = (without(held, features, probe, clean, test)[:, 0] > 0) == truth[test]
                        made = _share(ablated, both, kinds[test], test)
                        found.setdefault((f"{k} ablated", name), []).append(made)
                reporter.check()
        reporter.step(number + 1, seeds, unit="splits")
    figures = {key: _figure(*key, splits, kept.groups, seed, seeds) for key, splits in found.items()}
    one, two = figures["accuracy", MISLED], figures["accuracy", BALANCED]
    assert one is not None and two is not None
    said = ""
    if two.estimate - one.estimate < _LEAST_MISLED:
        figures = {key: held for key, held in figures.items() if key[0] == "accuracy"}
        said = (
            f"SCR does not exist here: the probe that learned where “{spurious.label}” goes with “{kept.label}” is "
            f"right as often ({one.estimate:.3g}) as the one that learned from all ({two.estimate:.3g})."
        )
    return [held for held in figures.values() if held is not None], said


def _figure(name: str, of: str, splits: list[Split], groups: Sequence[str], seed: int, seeds: int) -> Figure | None:
    pairs = [_joined(splits[at], splits[at + 1]) for at in range(0, 2 * seeds, 2)]
    combine = None if name == "accuracy" else (lambda parts: parts[:, 0] / parts[:, 1])
    return figure("scr", name, of, pairs, groups, "samples", combine=combine, seed=seed)


def _joined(one: Split, two: Split) -> Split:
    """The mean of both pairings of one split."""
    return Split(one.rows, lambda counts: (one.statistic(counts) + two.statistic(counts)) / 2)


def _accuracy(right: Truth, kinds: Rows, test: Rows) -> Split:
    return Split(test, lambda counts: _over_kinds(counts, right, kinds)[:, None])


def _share(ablated: Truth, both: _Accuracies, kinds: Rows, test: Rows) -> Split:
    def statistic(counts: Array) -> Array:
        changed, misled, balanced = (_over_kinds(counts, one, kinds) for one in (ablated, both.misled, both.balanced))
        return np.stack([changed - misled, balanced - misled], 1)

    return Split(test, statistic)


def _over_kinds(counts: Array, right: Truth, kinds: Rows) -> Array:
    """Share that is right, the mean over the four kinds of sample, [draws]."""
    shares = [counts[:, kinds == kind] @ right[kinds == kind] / counts[:, kinds == kind].sum(1) for kind in range(4)]
    return np.asarray(np.mean(shares, axis=0))
