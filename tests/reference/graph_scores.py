"""Graph scores and influence, written out from their definitions for one small graph at a time."""

from __future__ import annotations

import numpy as np


def influence(adjacency, outputs):
    n = len(adjacency)
    weights = np.array([[abs(w) / max(np.abs(row).sum(), 1e-10) for w in row] for row in adjacency.astype(float)])
    return outputs @ (np.linalg.inv(np.eye(n) - weights) - np.eye(n)), weights


def scores(adjacency, kinds, outputs):
    total, weights = influence(adjacency, outputs)
    error = sum(total[i] for i, kind in enumerate(kinds) if kind == "error")
    token = sum(total[i] for i, kind in enumerate(kinds) if kind in ("token", "patch"))
    weight = total + outputs
    share = np.array([1 - sum(row[i] for i, kind in enumerate(kinds) if kind == "error") for row in weights])
    return token / (token + error), (share * weight).sum() / weight.sum(), error / total.sum()


def threshold(values, share):
    ordered, held = sorted(np.ravel(values), reverse=True), 0.0
    for value in ordered:
        held += value
        if held / np.sum(values) >= share - 1e-12:
            return value
    return ordered[-1]
