"""k-sparse probing: how well k features alone tell classes apart, on samples that chose neither them nor the probe.

Gurnee et al. 2023, “Finding Neurons in a Haystack”; Gao et al. 2024, §4.2; SAEBench (Karvonen et al. 2025), “sparse
probing”. Of each half that learns, the k columns that tell a class best from the rest are chosen and a logistic probe
is fitted to them; the figure is its balanced accuracy on the other half, averaged over the classes.

Where this differs from SAEBench: columns are ranked by the standardised difference of means, not the plain one
(`probes.telling` says why); classes are balanced by weight, not by leaving samples out; raw neurons, principal
components and random directions take the same way; and the split is drawn anew several times.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from auditor.analysis.evaluation.figures import Array, Figure, Rows, Split, Truth, balanced_accuracy, figure
from auditor.analysis.evaluation.labelled import Classes, halves
from auditor.analysis.evaluation.pooled import Pooled
from auditor.analysis.evaluation.probes import fit, fit_dense, most_telling
from auditor.base.reporter import Reporter

DENSE = "dense probe"
MAJORITY = "majority class"
_NAME = "balanced accuracy"


def probing(
    pooled: Pooled, classes: Classes, ks: Sequence[int], *, seeds: int = 5, seed: int = 0,
    reporter: Reporter | None = None,
) -> list[Figure]:  # fmt: skip
    """For each k: the dictionary's k features, k raw neurons, k principal components, k random directions; beside them
    a probe of all coordinates and what always saying the commoner class gives."""
    reporter = reporter or Reporter()
    truths = classes.truths
    found: dict[tuple[str, str], list[Split]] = {}
    reporter.started("Probing", seeds, "splits")
    for number in range(seeds):
        learn, test = halves(classes.groups, classes.of, seed + number)
        for held in pooled.representations(learn):
            best = most_telling(held.codes[learn], truths[learn], max(ks))
            for k in ks:
                each = [
                    _right(held.codes[:, columns[:k]], truths[:, task], learn, test)
                    for task, columns in enumerate(best)
                ]
                made = _split(np.stack(each, 1), truths[test], test)
                found.setdefault((f"{_NAME}, k = {k}", held.name), []).append(made)
            reporter.check()
        dense = fit_dense(pooled.mean[learn], truths[learn], seed + number).logits(pooled.mean[test]) > 0
        found.setdefault((_NAME, DENSE), []).append(_split(dense == truths[test], truths[test], test))
        commoner = truths[learn].mean(0) > 0.5
        found.setdefault((_NAME, MAJORITY), []).append(_split(commoner == truths[test], truths[test], test))
        reporter.step(number + 1, seeds, unit="splits")
    figures = [
        figure("probing", name, of, splits, classes.groups, "samples", seed=seed)
        for (name, of), splits in found.items()
    ]
    return [one for one in figures if one is not None]


def _right(codes: NDArray[np.floating], truth: Truth, learn: Rows, test: Rows) -> Truth:
    """Which of the samples `test` a probe of codes [n, k] gets right that learned from `learn`."""
    probe = fit(codes[learn], truth[learn, None])
    return np.asarray((probe.logits(codes[test])[:, 0] > 0) == truth[test])


def _split(right: NDArray[np.bool_], truths: NDArray[np.bool_], test: Rows) -> Split:
    """The mean over tasks of balanced accuracy; right and truths [test, tasks]."""

    def statistic(counts: Array) -> Array:
        tasks = [balanced_accuracy(counts, right[:, [t]], truths[:, t])[:, 0] for t in range(truths.shape[1])]
        return np.asarray(np.mean(tasks, axis=0))[:, None]

    return Split(test, statistic)
