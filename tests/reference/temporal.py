"""A temporal dictionary written out in numpy, in float64, position by position."""

from __future__ import annotations

import numpy as np


def foreseen(rows, W_enc, W_dec, attention, heads, scale, least=1e-6):
    """What one sample's earlier rows tell of each of its `rows` [T, d] less b_dec (arXiv 2511.01836); `attention` has
    for each layer (q, q0, k, k0, v, v0, c, c0), weights [out, in] and biases."""
    left = rows.astype(np.float64)
    for q, q0, k, k0, v, v0, c, c0 in attention:
        h = np.maximum(scale * left @ W_enc, 0)
        before = np.vstack([0 * h[:1], h[:-1]])
        mixed = np.zeros_like(h)
        for t in range(len(h)):
            for part in range(heads):
                cut = slice(part * len(q) // heads, (part + 1) * len(q) // heads)
                wide = slice(part * len(v) // heads, (part + 1) * len(v) // heads)
                scores = (before[: t + 1] @ k.T + k0)[:, cut] @ (h[t] @ q.T + q0)[cut] / np.sqrt(len(q) // heads)
                weights = np.exp(scores - scores.max())
                mixed[t, wide] = weights / weights.sum() @ (before[: t + 1] @ v.T + v0)[:, wide]
        seen = np.maximum(mixed @ c.T + c0, 0) @ W_dec
        share = (seen * left).sum(1) / (np.linalg.norm(seen, axis=1) + least) ** 2
        left = left - share[:, None] * seen
    return rows - left


def temporal_loss(runs, x, D, b_dec, attention, heads, k, judged, least=1e-6):
    """Mean ‖x' - x‖² over the rows that are `judged`, and the codes [n, d_sae], D being encoder and decoder."""
    scale, rows = 1 / (4 * x.shape[1]), x - b_dec
    parts = np.split(rows, np.cumsum(runs)[:-1])
    p = np.vstack([foreseen(part, D.T, D, attention, heads, scale, least) for part in parts])
    pre = scale * (rows - p) @ D.T
    z = np.where(pre >= np.sort(pre, axis=1)[:, -k][:, None], np.maximum(pre, 0), 0)
    return ((z @ D + p - rows)[judged] ** 2).sum() / judged.sum(), z
