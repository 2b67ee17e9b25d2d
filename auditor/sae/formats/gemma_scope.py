"""Gemma Scope: `params.npz` (Lieberum et al. 2024), and Gemma Scope 2's `params.safetensors` beside a `config.json`.

Both are JumpReLU and do not subtract b_dec from their input. What a file is of stands in its path alone: one at
`…-transcoders/layer_3/width_16k/average_l0_50/params.npz` transcodes ln2.hook_normalized into hook_mlp_out.
Dictionaries of the embedding are for activations that Gemma multiplies by sqrt(d): W_enc / sqrt(d) and W_dec sqrt(d).
A layer of a cross-layer transcoder (a w_dec of three axes) is no dictionary of its own and is refused.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.intake.npz import read_npz
from auditor.sae import conventions
from auditor.sae.conventions import Weights
from auditor.sae.formats.folder import (
    check_tensors,
    config_json,
    expect,
    expect_matrices,
    read_json,
    read_tensors,
    write_folder,
)
from auditor.sae.formats.format import Dictionary, Format
from auditor.sae.formats.original import of_format, original, restored
from auditor.sae.sae import Sae

NPZ, SAFETENSORS = "params.npz", "params.safetensors"
_WANTED = {"w_enc", "w_dec", "b_enc", "b_dec", "threshold"}
_SKIP = "affine_skip_connection"
_HOOKS = {"resid_post": "hook_resid_post", "mlp_out": "hook_mlp_out", "attn_out": "attn.hook_z"}
_SITES = {"pt-res": "resid_post", "it-res": "resid_post", "-mlp": "mlp_out", "-att": "attn_out"}
_SAID = "w_enc is [d_in, d_sae] and w_dec [d_sae, d_out] in this format."


def read(path: Path) -> Sae:
    """The dictionary in the folder `path`, or in the file of weights itself.

    Names may have capitals or not (W_enc, w_enc). AuditorError for other tensors, and for a layer of a cross-layer
    transcoder.
    """
    file = _file(path)
    folder = file.parent
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    stored = _arrays(file) if file.suffix == ".npz" else read_tensors(file)
    check_tensors(file.name, stored)
    t = {name.lower(): tensor.float() for name, tensor in stored.items()}
    if len(t) != len(stored):
        raise AuditorError(f"“{file.name}” holds a tensor twice, with capitals and without.", "Get the file again.")
    expect(file.name, t, _WANTED, "a dictionary of Gemma Scope", {_SKIP})
    if t["w_dec"].ndim == 3:
        raise AuditorError(
            f"“{file.name}” is one layer of a cross-layer transcoder, which writes to all layers after it.",
            "Import the whole set of layers in circuit-tracer's format.",
        )
    facts = _facts(file, config, _SKIP in t)
    transcodes = bool(facts["hook_out"])
    expect_matrices(file.name, t["w_enc"], t["w_dec"], _SAID, same=not transcodes)
    _expect_vectors(file.name, t)
    weights = {
        "W_enc": t["w_enc"],
        "b_enc": t["b_enc"],
        "W_dec": t["w_dec"],
        "b_dec": t["b_dec"],
        "threshold": t["threshold"],
    }
    weights["threshold"] = weights["threshold"].clamp_min(0)
    fields: dict[str, Any] = {"hook": facts["hook"], "hook_out": facts["hook_out"]}
    if _SKIP in t:
        fields["W_skip"] = t[_SKIP]
    if facts["embedding"]:
        weights = _times(weights, len(weights["b_dec"]) ** -0.5)
    if not transcodes:
        weights = conventions.input_not_centred(weights)
    origin = {"format": "gemma_scope", "hook_name": facts["hook"], "folder": _place(file)} | _named(config)
    place = path if path.is_dir() else file
    sae = Sae("jumprelu", meta={"origin": origin}, path=place, **(fields | weights))
    kept = {"file": file.name, "embedding": facts["embedding"], "config": config}
    sae.original = original("gemma_scope", kept, stored, _as_named(stored, _stored(sae, facts["embedding"])))
    return sae


def write(sae: Dictionary, path: Path) -> None:
    """Write the folder `path`: as it was, else params.npz, or params.safetensors where there is a skip connection.

    AuditorError for what is no JumpReLU of raw activations; plain ReLU is one with thresholds of zero.
    """
    fits = isinstance(sae, Sae) and sae.arch in ("jumprelu", "relu") and sae.normalise == "none"
    if not isinstance(sae, Sae) or not fits or sae.sources or sae.context:
        raise AuditorError(
            "Gemma Scope has JumpReLU dictionaries of raw activations only, and this one is something else.",
            "Export it as saelens.",
        )
    if (was := of_format(sae, "gemma_scope")) is not None:
        tensors = restored(was, _as_named(was.dtypes, _stored(sae, bool(was.config.get("embedding")))))
        files = {str(was.config["file"]): _packed(tensors) if str(was.config["file"]).endswith(".npz") else tensors}
        if was.config.get("config"):
            files["config.json"] = config_json(was.config["config"])
        write_folder(path, files)
        return
    tensors = _stored(sae, False)
    if sae.W_skip is None:
        write_folder(path, {NPZ: _packed({_capitals(name): tensor for name, tensor in tensors.items()})})
        return
    config = {
        "architecture": "jump_relu", "model_name": str(sae.meta.get("model") or ""), "hf_hook_point_in": sae.hook,
        "hf_hook_point_out": sae.hook_out, "affine_connection": True,
    }  # fmt: skip
    write_folder(path, {SAFETENSORS: tensors, "config.json": config_json(config)})


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    found = next((path / name for name in (NPZ, SAFETENSORS) if (path / name).is_file()), None)
    if found is None:
        raise AuditorError(f"“{path.name}” holds neither {NPZ} nor {SAFETENSORS}.", "Choose the folder that does.")
    return found


def _arrays(file: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in read_npz(file).items()}


def _packed(tensors: dict[str, Tensor]) -> bytes:
    out = io.BytesIO()
    arrays: dict[str, Any] = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
    np.savez(out, **arrays)
    return out.getvalue()


def _facts(file: Path, config: dict[str, Any], skip: bool) -> dict[str, Any]:
    """Hook points, of the settings where there are any, else of the path; and whether it is of the embedding."""
    place = "/" + "/".join(file.resolve().parts[-6:])
    layer = re.findall(r"layer_(\d+)", place)
    at = f"blocks.{layer[-1]}." if layer else ""
    if skip or config.get("affine_connection") or re.search(r"transcoder|clt", place):
        hook = "ln2.hook_normalized" if file.suffix == ".npz" else "hook_mlp_in"
        return {"hook": f"{at}{hook}", "hook_out": f"{at}hook_mlp_out", "embedding": False}
    if "/embedding/" in place:
        return {"hook": "hook_embed", "hook_out": "", "embedding": True}
    site = next((site for word, site in _SITES.items() if word in place), "resid_post")
    site = next((name for name in _HOOKS if name in place), site)
    return {"hook": f"{at}{_HOOKS[site]}" if at else "", "hook_out": "", "embedding": False}


def _place(file: Path) -> str:
    return "/".join(file.parts[-4:-1])


def _named(config: dict[str, Any]) -> dict[str, Any]:
    keys = ("model_name", "hf_hook_point_in", "hf_hook_point_out", "l0", "width")
    return {key: config[key] for key in keys if isinstance(config.get(key), str | int | float)}


def _expect_vectors(name: str, t: Weights) -> None:
    d_in, d_sae = t["w_enc"].shape
    d_out = t["w_dec"].shape[1]
    for key, shape in {"b_enc": (d_sae,), "threshold": (d_sae,), "b_dec": (d_out,), _SKIP: (d_in, d_out)}.items():
        if key in t and tuple(t[key].shape) != shape:
            raise AuditorError(f"“{name}”: {key} has shape {list(t[key].shape)}, not {list(shape)}.", _SAID)


def _stored(sae: Sae, embedding: bool) -> dict[str, Tensor]:
    weights = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if not sae.hook_out:
        weights = conventions.input_centred(weights)
    if embedding:
        weights = _times(weights, sae.d_in**0.5)
    named = {name.lower(): tensor for name, tensor in weights.items()}
    named["threshold"] = torch.zeros(sae.d_sae) if sae.threshold is None else sae.threshold
    return named | ({} if sae.W_skip is None else {_SKIP: sae.W_skip})


def _times(weights: Weights, factor: float) -> Weights:
    return weights | {"W_enc": weights["W_enc"] * factor, "W_dec": weights["W_dec"] / factor}


def _as_named(names: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` under those of `names` that are the same but for capitals."""
    return {name: tensors[name.lower()] for name in names if name.lower() in tensors}


def _capitals(name: str) -> str:
    return name.replace("w_", "W_", 1) if name.startswith("w_") else name


def _recognised(path: Path) -> bool:
    if path.is_file():
        return path.name in (NPZ, SAFETENSORS) or path.suffix == ".npz"
    return (path / NPZ).is_file() or (path / SAFETENSORS).is_file()


FORMAT = Format("gemma_scope", "Gemma Scope folder", _recognised, read, write)
