"""What a probe reads of samples when some features are taken out of their rows, with the dictionary's error kept.

Rows are means over a sample's positions. A probe and the decoder are linear, so that taking features out of every
position and then the mean is the same as taking their mean activations out of the mean row: only these are needed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from auditor.analysis.evaluation.figures import Rows
from auditor.analysis.evaluation.pooled import Representation
from auditor.analysis.evaluation.probes import Probes

Array = NDArray[np.float64]

RANDOM_FEATURES = "its features, drawn at random"
_ROWS = 1024


def attributions(held: Representation, probe: Probes, task: int, high: Rows, low: Rows) -> Array:
    """What each feature gives the probe's logit in the rows `high` more than in the rows `low`: difference of its mean
    activations times its direction's product with the probe, [m] (Karvonen et al. 2024, “Evaluating sparse autoencoders
    on targeted concept erasure tasks”, eq. 1)."""
    difference = mean_of(held.codes, high) - mean_of(held.codes, low)
    return np.asarray(difference * (held.directions @ probe.weights[:, task]))


def mean_of(codes: NDArray[np.float32], rows: Rows) -> Array:
    """The mean [m] of some rows of codes [n, m], without a copy of them all."""
    total = np.zeros(codes.shape[1])
    for start in range(0, len(rows), _ROWS):
        total += codes[rows[start : start + _ROWS]].sum(0, dtype=np.float64)
    return total / len(rows)


def strongest(effects: Array, n: int) -> Rows:
    """The n features of largest effect above 0, fewer where there are fewer."""
    best = np.argsort(-effects, kind="stable")[:n]
    found: Rows = best[effects[best] > 0]
    return found


def without(held: Representation, features: Rows, probe: Probes, logits: Array, rows: Rows) -> Array:
    """The probe's `logits` [rows, tasks] of the rows `rows`, with these features at rest."""
    away = held.codes[np.ix_(rows, features)] - held.rest[features]
    return logits - away.astype(np.float64) @ (held.directions[features] @ probe.weights)
