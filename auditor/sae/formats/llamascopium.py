"""OpenMOSS' Llamascopium folders (config.json + sae_weights.safetensors); read only.

W_E is [d, d_sae] and W_D [d_sae, d]; a crosscoder's have a leading axis of heads (hook points), whose pre-activations
are summed. b_D is not subtracted from the input. With `sparsity_include_decoder_norm` a pre-activation is multiplied
by its decoder's norm before the activation function and divided after it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae import conventions
from auditor.sae.conventions import Weights
from auditor.sae.formats.folder import expect, expect_matrices, expect_vectors, read_config, read_tensors, whole_number
from auditor.sae.formats.format import Format
from auditor.sae.sae import Normalise, Original, Sae

CONFIG, WEIGHTS = "config.json", "sae_weights.safetensors"
_WANTED = {"W_E", "b_E", "W_D"}
_THRESHOLD = "activation_function.log_jumprelu_threshold"
_NORM = "dataset_average_activation_norm."


def read(path: Path) -> Sae:
    """The dictionary in the folder `path`: an autoencoder, a transcoder, or a crosscoder of hook points side by side.

    AuditorError for gated encoders, activation functions over a batch, attention dictionaries (lorsa), and for a
    crosscoder whose gate differs between heads.
    """
    config = read_config(path, WEIGHTS, CONFIG)
    name, kind = path.name, str(config.get("sae_type", "sae"))
    if kind not in ("sae", "crosscoder") or config.get("use_glu_encoder"):
        what = "a gated linear encoder" if config.get("use_glu_encoder") else f"of the type “{kind}”"
        raise AuditorError(f"“{name}” is {what}, which is not read.", "Autoencoders and crosscoders can be opened.")
    stored = read_tensors(path / WEIGHTS)
    norms = {key.removeprefix(_NORM): float(value) for key, value in stored.items() if key.startswith(_NORM)}
    t = {key: tensor.float() for key, tensor in stored.items() if not key.startswith(_NORM)}
    expect(name, t, _WANTED, "a dictionary of Llamascopium", {"b_D", _THRESHOLD})
    fields = _crosscoder(name, config, t, norms) if kind == "crosscoder" else _autoencoder(name, config, t, norms)
    origin = {"format": "llamascopium", "hook_name": fields["hook"], "k": config.get("top_k")}
    meta = {"origin": {key: value for key, value in origin.items() if value is not None}}
    sae = Sae(meta=meta, path=path, **fields)
    sae.original = Original("llamascopium", config)
    return sae


def _autoencoder(name: str, config: dict[str, Any], t: Weights, norms: dict[str, float]) -> dict[str, Any]:
    said = "W_E is [d, d_sae] and W_D [d_sae, d] in this format."
    hook, hook_out = (str(config.get(f"hook_point_{side}") or "") for side in ("in", "out"))
    transcodes = hook_out not in ("", hook)
    expect_matrices(name, t["W_E"], t["W_D"], said, same=not transcodes)
    d_in, d_out = t["W_E"].shape[0], t["W_D"].shape[1]
    normalise, scale_in, scale_out = _scales(name, config, norms, (hook, hook_out or hook), d_in)
    weights = {"W_enc": t["W_E"], "b_enc": t["b_E"] / scale_in, "W_dec": t["W_D"] * (scale_in / scale_out)}
    weights["b_dec"] = t.get("b_D", torch.zeros(d_out)) / scale_out
    expect_vectors(name, weights)
    if not transcodes:
        weights = conventions.input_not_centred(weights)
    norm = t["W_D"].norm(dim=1) if config.get("sparsity_include_decoder_norm", True) else None
    fields: dict[str, Any] = {"hook": hook, "hook_out": hook_out if transcodes else "", "normalise": normalise}
    # The threshold is of the tool's own scale, on which pre-activations are scale_in times as large.
    return fields | _activated(name, config, t, weights, norm, scale_in)


def _crosscoder(name: str, config: dict[str, Any], t: Weights, norms: dict[str, float]) -> dict[str, Any]:
    listed = config.get("hook_points")
    hooks = [str(hook) for hook in listed] if isinstance(listed, list) else []
    if t["W_E"].ndim != 3 or t["W_D"].ndim != 3 or t["b_E"].shape != (len(t["W_E"]), t["W_E"].shape[2]):
        raise AuditorError(f"“{name}”: W_E {list(t['W_E'].shape)} is no crosscoder's.", "It is [heads, d, d_sae].")
    heads, width, d_sae = t["W_E"].shape
    hooks = hooks if len(hooks) == heads else [f"head {head}" for head in range(heads)]
    scales = [_scales(name, config, norms, (hook, hook), width)[1] for hook in hooks]
    factor = torch.tensor(scales).repeat_interleave(width)
    W_enc = (t["W_E"].reshape(heads * width, d_sae)) * factor[:, None]
    if t["W_D"].shape != (heads, d_sae, width) or t.get("b_D", t["W_D"][:, 0]).shape != (heads, width):
        raise AuditorError(
            f"“{name}”: W_E {list(t['W_E'].shape)} and W_D {list(t['W_D'].shape)} do not fit.",
            "W_E is [heads, d, d_sae], W_D [heads, d_sae, d] and b_D [heads, d].",
        )
    W_dec = t["W_D"].permute(1, 0, 2).reshape(d_sae, -1) / factor
    b_dec = t.get("b_D", torch.zeros(heads, width)).reshape(-1) / factor
    weights = {"W_enc": W_enc, "b_enc": t["b_E"].sum(0), "W_dec": W_dec, "b_dec": b_dec}
    expect_vectors(name, weights)
    weights = conventions.input_not_centred(weights)
    norm = t["W_D"].norm(dim=2)
    if config.get("act_fn", "relu") != "relu" and not torch.allclose(norm, norm[:1].expand_as(norm), rtol=1e-4):
        raise AuditorError(
            f"“{name}” gates each feature anew for every hook point, since its decoders' norms differ there.",
            "Only crosscoders with ReLU, or with the same norms everywhere, have one activation a feature.",
        )
    found = {"hook": ", ".join(hooks), "sources": tuple((hook, width) for hook in hooks)}
    return found | _activated(name, config, t, weights, norm[0], 1.0)


def _activated(
    name: str, config: dict[str, Any], t: Weights, weights: Weights, norm: Tensor | None, scale: float
) -> dict[str, Any]:
    """Weights with the activation function, which sees pre-activations times `norm` on the tool's own scale."""
    kind = config.get("act_fn", "relu")
    if kind == "relu":
        return {"arch": "relu"} | weights
    if kind == "topk":
        gated = weights if norm is None else conventions.decoder_norms_in_activations(weights)
        return {"arch": "topk", "k": whole_number(name, config, "top_k")} | gated
    if kind != "jumprelu" or _THRESHOLD not in t:
        raise AuditorError(
            f"“{name}” uses the activation {kind}, which is not read.", "relu, topk and jumprelu can be opened."
        )
    threshold = t[_THRESHOLD].exp().reshape(-1)
    if threshold.shape != weights["b_enc"].shape:
        raise AuditorError(f"“{name}”: its thresholds have the shape {list(t[_THRESHOLD].shape)}.", "Get them again.")
    threshold = threshold / scale if norm is None else threshold / norm.clamp_min(1e-12) / scale
    return {"arch": "jumprelu", "threshold": threshold} | weights


def _scales(
    name: str, config: dict[str, Any], norms: dict[str, float], hooks: tuple[str, str], width: int
) -> tuple[Normalise, float, float]:
    """What is done to each row, and the factors that bring input and output to mean norm sqrt(width)."""
    kind = config.get("norm_activation", "dataset-wise")
    if kind == "inference":
        return "none", 1.0, 1.0
    if kind == "token-wise" and hooks[0] == hooks[1]:
        return "constant_norm", 1.0, 1.0
    found = [norms.get(hook, 0.0) for hook in hooks]
    if kind != "dataset-wise" or not all(0 < norm < 1e30 for norm in found):
        raise AuditorError(
            f"“{name}” normalises its input ({kind}), and the mean norms for that are not there.",
            "Save it with fold_activation_scale=True.",
        )
    return "none", width**0.5 / found[0], width**0.5 / found[1]


def _recognised(path: Path) -> bool:
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file() and not (path / "cfg.json").is_file()


FORMAT = Format("llamascopium", "Llamascopium folder", _recognised, read)
