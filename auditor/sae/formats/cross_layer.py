"""Cross-layer transcoders in circuit-tracer's files, with a file of ours for what these have no place for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auditor.base.digest import canonical_json
from auditor.base.errors import AuditorError
from auditor.sae.clt import CrossLayerTranscoder
from auditor.sae.formats.circuit_tracer import CONFIG, hooks_of, read_settings, settings_text, tracer_hook
from auditor.sae.formats.folder import expect, read_json, read_tensors, write_folder
from auditor.sae.formats.original import original, restored
from auditor.sae.sae import Original

# Names of the hook points, and `meta`.
FACTS = "auditor.json"
_MOST_LAYERS = 1024


def read_cross_layer(path: Path) -> CrossLayerTranscoder:
    """The cross-layer transcoder in the folder `path`. AuditorError for anything that is not one."""
    text, config = read_settings(path)
    layers = 0
    while layers < _MOST_LAYERS and (path / f"W_enc_{layers}.safetensors").is_file():
        layers += 1
    files: dict[str, dict[str, Tensor]] = {}
    for i in range(layers):
        encoder, decoder = f"W_enc_{i}.safetensors", f"W_dec_{i}.safetensors"
        if not (path / decoder).is_file():
            raise AuditorError(f"“{path.name}” has {encoder} but no {decoder}.", "Get the files again.")
        files[encoder], files[decoder] = read_tensors(path / encoder), read_tensors(path / decoder)
        wanted = {f"W_enc_{i}", f"b_enc_{i}", f"b_dec_{i}"}
        expect(f"{path.name}/{encoder}", files[encoder], wanted, "a cross-layer transcoder", {f"threshold_{i}"})
        expect(f"{path.name}/{decoder}", files[decoder], {f"W_dec_{i}"}, "a cross-layer transcoder")
    facts = read_json(path / FACTS) if (path / FACTS).is_file() else {}
    if not isinstance(facts.get("meta", {}), dict):
        raise AuditorError(f"{FACTS} in “{path.name}” holds other facts than expected.", "Get the file again.")
    t = {key: tensor.float() for held in files.values() for key, tensor in held.items()}
    has_threshold = "threshold_0" in t
    try:
        W_enc, b_enc, b_dec = (
            torch.stack([t[f"{name}_{i}"] for i in range(layers)]) for name in ("W_enc", "b_enc", "b_dec")
        )
        threshold = torch.stack([t[f"threshold_{i}"].reshape(-1) for i in range(layers)]) if has_threshold else None
    except (RuntimeError, KeyError) as error:
        raise AuditorError(
            f"The layers of “{path.name}” do not fit together ({error}).", "Get the files again."
        ) from error
    if W_enc.ndim != 3:
        raise AuditorError(f"“{path.name}”: W_enc_0 is {list(W_enc.shape[1:])}.", "It is [d_sae, d_in] in this format.")
    read, written = hooks_of(config)
    clt = CrossLayerTranscoder(
        W_enc.transpose(1, 2).contiguous(),
        tuple(t[f"W_dec_{i}"] for i in range(layers)),
        b_enc,
        b_dec,
        threshold,
        _names(facts.get("hooks"), read, layers),
        _names(facts.get("hooks_out"), written, layers),
        meta=facts.get("meta") or {"origin": _origin(config)},
        path=path,
    )
    again = {key: tensor for held in _files(clt).values() for key, tensor in held.items()}
    stored = {key: tensor for held in files.values() for key, tensor in held.items()}
    clt.original = original("circuit_tracer", {"yaml": text}, stored, again)
    return clt


def write_cross_layer(clt: CrossLayerTranscoder, path: Path, *, half: bool = False) -> None:
    """Write `clt` as the folder `path`, whole or not at all; `half` keeps new weights as float16."""
    files = _files(clt)
    was: Original | None = clt.original
    if was is not None:
        settings = str(was.config["yaml"]).encode()
        kept = restored(was, {key: tensor for held in files.values() for key, tensor in held.items()})
        files = {name: {key: kept[key] for key in held if key in kept} for name, held in files.items()}
    else:
        settings = settings_text(
            str(clt.meta.get("model") or ""),
            "cross_layer_transcoder",
            tracer_hook(_first(clt.hooks)),
            tracer_hook(_first(clt.hooks_out)),
        )
        if half:
            files = {name: {key: _narrowed(key, t) for key, t in held.items()} for name, held in files.items()}
    facts = {"hooks": list(clt.hooks), "hooks_out": list(clt.hooks_out), "meta": clt.meta}
    write_folder(path, {CONFIG: settings, FACTS: canonical_json(facts), **files})


def _files(clt: CrossLayerTranscoder) -> dict[str, dict[str, Tensor]]:
    files: dict[str, dict[str, Tensor]] = {}
    for i in range(clt.n_layers):
        held = {f"W_enc_{i}": clt.W_enc[i].T, f"b_enc_{i}": clt.b_enc[i], f"b_dec_{i}": clt.b_dec[i]}
        if clt.threshold is not None:
            held[f"threshold_{i}"] = clt.threshold[i]
        files[f"W_enc_{i}.safetensors"], files[f"W_dec_{i}.safetensors"] = held, {f"W_dec_{i}": clt.W_dec[i]}
    return files


def _names(stated: Any, below: str, layers: int) -> tuple[str, ...]:
    if isinstance(stated, list) and len(stated) in (0, layers) and all(isinstance(name, str) for name in stated):
        return tuple(stated)
    return tuple(f"blocks.{layer}.{below}" for layer in range(layers))


def _first(names: tuple[str, ...]) -> str:
    return re.sub(r"\s", "", names[0]) if names else "unknown"


def _origin(config: dict[str, Any]) -> dict[str, Any]:
    return {"format": "circuit_tracer", "model_name": config.get("model_name")}


def _narrowed(name: str, tensor: Tensor) -> Tensor:
    narrow = tensor.half()
    if not torch.isfinite(narrow).all():
        raise AuditorError(f"The dictionary's {name} does not fit float16.", "Save it in full precision.")
    return narrow
