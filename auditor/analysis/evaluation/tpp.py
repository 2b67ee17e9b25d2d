"""Targeted probe perturbation: taking out a class's features should hurt its probe, and no other class's.

Karvonen et al. 2024, “Evaluating sparse autoencoders on targeted concept erasure tasks”, §4; SAEBench (Karvonen et al.
2025), “TPP”: the mean over classes i of (A_i − A_ii) − mean over j ≠ i of (A_j − A_ij), where A_j is the accuracy of
the probe of class j, and A_ij that with the N features of class i ablated that give its probe most.

Chanin 2026 (arXiv 2605.18229) finds that TPP at its usual settings is noisy over reseeds and falls while a dictionary
trains on: it says little of which of two dictionaries is better, and is shown here with its interval, its spread over
splits, and what raw neurons, components, random directions and features drawn at random reach.

Where this differs from SAEBench: accuracy is balanced by weight; ablated coordinates of a baseline go to their mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from auditor.analysis.evaluation.ablating import RANDOM_FEATURES, attributions, mean_of, strongest, without
from auditor.analysis.evaluation.figures import DICTIONARY, Array, Figure, Rows, Split, balanced_accuracy, figure
from auditor.analysis.evaluation.labelled import Classes, halves
from auditor.analysis.evaluation.pooled import Pooled, Representation
from auditor.analysis.evaluation.probes import Probes, fit_dense
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter

FEWEST_CLASSES = 3


def tpp(
    pooled: Pooled, classes: Classes, ks: Sequence[int], *, seeds: int = 5, seed: int = 0,
    reporter: Reporter | None = None,
) -> list[Figure]:  # fmt: skip
    """For each k: the drop in accuracy of the probe that is meant beyond that of the others, 0 where nothing is
    disentangled. AuditorError for fewer than three classes: the probes of two are one probe."""
    reporter = reporter or Reporter()
    if len(classes.names) < FEWEST_CLASSES:
        raise AuditorError(
            f"Targeted probe perturbation needs three classes, and “{classes.label}” has {len(classes.names)}.",
            "Choose another label, or leave it out.",
        )
    truths = classes.truths
    found: dict[tuple[str, str], list[Split]] = {}
    reporter.started("Targeted probe perturbation", seeds, "splits")
    for number in range(seeds):
        learn, test = halves(classes.groups, classes.of, seed + number)
        probe = fit_dense(pooled.mean[learn], truths[learn], seed + number)
        clean = probe.logits(pooled.mean[test])
        generator = np.random.default_rng([seed + number, 19])
        for held in pooled.representations(learn):
            effects = [_effects(held, probe, task, truths, learn) for task in range(truths.shape[1])]
            shuffled = [generator.permutation(len(effect)) for effect in effects]
            for k in ks:
                chosen = {held.name: [strongest(effect, k) for effect in effects]}
                if held.name == DICTIONARY:
                    chosen[RANDOM_FEATURES] = [order[:k] for order in shuffled]
                for name, features in chosen.items():
                    ablated = np.stack([without(held, some, probe, clean, test) for some in features], 1)
                    made = _split(clean, ablated, truths[test], test)
                    found.setdefault((f"{k} ablated", name), []).append(made)
            reporter.check()
        reporter.step(number + 1, seeds, unit="splits")
    figures = [figure("tpp", name, of, splits, classes.groups, "samples", seed=seed)
               for (name, of), splits in found.items()]  # fmt: skip
    return [one for one in figures if one is not None]


def _effects(held: Representation, probe: Probes, task: int, truths: NDArray[np.bool_], learn: Rows) -> Array:
    high, low = learn[truths[learn, task]], learn[~truths[learn, task]]
    effects = attributions(held, probe, task, high, low)
    if held.signed:
        return effects
    fires_more = mean_of(held.codes, high) > mean_of(held.codes, low)  # features of the class, not of the others
    return np.where(fires_more, effects, 0)


def _split(clean: Array, ablated: Array, truths: NDArray[np.bool_], test: Rows) -> Split:
    """From logits: clean [test, classes], ablated [test, ablated class, classes]."""
    right = (np.concatenate([clean[:, None], ablated], 1) > 0) == truths[:, None]  # an eighth of the logits to keep

    def statistic(counts: Array) -> Array:
        tasks = truths.shape[1]
        drops = np.empty((len(counts), tasks, tasks))  # [draws, ablated class i, probe j]
        for j in range(tasks):
            accuracy = balanced_accuracy(counts, right[:, :, j], truths[:, j])
            drops[:, :, j] = accuracy[:, :1] - accuracy[:, 1:]
        meant = np.trace(drops, axis1=1, axis2=2) / tasks
        others = (drops.sum((1, 2)) - meant * tasks) / (tasks * (tasks - 1))
        return np.asarray(meant - others)[:, None]

    return Split(test, statistic)
