"""One Llama block as a linear map of the residual stream around given values: numpy, float64, no gradients."""

from __future__ import annotations

import numpy as np


def rotate(x, theta):
    half, positions = x.shape[-1] // 2, np.arange(x.shape[0])
    angle = positions[:, None] * theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def block_map(weights, x, change, *, heads, kv_heads, theta, eps):
    """What `change` [P, d] in the block's input adds to its output, with patterns, norms and gates as they are at x."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}

    def norm(values, at, gain):  # denominator held fixed at `at`
        return gain * values / np.sqrt((at**2).mean(-1, keepdims=True) + eps)

    n, d = x.shape
    size = d // heads
    h, dh = (norm(v, x, w["input_layernorm"]) for v in (x, change))
    q = rotate((h @ w["q_proj"].T).reshape(n, heads, size), theta)
    k = np.repeat(rotate((h @ w["k_proj"].T).reshape(n, kv_heads, size), theta), heads // kv_heads, 1)
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(size) + np.triu(np.full((n, n), -1e30), 1)
    pattern = np.exp(scores - scores.max(-1, keepdims=True))
    pattern /= pattern.sum(-1, keepdims=True)

    def attend(values):
        v = np.repeat((values @ w["v_proj"].T).reshape(n, kv_heads, size), heads // kv_heads, 1)
        return np.einsum("hqk,khd->qhd", pattern, v).reshape(n, d) @ w["o_proj"].T

    middle, change = x + attend(h), change + attend(dh)
    m, dm = (norm(v, middle, w["post_attention_layernorm"]) for v in (middle, change))
    gate, up = m @ w["gate_proj"].T, m @ w["up_proj"].T
    opened = 1 / (1 + np.exp(-gate))  # silu(x) / x
    d_gate, d_up = dm @ w["gate_proj"].T, dm @ w["up_proj"].T
    product = 0.5 * (opened * d_gate * up + opened * gate * d_up)  # half rule
    return change + product @ w["down_proj"].T
