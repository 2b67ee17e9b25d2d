"""SAELens' temporal dictionaries: their settings and tensors, and how they become a `Sae` with a `Context` and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae.context import LEAST_NORM, PROJECTIONS, Context
from auditor.sae.conventions import Weights
from auditor.sae.formats.folder import expect, expect_matrices, expect_stated, turned, whole_number
from auditor.sae.sae import Sae

_SAID = "W_enc is [d_in, d_sae] and W_dec [d_sae, d_in] in this format; attention works on d_sae / bottleneck_factor."

_NORMALISE = {
    "none": "none", "expected_average_only_in": "none", "constant_scalar_rescale": "none", "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm",
}  # fmt: skip


def temporal_fields(name: str, config: dict[str, Any], facts: dict[str, Any], tensors: Weights) -> dict[str, Any]:
    """Fields of the `Sae` in the folder `name`; `facts` are what our own files say beside the format's settings.

    A factor on the input (`constant_scalar_rescale`) is folded in. AuditorError where settings and tensors do not fit.
    """
    tied, heads = bool(config.get("tied_weights", True)), whole_number(name, config, "n_heads")
    layers = whole_number(name, config, "n_attn_layers")
    own = {part: tensors[part] for part in tensors if part.startswith("attn_layers.")}
    parts = ("weight", "bias")
    named = {f"attn_layers.{i}.{each}.{part}" for i in range(min(layers, 64)) for each in PROJECTIONS for part in parts}
    wanted = {"W_dec", "b_dec", *named} | (set() if tied else {"W_enc"})
    expect(name, tensors, wanted, f"a temporal dictionary of {layers} layers")
    W_dec, b_dec = tensors["W_dec"], tensors["b_dec"]
    W_enc = turned(name, tensors, "W_dec") if tied else tensors["W_enc"]
    expect_matrices(name, W_enc, W_dec, _SAID)
    d_in, d_sae = W_enc.shape
    expect_stated(name, config, d_in=d_in, d_sae=d_sae)
    _check_attention(name, own, d_sae, heads, whole_number(name, config, "bottleneck_factor"))
    if b_dec.shape != (d_in,):
        raise AuditorError(f"“{name}”: b_dec has shape {list(b_dec.shape)}, not [{d_in}].", _SAID)
    on_input = bool(config.get("apply_b_dec_to_input", True))
    if tied and not on_input:  # then the tool leaves it out of the output too
        b_dec, on_input = torch.zeros(d_in), True
    scale, factor = 1 / (4 * d_in), _factor(name, config)
    W_enc, W_dec, b_dec = W_enc * factor, W_dec / factor, b_dec / factor
    # One that is not subtracted from the input is added to it again.
    b_enc, offset = (torch.zeros(d_sae), None) if on_input else ((b_dec * scale) @ W_enc, b_dec)
    least = _number(name, "least_norm", facts.get("least_norm", LEAST_NORM)) / factor
    return {
        **_activation(name, config, d_sae), "W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec,
        "normalise": _normalise(name, config), "context": Context(own, heads, scale, offset, least),
    }  # fmt: skip


def temporal_stored(sae: Sae) -> dict[str, Tensor]:
    """The tensors as SAELens names them, the encoder's too where it is tied."""
    assert sae.context is not None
    return {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec, **sae.context.tensors}


def temporal_settings(sae: Sae) -> dict[str, Any]:
    """What the settings say beside what they say of every dictionary."""
    assert sae.context is not None
    width = len(sae.context.tensors["attn_layers.0.q_target.weight"])
    return {
        "apply_b_dec_to_input": sae.context.offset is None, "n_heads": sae.context.heads,
        "n_attn_layers": sae.context.layers, "bottleneck_factor": sae.d_sae // width,
        "sae_diff_type": "relu" if sae.k is None else "topk", "kval_topk": sae.k, "tied_weights": is_tied(sae),
        "activation_normalization_factor": 1.0,
    }  # fmt: skip


def is_tied(sae: Sae) -> bool:
    """Whether its encoder is its decoder, and so need not be kept."""
    assert sae.context is not None
    return sae.context.offset is None and torch.equal(sae.W_enc, sae.W_dec.T)


def _activation(name: str, config: dict[str, Any], d_sae: int) -> dict[str, Any]:
    kind = config.get("sae_diff_type", "topk")
    if kind not in ("topk", "relu"):
        raise AuditorError(f"“{name}”: sae_diff_type is {kind!r}, neither topk nor relu.", "Get the files again.")
    if kind == "relu" or config.get("kval_topk") is None:
        return {"arch": "relu"}
    return {"arch": "topk", "k": min(whole_number(name, config, "kval_topk"), d_sae)}


def _normalise(name: str, config: dict[str, Any]) -> str:
    asked = config.get("normalize_activations") or "none"
    if asked not in _NORMALISE:
        raise AuditorError(f"“{name}” normalises its input in an unknown way ({asked}).", "Get the files again.")
    return _NORMALISE[asked]


def _factor(name: str, config: dict[str, Any]) -> float:
    """What the input is multiplied by."""
    if config.get("normalize_activations") != "constant_scalar_rescale":
        return 1.0
    return _number(name, "activation_normalization_factor", config.get("activation_normalization_factor", 1.0))


def _number(name: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-30 < value < 1e30:
        raise AuditorError(f"“{name}”: {key} is {value!r}, not a number above 0.", "Get the files again.")
    return float(value)


def _check_attention(name: str, tensors: Weights, d_sae: int, heads: int, bottleneck: int) -> None:
    if d_sae % (bottleneck * heads):
        raise AuditorError(
            f"“{name}”: {d_sae} features do not divide into a bottleneck of {bottleneck} and {heads} heads.", _SAID
        )
    narrow = d_sae // bottleneck
    for key, tensor in tensors.items():
        rows = narrow if ".q_target." in key or ".k_ctx." in key else d_sae
        wanted = [rows] if key.endswith("bias") else [rows, d_sae]
        if list(tensor.shape) != wanted:
            raise AuditorError(f"“{name}”: {key} has shape {list(tensor.shape)}, not {wanted}.", _SAID)
