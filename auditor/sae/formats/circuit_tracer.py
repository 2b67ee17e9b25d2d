"""circuit-tracer's transcoders (0.5.0): config.yaml, and a file for each layer, or those of a cross-layer transcoder.

`layer_i.safetensors` holds W_enc [d_sae, d_in], W_dec [d_sae, d_out], b_enc, b_dec, perhaps
`activation_function.threshold`, `k`, W_skip [d_out, d_in]. A cross-layer transcoder has, for each layer i,
`W_enc_i.safetensors` {W_enc_i [d_sae, d_in], b_enc_i, b_dec_i, perhaps threshold_i} and `W_dec_i.safetensors`
{W_dec_i [d_sae, n_layers − i, d_out]}. Nothing is subtracted from the input.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae.formats.folder import expect, expect_matrices, read_tensors, turned, whole_number, write_folder
from auditor.sae.formats.format import Dictionary, Format
from auditor.sae.formats.original import of_format, original, restored
from auditor.sae.sae import Sae

CONFIG = "config.yaml"
_LAYER = re.compile(r"layer_(\d+)\.safetensors")
_WANTED = {"W_enc", "b_enc", "W_dec", "b_dec"}
_THRESHOLD = "activation_function.threshold"
_MAX_CONFIG_BYTES, _MAX_LAYERS = 1 << 20, 1024
_SAID = "W_enc is [d_sae, d_in] and W_dec [d_sae, d_out] in this format."
INPUT, OUTPUT = "hook_resid_mid", "hook_mlp_out"


def read(path: Path) -> Dictionary:
    """The transcoder of one layer in the file `path`, or the cross-layer transcoder in the folder `path`."""
    if path.is_dir():
        from auditor.sae.formats.cross_layer import read_cross_layer

        return read_cross_layer(path)
    named = _LAYER.fullmatch(path.name)
    if named is None or not path.is_file():
        raise AuditorError(
            f"“{path.name}” is not a layer of circuit-tracer's.", "Files are named layer_0.safetensors, …."
        )
    layer, (text, config) = int(named[1]), read_settings(path.parent)
    held = read_tensors(path, whole=("k",))
    expect(path.name, held, _WANTED, "a transcoder of circuit-tracer", {_THRESHOLD, "k", "W_skip"})
    t = {name: tensor.float() for name, tensor in held.items()}
    fields: dict[str, Any] = {"W_enc": turned(path.name, t, "W_enc"), "W_dec": t["W_dec"]}
    expect_matrices(path.name, fields["W_enc"], t["W_dec"], _SAID, same=False)
    fields |= {"b_enc": t["b_enc"], "b_dec": t["b_dec"]}
    if "W_skip" in t:
        fields["W_skip"] = turned(path.name, t, "W_skip")
    fields |= _activation(path.name, t, config)
    hook, hook_out = (f"blocks.{layer}.{name}" for name in hooks_of(config))
    origin = {"format": "circuit_tracer", "hook_name": hook, "model_name": config.get("model_name"), "layer": layer}
    meta = {"origin": {key: value for key, value in origin.items() if value is not None}}
    sae = Sae(hook=hook, hook_out=hook_out, meta=meta, path=path, **fields)
    sae.original = original("circuit_tracer", {"file": path.name, "yaml": text}, held, _stored(sae))
    return sae


def write(sae: Dictionary, path: Path) -> None:
    """Write the folder `path`: one transcoder as the file of its layer, or a cross-layer transcoder."""
    if isinstance(sae, Sae):
        write_set([sae], path)
    else:
        from auditor.sae.formats.cross_layer import write_cross_layer

        write_cross_layer(sae, path)


def write_set(saes: Sequence[Sae], path: Path) -> None:
    """Write several transcoders, one for each layer, as the folder `path`.

    circuit-tracer itself asks for every layer from 0 on. AuditorError for what is no transcoder, for two of one layer,
    and for transcoders of different hook points.
    """
    files: dict[str, Any] = {}
    settings: set[bytes] = set()
    for sae in saes:
        if not sae.hook_out or sae.normalise != "none" or sae.arch in ("matching_pursuit", "groupmax"):
            raise AuditorError(
                f"circuit-tracer has transcoders only, and the dictionary of “{sae.hook or 'nothing'}” is not one.",
                "Export it as saelens.",
            )
        was = of_format(sae, "circuit_tracer")
        name = str(was.config["file"]) if was is not None else f"layer_{_layer(sae.hook)}.safetensors"
        if name in files:
            raise AuditorError(f"Two transcoders are of one layer ({name}).", "Export one of each layer.")
        files[name] = _stored(sae) if was is None else restored(was, _stored(sae))
        settings.add(str(was.config["yaml"]).encode() if was is not None else _settings(sae))
    if len(settings) != 1:
        raise AuditorError("These transcoders read and predict different hook points.", "Export them one by one.")
    write_folder(path, {CONFIG: settings.pop(), **files})


def read_settings(folder: Path) -> tuple[str, dict[str, Any]]:
    """config.yaml of `folder` as it stands, and its values: text and lists of text. AuditorError if it is missing or
    nested: this format's settings are flat, and no more of YAML is read."""
    file = folder / CONFIG
    if not file.is_file() or file.stat().st_size > _MAX_CONFIG_BYTES:
        raise AuditorError(f"“{folder.name}” has no usable {CONFIG}.", "Choose the folder that holds it.")
    text = file.read_bytes().decode("utf-8", "replace")
    found: dict[str, Any] = {}
    key = ""
    for line in text.splitlines():
        bare = re.sub(r"(^|\s)#.*$", "", line).rstrip()
        if not bare or bare == "---":
            continue
        if (item := re.fullmatch(r"\s*-\s+(.*)", bare)) and key:
            found[key] = [*(found[key] if isinstance(found[key], list) else []), _unquoted(item[1])]
        elif pair := re.fullmatch(r"([\w.-]+):(?:\s+(.*))?", bare):
            key = pair[1]
            found[key] = _unquoted(pair[2] or "")
        else:
            raise AuditorError(f"{CONFIG} in “{folder.name}” is not a flat list of settings.", "Get the file again.")
    return text, found


