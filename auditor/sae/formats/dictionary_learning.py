"""saprmarks' dictionary_learning folders (config.json + ae.pt), read from dictionary-learning 0.1.0.

ae.pt is a torch pickle of a state dictionary; one of an interrupted run holds it under “ae”. It is opened in a jailed
child only. Weights of linear layers are transposed to ours: encoder.weight is [d_sae, d_in], decoder.weight
[d_in, d_sae]. The norm factor is folded in by the tool when a run ends; that of an interrupted run is folded in here.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.intake.pickled import read_pickle
from auditor.sae import conventions
from auditor.sae.conventions import Weights
from auditor.sae.formats.folder import (
    check_tensors,
    config_json,
    expect,
    expect_matrices,
    expect_stated,
    read_config,
    turned,
    write_folder,
)
from auditor.sae.formats.format import Dictionary, Format
from auditor.sae.formats.original import of_format, original, restored
from auditor.sae.sae import Arch, Sae

WEIGHTS, CONFIG = "ae.pt", "config.json"
_LINEAR = {"encoder.weight", "decoder.weight"}
_CANONICAL = {"W_enc", "b_enc", "W_dec", "b_dec"}
_CLASSES: dict[str, tuple[str, set[str]]] = {
    "AutoEncoder": ("relu", _LINEAR | {"encoder.bias", "bias"}),
    "AutoEncoderNew": ("relu", _LINEAR | {"encoder.bias", "decoder.bias"}),
    "GatedAutoEncoder": ("jumprelu", _LINEAR | {"decoder_bias", "r_mag", "gate_bias", "mag_bias"}),
    "JumpReluAutoEncoder": ("jumprelu", _CANONICAL | {"threshold"}),
    "AutoEncoderTopK": ("topk", _LINEAR | {"encoder.bias", "b_dec"}),
    "BatchTopKSAE": ("jumprelu", _LINEAR | {"encoder.bias", "b_dec", "threshold"}),
    "MatryoshkaBatchTopKSAE": ("jumprelu", _CANONICAL | {"threshold", "group_sizes"}),
}
_WHOLE = ("k", "group_sizes")
_BIASES = {
    "AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias",
}  # fmt: skip
_TRAINERS = {
    "AutoEncoder": "StandardTrainer", "GatedAutoEncoder": "GatedSAETrainer", "JumpReluAutoEncoder": "JumpReluTrainer",
    "AutoEncoderTopK": "TopKTrainer",
}  # fmt: skip
_OLD_STATE = ("ae", "state_dict")
_RUN = ("step", "config", "norm_factor")


def read(path: Path) -> Sae:
    """The dictionary in the folder `path`.

    TopK encodes by its k, as the tool does; BatchTopK and Matryoshka by their threshold, and as plain ReLU where it was
    never set (−1). AuditorError for other classes and for files that hold more than tensors.
    """
    config = read_config(path, WEIGHTS, CONFIG)
    trainer = config.get("trainer")
    if not isinstance(trainer, dict) or trainer.get("dict_class") not in _CLASSES:
        said = trainer.get("dict_class") if isinstance(trainer, dict) else None
        raise AuditorError(
            f"{CONFIG} in “{path.name}” names the class of dictionaries “{said}”, which is not read.",
            f"Classes: {', '.join(_CLASSES)}.",
        )
    kind = str(trainer["dict_class"])
    arch, wanted = _CLASSES[kind]
    stored, plain = read_pickle(path / WEIGHTS, inside=_OLD_STATE)
    check_tensors(WEIGHTS, stored, whole=_WHOLE)
    expect(path.name, stored, wanted, f"the class {kind}", also=("threshold", "k"))
    t = {name: tensor.float() for name, tensor in stored.items()}
    fields = _fields(path.name, kind, arch, t, trainer)
    d_in, d_sae = fields["W_enc"].shape
    expect_stated(path.name, trainer, activation_dim=d_in, dict_size=d_sae)
    factor = plain.get("norm_factor")
    if isinstance(factor, int | float) and not isinstance(factor, bool) and factor > 0:
        fields = _unscaled(fields, float(factor))
    hook = str(trainer.get("submodule_name") or f"layers.{trainer.get('layer')}")
    sae = Sae(hook=hook, meta={"origin": _origin(kind, trainer, config.get("buffer"))}, path=path, **fields)
    # The wrapping of an interrupted run says how its tensors are scaled, so it goes back with them.
    config |= {WEIGHTS: {key: plain[key] for key in _RUN if key in plain}} if "norm_factor" in plain else {}
    sae.original = original("dictionary_learning", config, stored, _stored(sae, kind))
    return sae


def write(sae: Dictionary, path: Path) -> None:
    """Write the folder `path`. A threshold that all features share makes a BatchTopKSAE, others a JumpReluAutoEncoder.

    AuditorError for what the tool has no class for: transcoders, crosscoders, matching pursuit, GroupMax, temporal
    dictionaries, normalised input.
    """
    if not isinstance(sae, Sae) or not sae.plain or sae.arch in ("matching_pursuit", "groupmax"):
        raise AuditorError(
            "dictionary_learning has autoencoders of raw activations only, and this dictionary is something else.",
            "Export it as saelens.",
        )
    if (was := of_format(sae, "dictionary_learning")) is not None:
        config, tensors = dict(was.config), restored(was, _stored(sae, str(was.config["trainer"]["dict_class"])))
        run = config.pop(WEIGHTS, None)
        write_folder(path, {CONFIG: config_json(config), WEIGHTS: _pickled(tensors, run)})
        return
    kind = {"relu": "AutoEncoder", "topk": "AutoEncoderTopK", "jumprelu": "JumpReluAutoEncoder"}[sae.arch]
    layer = next((int(part) for part in sae.hook.split(".") if part.isdecimal()), None)
    trainer = {
        "dict_class": kind, "trainer_class": _TRAINERS[kind], "activation_dim": sae.d_in, "dict_size": sae.d_sae,
        "layer": layer, "lm_name": str(sae.meta.get("model") or ""), "submodule_name": sae.hook, "device": "cpu",
    }  # fmt: skip
    if sae.k is not None:
        trainer["k"] = sae.k
    buffer = {"d_submodule": sae.d_in, "io": "out", "ctx_len": None}
    write_folder(
        path, {CONFIG: config_json({"trainer": trainer, "buffer": buffer}), WEIGHTS: _pickled(_stored(sae, kind))}
    )


def _fields(name: str, kind: str, arch: str, t: Weights, trainer: dict[str, Any]) -> dict[str, Any]:
    """Fields of the `Sae` for tensors of the class `kind`."""
    if "encoder.weight" in t:
        t["W_enc"], t["W_dec"] = turned(name, t, "encoder.weight"), turned(name, t, "decoder.weight")
    expect_matrices(name, t["W_enc"], t["W_dec"], "encoder.weight is [d_sae, d_in], decoder.weight [d_in, d_sae].")
    weights = {"W_enc": t["W_enc"], "W_dec": t["W_dec"], "b_dec": t[_BIASES.get(kind, "b_dec")]}
    for key in ("encoder.bias", "b_enc", "r_mag", "gate_bias", "mag_bias"):
        if key in t and t[key].shape != (t["W_enc"].shape[1],):
            raise AuditorError(f"“{name}”: {key} has shape {list(t[key].shape)}.", "Get the files again.")
    if weights["b_dec"].shape != (t["W_enc"].shape[0],):
        raise AuditorError(f"“{name}”: the output's bias has shape {list(weights['b_dec'].shape)}.", "Get them again.")
    if kind == "GatedAutoEncoder":
        return {"arch": "jumprelu"} | conventions.gated(t["W_enc"], t["gate_bias"], t["r_mag"], t["mag_bias"], weights)
    weights["b_enc"] = t["encoder.bias"] if "encoder.bias" in t else t["b_enc"]
    if kind in ("AutoEncoderNew", "JumpReluAutoEncoder"):
        weights = conventions.input_not_centred(weights)
    if arch == "topk":
        k = t["k"] if "k" in t else torch.tensor(float(trainer.get("k") or 0))
        return {"arch": "topk", "k": int(k)} | weights
    if arch != "jumprelu":
        return {"arch": cast(Arch, arch)} | weights
    threshold = t["threshold"].expand(weights["b_enc"].shape).clone()
    if kind != "JumpReluAutoEncoder" and bool((threshold < 0).all()):
        return {"arch": "relu"} | weights
    return {"arch": "jumprelu", "threshold": threshold.clamp_min(0)} | weights


def _unscaled(fields: dict[str, Any], factor: float) -> dict[str, Any]:
    """A run trains on x / factor: biases and thresholds times the factor stand for x, as the tool folds it."""
    scaled = {name: fields[name] * factor for name in ("b_enc", "b_dec", "threshold") if name in fields}
    return fields | scaled


def _stored(sae: Sae, kind: str) -> dict[str, Tensor]:
    """The tensors of the class `kind` that the canonical weights give."""
    if kind == "JumpReluAutoEncoder":
        weights = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
        named = conventions.input_centred(weights)
        return named | ({} if sae.threshold is None else {"threshold": sae.threshold})
    if kind == "MatryoshkaBatchTopKSAE":
        named = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    else:
        named = {"encoder.weight": sae.W_enc.T.contiguous(), "decoder.weight": sae.W_dec.T.contiguous()}
        named[_BIASES.get(kind, "b_dec")] = sae.b_dec
        named["mag_bias" if kind == "GatedAutoEncoder" else "encoder.bias"] = sae.b_enc
    if kind == "AutoEncoderTopK":
        named |= {"k": torch.tensor(sae.k, dtype=torch.int32), "threshold": torch.tensor(-1.0)}
    elif kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE") and sae.threshold is not None:
        named["threshold"] = sae.threshold[0]
    return named


def _pickled(tensors: dict[str, Tensor], run: dict[str, Any] | None = None) -> bytes:
    """As the tool keeps them: torch's own pickle, of tensors alone, or below the facts of an interrupted run."""
    out = io.BytesIO()
    state = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    torch.save(state if run is None else {**run, "ae": state}, out)
    return out.getvalue()


def _origin(kind: str, trainer: dict[str, Any], buffer: Any) -> dict[str, Any]:
    found = {"format": "dictionary_learning", "architecture": kind, "model_name": trainer.get("lm_name")}
    found |= {key: trainer.get(key) for key in ("k", "layer", "submodule_name", "norm_factor")}
    found |= {"context_size": buffer.get("ctx_len")} if isinstance(buffer, dict) else {}
    return {key: value for key, value in found.items() if isinstance(value, str | int | float)}


def _recognised(path: Path) -> bool:
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


FORMAT = Format("dictionary_learning", "dictionary_learning folder", _recognised, read, write)
