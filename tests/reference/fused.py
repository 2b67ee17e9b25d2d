"""The fused TopK step in numpy and float64, with bfloat16 where the step rounds to it, and nothing clever."""

from __future__ import annotations

import numpy as np


def half(a):
    """To the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(a, dtype=np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def active(scores, k):
    """The k largest of each row if positive, ties to the left, as a dense matrix."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    z = np.zeros_like(scores)
    np.put_along_axis(z, order, np.maximum(np.take_along_axis(scores, order, 1), 0), 1)
    return z


def gradients(p, x, k, dead, alpha, aux_rows):
    """Mean ‖x' - x‖² + α ‖e' - e‖² and its gradients (Gao et al. 2024); p: encoder, decoder, b_enc, b_dec."""
    encoder, decoder = half(p["encoder"]), half(p["decoder"])
    c = half(x - p["b_dec"])
    z = active(half(c @ encoder.T + half(p["b_enc"])), k)
    off = z @ decoder + p["b_dec"] - x
    g = half(2 * off / len(x))
    gz = (g @ decoder.T) * (z > 0)
    out = {"encoder": gz.T @ c, "decoder": z.T @ g, "b_enc": gz.sum(0), "b_dec": g.sum(0)}
    loss = (off**2).sum() / len(x)
    if dead.any() and alpha:
        c, e = c[:aux_rows], -off[:aux_rows]
        pre = np.where(dead, half(c @ encoder.T + half(p["b_enc"])), 0)
        za = active(pre, max(1, x.shape[1] // 2))
        miss = half(za @ decoder) - e
        ga = half(2 * alpha * miss / len(e))
        gza = half(ga @ decoder.T) * (za > 0)
        loss += alpha * (miss**2).sum() / len(e)
        out["encoder"] += half(gza.T @ c)
        out["decoder"] += half(za.T @ ga)
        out["b_enc"] += gza.sum(0)
    out["b_dec"] -= out["b_enc"] @ encoder
    out["decoder"] -= p["decoder"] * (out["decoder"] * p["decoder"]).sum(1, keepdims=True)
    return loss, z, out


def adam(p, g, m, v, t, lr, betas=(0.9, 0.999), eps=1e-8):
    """Step t (from 1) of Kingma & Ba 2015 on one tensor."""
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g**2
    return p - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps), m, v
