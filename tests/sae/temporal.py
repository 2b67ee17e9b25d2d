"""Temporal dictionaries of random weights."""

from __future__ import annotations

import torch

from auditor.sae.context import PROJECTIONS, Context
from auditor.sae.sae import Sae

HEADS, BOTTLENECK = 2, 4


def context(d_in, d_sae, layers=1, seed=0, **more):
    """Attention of random weights, large enough to matter."""
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        for name in PROJECTIONS:
            size = d_sae // BOTTLENECK if name in ("q_target", "k_ctx") else d_sae
            tensors[f"attn_layers.{layer}.{name}.weight"] = torch.randn(size, d_sae, generator=g) * 2 * d_sae**-0.5
            tensors[f"attn_layers.{layer}.{name}.bias"] = torch.randn(size, generator=g) * 0.1
    return Context(tensors, HEADS, 1 / (4 * d_in), **more)


def temporal(d_in, d_sae=32, k=4, layers=1, seed=0, **more):
    """A whole dictionary; `more` are further fields of `Sae`."""
    g = torch.Generator().manual_seed(seed + 1)
    W_dec = torch.randn(d_sae, d_in, generator=g)
    b_dec = torch.randn(d_in, generator=g) * 0.1
    found = {"context": context(d_in, d_sae, layers, seed)} | more
    return Sae("topk", W_dec.T.contiguous(), W_dec, torch.zeros(d_sae), b_dec, k=k, **found)


def attention_of(context, layer=0):
    """As `tests.reference.temporal` takes it."""
    named = [f"attn_layers.{layer}.{name}" for name in PROJECTIONS]
    return tuple(context.tensors[f"{name}.{part}"].double().numpy() for name in named for part in ("weight", "bias"))
