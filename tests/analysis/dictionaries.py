"""Dictionaries for tests, made from a model's own activations without training."""

from __future__ import annotations

import torch

from auditor.data.sample import text_sample
from auditor.sae import Sae

TEXTS = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))",
    "It was raining all day, so we stayed at home and played cards with our cousins.",
    "Water boils at one hundred degrees; ice melts at zero. Both depend on the pressure.",
    "SELECT name FROM users WHERE id = 7; -- the password is stored elsewhere",
    "Once upon a time there was a fox who could not find the way back to the forest.",
)


def activation_rows(model, hook, texts=TEXTS):
    """Residual rows [n, width] of some texts, without the first position of each."""
    inputs = model.encode([text_sample(text) for text in texts])
    run = model.run(inputs, record=[hook], logits=False)
    keep = inputs.mask.clone()
    keep[:, 0] = False
    return run.rows(hook)[keep]


def activation_dictionary(model, hook, d_sae=256, k=8, seed=0, arch="topk"):
    """Decoder rows are activations (less their mean) of length 1 with noise; the encoder is their transpose."""
    generator = torch.Generator().manual_seed(seed)
    rows = activation_rows(model, hook)
    mean = rows.mean(0)
    picked = (rows - mean)[torch.randint(len(rows), (d_sae,), generator=generator)]
    noise = torch.randn(picked.shape, generator=generator) * picked.std() * 0.7
    decoder = torch.nn.functional.normalize(picked + noise, dim=1)
    bias = torch.randn(d_sae, generator=generator) * 0.1
    sparse = {"arch": "topk", "k": k} if arch == "topk" else {"arch": "relu"}
    if arch == "relu":  # fires on few rows only, as a trained one does
        pre = (rows - mean) @ decoder.T
        bias = -pre.quantile(1 - k / d_sae, dim=0)
    return Sae(W_enc=decoder.T.contiguous(), W_dec=decoder, b_enc=bias, b_dec=mean, hook=hook, **sparse)
