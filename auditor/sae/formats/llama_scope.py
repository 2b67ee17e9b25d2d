"""Llama Scope (He et al. 2024): hyperparams.json + checkpoints/final.safetensors; read only.

It is made for activations of mean norm sqrt(d): with s = sqrt(d) / the stated mean norm, of input and output each, the
tool divides encoder.bias by s_in, decoder.bias by s_out and multiplies the decoder by s_in / s_out; activations are
then on the raw scale, for which the one `jump_relu_threshold` holds. b_dec is not subtracted from the input.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from auditor.base.errors import AuditorError
from auditor.sae import conventions
from auditor.sae.formats.folder import (
    expect,
    expect_matrices,
    expect_stated,
    expect_vectors,
    read_json,
    read_tensors,
    turned,
    whole_number,
)
from auditor.sae.formats.format import Format
from auditor.sae.sae import Original, Sae

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
_WANTED = {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}


def read(path: Path) -> Sae:
    """The dictionary in the folder `path`. AuditorError for gated encoders and for norms of single rows."""
    if not (path / CONFIG).is_file() or not (path / WEIGHTS).is_file():
        raise AuditorError(f"“{path.name}” is not of Llama Scope: it needs {CONFIG} and {WEIGHTS}.", "")
    config = read_json(path / CONFIG)
    stored = read_tensors(path / WEIGHTS)
    expect(path.name, stored, _WANTED, "a dictionary of Llama Scope")
    t = {name: tensor.float() for name, tensor in stored.items()}
    W_enc, W_dec = turned(path.name, t, "encoder.weight"), turned(path.name, t, "decoder.weight")
    expect_matrices(path.name, W_enc, W_dec, "encoder.weight is [d_sae, d] and decoder.weight [d, d_sae].", same=False)
    d_in, d_sae = W_enc.shape
    expect_stated(path.name, config, d_model=d_in, d_sae=d_sae)
    scale_in, scale_out = (_scale(path.name, config, side, d_in) for side in ("in", "out"))
    weights = {"W_enc": W_enc, "b_enc": t["encoder.bias"] / scale_in, "W_dec": W_dec * (scale_in / scale_out)}
    weights["b_dec"] = t["decoder.bias"] / scale_out
    expect_vectors(path.name, weights)
    hook, hook_out = (str(config.get(f"hook_point_{side}") or "") for side in ("in", "out"))
    fields: dict[str, Any] = {"hook": hook, "hook_out": hook_out if hook_out != hook else ""}
    if not fields["hook_out"] and config.get("apply_decoder_bias_to_pre_encoder") is not True:
        weights = conventions.input_not_centred(weights)
    if config.get("sparsity_include_decoder_norm", True):
        weights = conventions.decoder_norms_in_activations(weights)
    fields |= _activation(path.name, config, d_sae)
    origin = {"format": "llama_scope", "hook_name": hook, "k": config.get("top_k")}
    meta = {"origin": {key: value for key, value in origin.items() if value is not None}}
    sae = Sae(meta=meta, path=path, **(fields | weights))
    sae.original = Original("llama_scope", config)
    return sae


def _scale(name: str, config: dict[str, Any], side: str, d_in: int) -> float:
    if config.get("norm_activation", "dataset-wise") in ("inference", "none"):
        return 1.0
    if config.get("norm_activation", "dataset-wise") != "dataset-wise":
        raise AuditorError(f"“{name}” normalises by {config['norm_activation']}, which is not read.", "")
    means = config.get("dataset_average_activation_norm")
    mean = means.get(side) if isinstance(means, dict) else None
    if isinstance(mean, bool) or not isinstance(mean, int | float) or not 0 < mean < 1e30:
        raise AuditorError(f"{CONFIG} in “{name}” states no mean norm of its {side}put.", "Get the files again.")
    return float(d_in**0.5 / mean)


def _activation(name: str, config: dict[str, Any], d_sae: int) -> dict[str, Any]:
    if config.get("use_glu_encoder"):
        raise AuditorError(f"“{name}” has a gated linear encoder, which is not read.", "Choose another dictionary.")
    kind = config.get("act_fn", "jumprelu")
    if kind == "topk":
        return {"arch": "topk", "k": whole_number(name, config, "top_k")}
    threshold = config.get("jump_relu_threshold", 0.0)
    if kind not in ("jumprelu", "relu") or isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise AuditorError(f"“{name}” uses the activation {kind} ({threshold!r}), which is not read.", "")
    if kind == "relu":
        return {"arch": "relu"}
    return {"arch": "jumprelu", "threshold": torch.full((d_sae,), max(0.0, float(threshold)))}


def _recognised(path: Path) -> bool:
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


FORMAT = Format("llama_scope", "Llama Scope folder", _recognised, read)
