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


def relu_step(x, encoder, decoder, b_enc, b_dec, l1, power=1.0, widths=()):
    """Mean ‖x' - x‖² + l1 Σ z_i^p w_i, and its gradients (Conerly et al. 2024; p: Karvonen et al. 2024); w is ‖d_i‖, or
    the sum of the norms of the parts of d_i that `widths` cuts (Lindsey et al. 2024)."""
    c = x - b_dec
    z = np.maximum(c @ encoder.T + b_enc, 0)
    parts = np.split(decoder, np.cumsum(widths)[:-1], axis=1) if len(widths) else [decoder]
    norms = [np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    norm = np.concatenate(norms, axis=1).sum(1)
    e = z @ decoder + b_dec - x
    g = 2 * e / len(x)
    with np.errstate(divide="ignore"):
        slope = np.where(z > 0, power * z ** (power - 1), 0)
    gz = (g @ decoder.T) * (z > 0) + l1 * norm / len(x) * slope
    units = np.concatenate([part / of for part, of in zip(parts, norms, strict=True)], axis=1)
    g_dec = z.T @ g + l1 * (z**power).mean(0)[:, None] * units
    loss = (e**2).sum() / len(x) + l1 * (z**power @ norm).mean()
    return loss, z, (gz.T @ c, g_dec, gz.sum(0), g.sum(0) - gz.sum(0) @ encoder)


def batchtopk_step(x, encoder, decoder, b_enc, b_dec, k, widths=None):
    """Mean ‖x' - x‖² with the B k largest of the batch active, averaged over nested `widths` (Bussmann et al. 2024,
    2025), and its gradients."""
    c = x - b_dec
    pre = c @ encoder.T + b_enc
    z = np.where(pre >= np.sort(pre, axis=None)[-len(x) * k], np.maximum(pre, 0), 0)
    widths = widths or [len(decoder)]
    loss, gz, g_dec, g_out = 0.0, np.zeros_like(z), np.zeros_like(decoder), 0.0
    for w in widths:
        e = z[:, :w] @ decoder[:w] + b_dec - x
        g = 2 * e / len(x) / len(widths)
        loss += (e**2).sum() / len(x) / len(widths)
        gz[:, :w] += (g @ decoder[:w].T) * (z[:, :w] > 0)
        g_dec[:w] += z[:, :w].T @ g
        g_out = g_out + g.sum(0)
    return loss, z, (gz.T @ c, g_dec, gz.sum(0), g_out - gz.sum(0) @ encoder)


def gated_step(x, encoder, decoder, b_gate, b_dec, r_mag, b_mag, l1):
    """Rajamanoharan et al. 2024, eq. 8, and its gradients to all six; the gate's reconstruction has a fixed decoder."""
    c = x - b_dec
    shared = c @ encoder.T
    gate, mag = np.maximum(shared + b_gate, 0), shared * np.exp(r_mag) + b_mag
    z = np.maximum(mag, 0) * (gate > 0)
    e, through = z @ decoder + b_dec - x, gate @ decoder + b_dec - x
    g, g_through = 2 * e / len(x), 2 * through / len(x)
    gz, gg = (g @ decoder.T) * (z > 0), (g_through @ decoder.T + l1 / len(x)) * (gate > 0)
    gs = gz * np.exp(r_mag) + gg
    loss = ((e**2).sum() + (through**2).sum() + l1 * gate.sum()) / len(x)
    to_r = (gz * shared * np.exp(r_mag)).sum(0)
    return loss, z, (gs.T @ c, z.T @ g, gg.sum(0), g.sum(0) - gs.sum(0) @ encoder, to_r, gz.sum(0))


def jumprelu_step(x, encoder, decoder, b_enc, b_dec, log_threshold, width, dead, revive, step=None, tanh=None):
    """Mean ‖x' - x‖² + S + revive Σ_dead ReLU(θ - π) ‖d‖ and its gradients, with a jump as wide as `width`.

    step(l0) gives (S, dS/dl0) of the mean count, of which thresholds learn alone, if `tanh` is None (Rajamanoharan et
    al. 2024, eq. 9 to 12); else S = tanh Σ tanh(4 z ‖d‖) unless `step` is given too, and the jump's gradient reaches π
    (Conerly et al. 2025)."""
    c, t, n = x - b_dec, np.exp(log_threshold), len(x)
    pre = c @ encoder.T + b_enc
    on, near = pre > t, (np.abs(pre - t) < width / 2) / width
    z, norm = pre * on, np.linalg.norm(decoder, axis=1)
    e = z @ decoder + b_dec - x
    g = 2 * e / n
    gz, g_dec, at_jump = g @ decoder.T, z.T @ g, 0.0
    if step is not None:
        penalty, slope = step(on.sum(1).mean())
        at_jump = slope / n * near
    else:
        bent = np.tanh(4 * z * norm)
        penalty = tanh * bent.sum(1).mean()
        gz = gz + 4 * tanh / n * norm * (1 - bent**2)
        g_dec = g_dec + 4 * tanh * (z * (1 - bent**2)).mean(0)[:, None] * decoder / norm[:, None]
    at_jump = at_jump + gz * near * t
    short = np.maximum(t - pre, 0) * dead
    pulled = revive * norm * dead * (t > pre) / n
    gp = gz * on - pulled + (0 if tanh is None else at_jump)
    g_dec = g_dec + revive * short.mean(0)[:, None] * decoder / norm[:, None]
    loss = (e**2).sum() / n + penalty + revive * (short @ norm).mean()
    to_t = ((pulled - at_jump).sum(0)) * t
    return loss, z, (gp.T @ c, g_dec, gp.sum(0), g.sum(0) - gp.sum(0) @ encoder, to_t)


def pursuit_step(x, decoder, b_dec, k):
    """Mean ‖r_k‖² after k rounds of matching pursuit, and its gradients to decoder and b_dec (Costa et al. 2025)."""
    r, taken = [x - b_dec], []
    for _ in range(k):
        scores = r[-1] @ decoder.T
        i = scores.argmax(1)
        v = np.maximum(scores.max(1), 0)
        taken.append((i, v))
        r.append(r[-1] - v[:, None] * decoder[i])
    g, g_dec = 2 * r[-1] / len(x), np.zeros_like(decoder)
    for (i, v), before in zip(taken[::-1], r[-2::-1], strict=True):
        gv = -(g * decoder[i]).sum(1) * (v > 0)
        np.add.at(g_dec, i, gv[:, None] * before - v[:, None] * g)
        g = g + gv[:, None] * decoder[i]
    z = np.zeros((len(x), len(decoder)))
    for i, v in taken:
        z[np.arange(len(x)), i] += v
    return (r[-1] ** 2).sum() / len(x), z, (g_dec, -g.sum(0))


def transcoder_step(x, y, encoder, decoder, b_enc, b_dec, k, skip=None):
    """Mean ‖y' - y‖² with the k largest active and x not centred, and its gradients to encoder, decoder, b_enc, b_dec
    and `skip` (Dunefsky et al. 2024, Paulo et al. 2025)."""
    pre = x @ encoder.T + b_enc
    z = np.where(pre >= np.sort(pre, axis=1)[:, -k][:, None], np.maximum(pre, 0), 0)
    e = z @ decoder + b_dec - y + (0 if skip is None else x @ skip)
    g = 2 * e / len(x)
    gz = (g @ decoder.T) * (z > 0)
    return (e**2).sum() / len(x), z, (gz.T @ x, z.T @ g, gz.sum(0), g.sum(0), x.T @ g)


def clt_step(x, y, encoder, decoder, b_enc, b_dec, log_threshold, layers, width, l1, dead, revive):
    """Mean Σ_l ‖y'_l - y_l‖² + l1 Σ tanh(4 z ‖d‖) + revive Σ_dead ReLU(θ - π) ‖d‖ and its gradients, the jump `width`
    wide (Ameisen et al. 2025); feature (l, i) owns layers - l rows of `decoder`, in the order of l, i, output."""
    n, m, t = len(x), len(encoder) // layers, np.exp(log_threshold)
    xs, e = np.split(x, layers, 1), b_dec - y
    owner = np.concatenate([np.repeat(np.arange(m) + m * j, layers - j) for j in range(layers)])
    out = np.concatenate([np.tile(np.arange(j, layers), m) for j in range(layers)])
    pre = np.concatenate([xs[j] @ encoder[j * m : (j + 1) * m].T for j in range(layers)], 1) + b_enc
    z, near = pre * (pre > t), (np.abs(pre - t) < width / 2) / width
    norm = np.sqrt(np.bincount(owner, weights=(decoder**2).sum(1)))
    for row in range(len(decoder)):
        e.reshape(n, layers, -1)[:, out[row]] += z[:, owner[row], None] * decoder[row]
    g, bent = 2 * e.reshape(n, layers, -1) / n, np.tanh(4 * z * norm)
    short = np.maximum(t - pre, 0) * dead
    gz = 4 * l1 / n * norm * (1 - bent**2)
    to_norm = 4 * l1 * (z * (1 - bent**2)).mean(0) + revive * short.mean(0)
    g_dec = (to_norm / norm)[owner, None] * decoder
    for row in range(len(decoder)):
        gz[:, owner[row]] += g[:, out[row]] @ decoder[row]
        g_dec[row] += z[:, owner[row]] @ g[:, out[row]]
    pulled, at_jump = revive * norm * dead * (t > pre) / n, gz * near * t
    gp = gz * (pre > t) + at_jump - pulled
    g_enc = np.concatenate([gp[:, j * m : (j + 1) * m].T @ xs[j] for j in range(layers)])
    loss = (e**2).sum() / n + l1 * bent.sum(1).mean() + revive * (short @ norm).mean()
    return loss, z, (g_enc, g_dec, gp.sum(0), g.reshape(n, -1).sum(0), (pulled - at_jump).sum(0) * t)


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


def largest_by_magnitude(pre, k):
    """Which k of each row are largest by magnitude (Zhu et al. 2025)."""
    return np.abs(pre) >= np.sort(np.abs(pre), axis=1)[:, -k][:, None]


def largest_of_groups(pre, k):
    """Which are the largest of each of k groups of neighbours, and above zero."""
    groups = pre.reshape(len(pre), k, -1)
    return ((groups == groups.max(2, keepdims=True)) & (groups > 0)).reshape(pre.shape)


def chosen_step(x, encoder, decoder, b_enc, b_dec, keep):
    """Mean ‖x' - x‖² with the pre-activations active that `keep` chooses, and its gradients."""
    c = x - b_dec
    pre = c @ encoder.T + b_enc
    on = keep(pre)
    z = pre * on
    e = z @ decoder + b_dec - x
    g = 2 * e / len(x)
    gz = (g @ decoder.T) * on
    return (e**2).sum() / len(x), z, (gz.T @ c, z.T @ g, gz.sum(0), g.sum(0) - gz.sum(0) @ encoder)
