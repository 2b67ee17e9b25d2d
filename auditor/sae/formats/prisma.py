"""ViT-Prisma's dictionaries: config.json and a torch pickle of SAELens-2-like tensors, opened in a jailed child; read
only.

b_dec is always subtracted from the input; `normalize_activations` is done while running, as in SAELens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from auditor.base.errors import AuditorError
from auditor.intake.pickled import read_pickle
from auditor.sae.formats import saelens
from auditor.sae.formats.folder import check_tensors, read_json
from auditor.sae.formats.format import Format
from auditor.sae.sae import Original, Sae

CONFIG = "config.json"
_TAKEN = ("ae.pt", "cc_weights.pt", "sae.pt")
_INSIDE = ("state_dict", "model_state_dict", "sae")


def read(path: Path) -> Sae:
    """The dictionary in the folder `path`. AuditorError where the pickle holds its settings as objects, which older
    versions saved: nothing but tensors is read."""
    file = _weights(path)
    if file is None or not (path / CONFIG).is_file():
        raise AuditorError(f"“{path.name}” is not a Prisma dictionary: it needs {CONFIG} and one .pt file.", "")
    config = read_json(path / CONFIG)
    stored, _ = read_pickle(file, inside=_INSIDE)
    check_tensors(file.name, stored)
    kwargs = config.get("activation_fn_kwargs")
    asked: dict[str, Any] = {key: config[key] for key in ("d_in", "d_sae", "normalize_activations") if key in config}
    asked |= {"k": kwargs.get("k") if isinstance(kwargs, dict) else None}
    topk = config.get("activation_fn_str", "relu") == "topk"
    architecture = "gated" if "b_gate" in stored else "topk" if topk else "standard"
    tensors = {name: tensor.float() for name, tensor in stored.items() if architecture != "gated" or name != "b_enc"}
    arch, fields = saelens.weights_of(path, asked, architecture, tensors)
    hook = str(config.get("hook_point") or _hook(config))
    origin = {"format": "prisma", "hook_name": hook, "model_name": config.get("model_name"), "k": asked["k"]}
    meta = {"origin": {key: value for key, value in origin.items() if value is not None}}
    sae = Sae(arch, hook=hook, meta=meta, path=path, **fields)
    sae.original = Original("prisma", config)
    return sae


def _hook(config: dict[str, Any]) -> str:
    layer, site = config.get("hook_point_layer"), config.get("layer_subtype", "hook_resid_post")
    return f"blocks.{layer}.{site}" if isinstance(layer, int) else ""


def _weights(path: Path) -> Path | None:
    found = [file for file in sorted(path.glob("*.pt")) if file.name not in _TAKEN] if path.is_dir() else []
    return found[0] if len(found) == 1 else None


def _recognised(path: Path) -> bool:
    if _weights(path) is None or not (path / CONFIG).is_file() or (path / CONFIG).stat().st_size > 1 << 20:
        return False
    start = (path / CONFIG).read_bytes()
    return b'"d_in"' in start and (b'"hook_point_layer"' in start or b'"activation_fn_str"' in start)


FORMAT = Format("prisma", "ViT-Prisma folder", _recognised, read)
