"""EleutherAI sparsify folders (cfg.json + sae.safetensors), read from eai-sparsify 1.3.3.

encoder.weight is [d_sae, d_in] and W_dec [d_sae, d_in]; b_dec is subtracted from the input unless the coder transcodes.
Its output has the width of its input, so a transcoder of two widths cannot be written here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae import conventions
from auditor.sae.formats.folder import (
    CONFIG,
    config_json,
    expect,
    expect_matrices,
    expect_stated,
    read_config,
    read_json,
    read_tensors,
    turned,
    whole_number,
    write_folder,
)
from auditor.sae.formats.format import Dictionary, Format
from auditor.sae.formats.original import of_format, original, restored
from auditor.sae.sae import Sae

WEIGHTS = "sae.safetensors"
# Its activation functions, which have our names.
_ARCHS = ("topk", "groupmax")
_TENSORS = {"encoder.weight", "encoder.bias", "W_dec", "b_dec"}


def read(path: Path) -> Sae:
    """The dictionary in the folder `path`; the folder's name is taken for the hook point, as sparsify does, unless this
    program wrote it.

    A transcoder reads the input of that module and predicts its output. The old `signed` TopK becomes one of twice the
    features. AuditorError for an activation function other than TopK and GroupMax.
    """
    config = read_config(path, WEIGHTS)
    activation = config.get("activation", "topk")
    if activation not in _ARCHS or (config.get("signed") and activation != "topk"):
        raise AuditorError(
            f"“{path.name}” uses the activation “{'signed ' if config.get('signed') else ''}{activation}”, "
            "which is not read.",
            "sparsify's TopK and GroupMax dictionaries can be opened.",
        )
    k = whole_number(path.name, config, "k")
    stored = read_tensors(path / WEIGHTS)
    skip = {"W_skip"} if config.get("skip_connection") else set()
    expect(path.name, stored, _TENSORS | skip, "a sparsify dictionary")
    t = {name: tensor.float() for name, tensor in stored.items()}
    said = "encoder.weight and W_dec are both [d_sae, d_in] in this format."
    weights = {
        "W_enc": turned(path.name, t, "encoder.weight"),
        "b_enc": t["encoder.bias"],
        "W_dec": t["W_dec"],
        "b_dec": t["b_dec"],
    }
    expect_matrices(path.name, weights["W_enc"], weights["W_dec"], said)
    d_in, d_sae = weights["W_enc"].shape
    expect_stated(path.name, config, d_in=d_in)
    if config.get("num_latents"):
        expect_stated(path.name, config, num_latents=d_sae)
    if config.get("signed"):
        weights = conventions.signed(weights)
    named = config.get("hookpoint")
    place = named if named and isinstance(named, str) else path.name
    fields: dict[str, Any] = {"hook": place, "meta": {"origin": _origin(path, config)}}
    if config.get("transcode"):
        fields |= {"hook": f"{place}.input", "hook_out": place}
        if skip:
            fields["W_skip"] = turned(path.name, t, "W_skip")
    elif skip:
        raise AuditorError(
            f"“{path.name}” is an autoencoder with a skip connection, which gives its input back by itself.",
            "Choose a transcoder, or a dictionary without one.",
        )
    sae = Sae(activation, k=k, path=path, **(fields | weights))
    sae.original = original("sparsify", config, stored, _stored(sae, bool(config.get("signed"))))
    return sae


def write(sae: Dictionary, path: Path) -> None:
    """Write the folder `path`. AuditorError for what sparsify has no place for."""
    if not isinstance(sae, Sae) or sae.arch not in _ARCHS or sae.normalise != "none" or sae.sources or sae.context:
        raise AuditorError(
            "sparsify has TopK and GroupMax dictionaries of raw activations only, and this one is something else.",
            "Export it as saelens.",
        )
    if (was := of_format(sae, "sparsify")) is not None:
        signed = bool(was.config.get("signed"))
        write_folder(path, {CONFIG: config_json(was.config), WEIGHTS: restored(was, _stored(sae, signed))})
        return
    if sae.d_out != sae.d_in:
        raise AuditorError(
            f"sparsify's transcoders are as wide as their input ({sae.d_in}), not {sae.d_out}.", "Export it as saelens."
        )
    unit = bool(torch.allclose(sae.W_dec.norm(dim=1), torch.ones(sae.d_sae), atol=1e-4))
    config: dict[str, object] = {
        "activation": sae.arch, "expansion_factor": max(1, sae.d_sae // sae.d_in), "normalize_decoder": unit,
        "num_latents": sae.d_sae, "k": sae.k, "multi_topk": False, "skip_connection": sae.W_skip is not None,
        "transcode": bool(sae.hook_out), "d_in": sae.d_in,
    }  # fmt: skip
    if sae.hook and not sae.hook_out:
        config["hookpoint"] = sae.hook  # sparsify passes over what it does not know
    write_folder(path, {CONFIG: config_json(config), WEIGHTS: _stored(sae, False)})


def _recognised(path: Path) -> bool:
    return (path / WEIGHTS).is_file()


def _stored(sae: Sae, signed: bool) -> dict[str, Tensor]:
    n = sae.d_sae // 2 if signed else sae.d_sae
    named = {"encoder.weight": sae.W_enc[:, :n].T.contiguous(), "encoder.bias": sae.b_enc[:n], "W_dec": sae.W_dec[:n]}
    return named | {"b_dec": sae.b_dec} | ({} if sae.W_skip is None else {"W_skip": sae.W_skip.T.contiguous()})


def _origin(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What the folder above says of model and data, where it lies beside."""
    found: dict[str, Any] = {"format": "sparsify", "hook_name": path.name, "k": config.get("k")}
    above = path.parent / "config.json"
    if above.is_file() and above.stat().st_size < 1 << 20:
        run = read_json(above)
        found |= {
            "model_name": run.get("model"),
            "dataset_path": run.get("dataset"),
            "context_size": run.get("ctx_len"),
        }
    return {key: value for key, value in found.items() if isinstance(value, str | int)}


FORMAT = Format("sparsify", "sparsify folder", _recognised, read, write)