def hooks_of(config: dict[str, Any]) -> tuple[str, str]:
    """What is read and what is predicted, below each block."""
    names = (config.get("feature_input_hook"), config.get("feature_output_hook"))
    return str(names[0] or INPUT), str(names[1] or OUTPUT)


def _unquoted(text: str) -> str:
    text = text.strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else "" if text in ("null", "~") else text


def _activation(name: str, t: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    if _THRESHOLD in t:
        threshold = t[_THRESHOLD].reshape(-1)
        if threshold.shape != t["b_enc"].shape:
            raise AuditorError(f"“{name}”: its threshold has the shape {list(t[_THRESHOLD].shape)}.", "Get it again.")
        return {"arch": "jumprelu", "threshold": threshold.clamp_min(0)}
    stated = {"k": int(t["k"].reshape(-1)[0])} if t.get("k", torch.empty(0)).numel() else {}
    if not stated and str(config.get("k", "")).isdecimal():
        stated = {"k": int(config["k"])}
    if stated or config.get("activation") == "topk":
        return {"arch": "topk", "k": whole_number(name, stated, "k")}
    if config.get("activation", "relu") not in ("relu", ""):
        raise AuditorError(f"“{name}” uses the activation {config['activation']}, which its tensors do not fit.", "")
    return {"arch": "relu"}


def _stored(sae: Sae) -> dict[str, Tensor]:
    named = {"W_enc": sae.W_enc.T.contiguous(), "W_dec": sae.W_dec, "b_enc": sae.b_enc, "b_dec": sae.b_dec}
    if sae.threshold is not None:
        named[_THRESHOLD] = sae.threshold
    if sae.arch == "topk":
        named["k"] = torch.tensor(sae.k)
    return named | ({} if sae.W_skip is None else {"W_skip": sae.W_skip.T.contiguous()})


def settings_text(model: str, kind: str, hook: str, hook_out: str) -> bytes:
    """config.yaml of a set of the `kind` (transcoder_set, cross_layer_transcoder)."""
    scan = re.sub(r"[^\w.-]+", "-", model) or "auditor"
    values = {"model_name": model or "unknown", "model_kind": kind, "feature_input_hook": hook}
    values |= {"feature_output_hook": hook_out, "scan": scan}
    return "".join(f'{key}: "{value}"\n' for key, value in values.items()).encode()


def tracer_hook(name: str) -> str:
    """The part of a hook point's name below its block, in TransformerLens' terms, which circuit-tracer uses."""
    below = re.sub(r"^blocks\.\d+\.", "", name)
    known = {"resid_pre", "resid_mid", "resid_post", "mlp_out", "attn_out"}
    return f"hook_{below}" if below in known else below


def _settings(sae: Sae) -> bytes:
    model = str(sae.meta.get("model") or sae.meta.get("origin", {}).get("model_name") or "")
    model = model if re.fullmatch(r"[\w./ -]*", model) else ""
    return settings_text(model, "transcoder_set", tracer_hook(sae.hook), tracer_hook(sae.hook_out))


def _layer(hook: str) -> int:
    found = re.match(r"blocks\.(\d+)\.", hook)
    if found is None:
        raise AuditorError(f"The hook point “{hook}” names no layer.", "Only transcoders of a block can be exported.")
    return int(found[1])


def _parts(path: Path) -> list[Path]:
    if not (path / CONFIG).is_file():
        return []
    found = [(int(name[1]), file) for file in path.glob("layer_*.safetensors") if (name := _LAYER.fullmatch(file.name))]
    return [file for _, file in sorted(found)][:_MAX_LAYERS]


def _recognised(path: Path) -> bool:
    if path.is_dir():
        return (path / "W_enc_0.safetensors").is_file() and (path / "W_dec_0.safetensors").is_file()
    return _LAYER.fullmatch(path.name) is not None and (path.parent / CONFIG).is_file()


FORMAT = Format("circuit_tracer", "circuit-tracer set", _recognised, read, write, _parts)
