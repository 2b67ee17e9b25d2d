"""Dictionary losses and gradients written out in numpy, in float64, with no cleverness."""

from __future__ import annotations

import numpy as np


def topk_step(x, encoder, decoder, b_enc, b_dec, k):
    """Mean ‖x' - x‖² with the k largest active, and its gradients to (encoder, decoder, b_enc, b_dec)."""
    c = x - b_dec
    pre = c @ encoder.T + b_enc
    keep = pre >= np.sort(pre, axis=1)[:, -k][:, None]
    z = np.where(keep, np.maximum(pre, 0), 0)
    e = z @ decoder + b_dec - x
    g = 2 * e / len(x)
    gz = (g @ decoder.T) * (z > 0)
    loss = (e**2).sum() / len(x)
    return loss, z, (gz.T @ c, z.T @ g, gz.sum(0), g.sum(0) - gz.sum(0) @ encoder)


def relu_step(x, encoder, decoder, b_enc, b_dec, l1):
    """Mean ‖x' - x‖² + l1 Σ z_i ‖d_i‖, and its gradients (Conerly et al. 2024)."""
    c = x - b_dec
    z = np.maximum(c @ encoder.T + b_enc, 0)
    norm = np.linalg.norm(decoder, axis=1)
    e = z @ decoder + b_dec - x
    g = 2 * e / len(x)
    gz = (g @ decoder.T + l1 * norm / len(x)) * (z > 0)
    g_dec = z.T @ g + l1 * (z.mean(0) / norm)[:, None] * decoder
    loss = (e**2).sum() / len(x) + l1 * (z @ norm).mean()
    return loss, z, (gz.T @ c, g_dec, gz.sum(0), g.sum(0) - gz.sum(0) @ encoder)


def auxk_step(x, encoder, decoder, b_enc, b_dec, missing, dead, k, alpha):
    """α mean ‖e' - e‖² with the k most active of the dead features, and its gradients (Gao et al. 2024, A.2)."""
    c = x - b_dec
    pre = np.where(dead, c @ encoder.T + b_enc, -np.inf)
    keep = dead & (pre >= np.sort(pre, axis=1)[:, -k][:, None])
    z = np.where(keep, np.maximum(pre, 0), 0)
    off = z @ decoder - missing
    g = 2 * alpha * off / len(x)
    gz = (g @ decoder.T) * (z > 0)
    return alpha * (off**2).sum() / len(x), (gz.T @ c, z.T @ g, gz.sum(0), -gz.sum(0) @ encoder)


def fvu(x, recon):
    """Fraction of variance unexplained."""
    return ((x - recon) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
