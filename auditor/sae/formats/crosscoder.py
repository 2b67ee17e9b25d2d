"""Crosscoders of two models as ckkissane's trainer keeps them: cfg.json + cc_weights.pt, opened in a jailed child; read
only.

W_enc is [n_models, d_in, d_h] and W_dec [d_h, n_models, d_in]; it is a ReLU dictionary that does not subtract b_dec.
Activations of each model are multiplied by sqrt(d_in) / their mean norm first; the files do not tell the factors, so
the weights are for scaled activations unless `scale_factors` stands in cfg.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from auditor.base.errors import AuditorError
from auditor.intake.pickled import read_pickle
from auditor.sae import conventions
from auditor.sae.formats.folder import check_tensors, expect, expect_matrices, expect_vectors, read_config
from auditor.sae.formats.format import Format
from auditor.sae.sae import Original, Sae

CONFIG, WEIGHTS = "cfg.json", "cc_weights.pt"
_WANTED = {"W_enc", "b_enc", "W_dec", "b_dec"}


def read(path: Path) -> Sae:
    """The crosscoder in the folder `path`: the activations of its models side by side."""
    config = read_config(path, WEIGHTS)
    stored, _ = read_pickle(path / WEIGHTS, inside=("state_dict",))
    check_tensors(WEIGHTS, stored)
    expect(path.name, stored, _WANTED, "a crosscoder")
    t = {name: tensor.float() for name, tensor in stored.items()}
    if t["W_enc"].ndim != 3 or t["W_dec"].ndim != 3 or t["b_dec"].ndim != 2:
        raise AuditorError(
            f"“{path.name}”: W_enc {list(t['W_enc'].shape)} and W_dec {list(t['W_dec'].shape)} are no crosscoder's.",
            "They are [n_models, d_in, d_h] and [d_h, n_models, d_in].",
        )
    models, width, d_sae = t["W_enc"].shape
    weights = {"W_enc": t["W_enc"].reshape(models * width, d_sae), "b_enc": t["b_enc"]}
    weights |= {"W_dec": t["W_dec"].reshape(len(t["W_dec"]), -1), "b_dec": t["b_dec"].reshape(-1)}
    expect_matrices(path.name, weights["W_enc"], weights["W_dec"], "W_enc is [n_models, d_in, d_h].")
    expect_vectors(path.name, weights)
    weights = conventions.input_not_centred(weights)
    factors = config.get("scale_factors")
    if isinstance(factors, list) and len(factors) == models and all(isinstance(f, int | float) for f in factors):
        each = torch.tensor([float(f) for f in factors]).repeat_interleave(width)
        weights |= {"W_enc": weights["W_enc"] * each[:, None], "W_dec": weights["W_dec"] / each}
        weights["b_dec"] = weights["b_dec"] / each
    point = str(config.get("hook_point") or "")
    names = [
        str(config.get(f"model_{letter}") or f"model {number}") for number, letter in enumerate("abcdefgh"[:models])
    ]
    sources = tuple((f"{name}: {point}" if point else name, width) for name in names)
    origin: dict[str, Any] = {"format": "crosscoder", "hook_name": point, "models": names}
    meta = {"origin": origin | ({} if factors else {"scaled": "each model's activations to mean norm sqrt(d_in)"})}
    fields: dict[str, Any] = {"hook": ", ".join(name for name, _ in sources), "sources": sources, "meta": meta}
    sae = Sae("relu", path=path, **(fields | weights))
    sae.original = Original("crosscoder", config)
    return sae


def _recognised(path: Path) -> bool:
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


FORMAT = Format("crosscoder", "crosscoder folder", _recognised, read)
