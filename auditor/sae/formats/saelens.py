"""SAELens v6 folders (cfg.json + sae_weights.safetensors): our own format for dictionaries, and the field's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from auditor.base.digest import canonical_json
from auditor.base.errors import AuditorError
from auditor.base.files import partial
from auditor.sae.formats.folder import CONFIG, read_config, read_weights
from auditor.sae.sae import Arch, Sae

WEIGHTS = "sae_weights.safetensors"
_ARCHS = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu"}
_NAMES = {ours: theirs for theirs, ours in _ARCHS.items()}


def write(sae: Sae, path: Path, *, half: bool = False) -> Path:
    """Write `sae` as the folder `path`, whole or not at all. AuditorError if something is there already."""
    if path.exists():
        raise AuditorError(f"“{path.name}” exists already.", "Choose another name; dictionaries are never overwritten.")
    dtype = torch.float16 if half else torch.float32
    tensors = {name: _narrowed(name, tensor, dtype) for name, tensor in sae.tensors().items()}
    with partial(path) as folder:
        folder.mkdir()
        save_file(tensors, folder / WEIGHTS)
        (folder / CONFIG).write_bytes(canonical_json(_config(sae, half)))
    return path


def read(path: Path) -> Sae:
    """The dictionary in the folder `path`; other tools' conventions are folded into the canonical weights.

    Reads SAELens 6 and the flat configurations before it. AuditorError for anything that is not such a folder, for
    weights that are not finite, and for settings that need more than the weights (run-time normalisation).
    """
    path = Path(path)
    config = _flat_to_v6(read_config(path, WEIGHTS))
    weights = read_weights(path / WEIGHTS)
    arch = _ARCHS.get(str(config.get("architecture")))
    if arch is None:
        raise AuditorError(
            f"“{path.name}” holds a dictionary of architecture “{config.get('architecture')}”, which is not read.",
            f"Architectures that can be opened: {', '.join(_ARCHS)}.",
        )
    if config.get("normalize_activations", "none") not in ("none", None):
        raise AuditorError(
            f"“{path.name}” normalises its input while running ({config['normalize_activations']}).",
            "Fold it into the weights in SAELens (fold_activation_norm_scaling_factor), then save again.",
        )
    tensors: dict[str, Any] = _canonical(weights, config, path.name)
    metadata = config.get("metadata") if isinstance(config.get("metadata"), dict) else {}
    k = config.get("k") if arch == "topk" else None
    if k is not None and (isinstance(k, bool) or not isinstance(k, int)):
        raise AuditorError(f"“{path.name}”: k is {k!r}, not a whole number.")
    meta = dict(metadata.get("auditor", {})) if metadata else {}
    meta["origin"] = {key: value for key, value in metadata.items() if key != "auditor"} if metadata else {}
    hook = str((metadata or {}).get("hook_name") or "")
    return Sae(cast(Arch, arch), k=k, hook=hook, meta=meta, path=path, **tensors)


def _config(sae: Sae, half: bool) -> dict[str, Any]:
    metadata = {key: value for key, value in sae.meta.get("origin", {}).items() if value is not None}
    metadata |= {"hook_name": sae.hook, "auditor": {k: v for k, v in sae.meta.items() if k != "origin"}}
    model = sae.meta.get("model")
    if model:
        metadata["model_name"] = str(model)
    config: dict[str, Any] = {
        "architecture": _NAMES[sae.arch], "d_in": sae.d_in, "d_sae": sae.d_sae, "device": "cpu",
        "dtype": "float16" if half else "float32", "apply_b_dec_to_input": True, "normalize_activations": "none",
        "reshape_activations": "none", "metadata": metadata,
    }
    if sae.arch == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    return config


def _narrowed(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    narrow = tensor.detach().cpu().to(dtype).contiguous()
    if not torch.isfinite(narrow).all():
        raise AuditorError(
            f"The dictionary's {name} does not fit {str(dtype).removeprefix('torch.')}.", "Save it in full precision."
        )
    return narrow


def _flat_to_v6(config: dict[str, Any]) -> dict[str, Any]:
    """Configurations before SAELens 6 had no metadata and named architecture and TopK otherwise."""
    if "metadata" in config:
        return config
    flat = dict(config)
    kwargs = flat.get("activation_fn_kwargs")
    if flat.get("activation_fn", flat.get("activation_fn_str")) == "topk" and isinstance(kwargs, dict):
        flat |= {"architecture": "topk", "k": kwargs.get("k")}
    flat.setdefault("architecture", "standard")
    if isinstance(flat.get("normalize_activations"), bool):
        flat["normalize_activations"] = "expected_average_only_in" if flat["normalize_activations"] else "none"
    flat.setdefault("apply_b_dec_to_input", True)
    flat["metadata"] = {"hook_name": flat.get("hook_name", flat.get("hook_point", ""))}
    flat["metadata"] |= {"model_name": flat.get("model_name")}
    return flat


def _canonical(weights: dict[str, Tensor], config: dict[str, Any], name: str) -> dict[str, Tensor]:
    """The four (or five) canonical tensors, with conventions folded in so that encode always subtracts b_dec."""
    weights = dict(weights)
    scaling = weights.pop("scaling_factor", None)
    if scaling is not None and not torch.equal(scaling, torch.ones_like(scaling)):
        raise AuditorError(f"“{name}” carries a fine-tuning scale for each feature.", "Fold it in SAELens first.")
    wanted = {"W_enc", "b_enc", "W_dec", "b_dec"} | ({"threshold"} if config["architecture"] == "jumprelu" else set())
    if set(weights) != wanted:
        raise AuditorError(
            f"“{name}” holds the tensors {', '.join(sorted(weights)) or 'none'}; "
            f"its architecture needs {', '.join(sorted(wanted))}.", "Get the files again.",
        )
    if weights["W_enc"].ndim != 2 or weights["W_dec"].shape != weights["W_enc"].T.shape:
        raise AuditorError(
            f"“{name}”: W_enc {list(weights['W_enc'].shape)} and W_dec {list(weights['W_dec'].shape)} do not fit.",
            "W_enc is [d_in, d_sae] and W_dec [d_sae, d_in] in this format.",
        )
    found = list(weights["W_enc"].shape)
    stated = [config.get("d_in", found[0]), config.get("d_sae", found[1])]
    if stated != found:
        raise AuditorError(f"“{name}”: {CONFIG} states d_in, d_sae = {stated}, but W_enc is {found}.")
    if config["architecture"] == "topk" and config.get("rescale_acts_by_decoder_norm"):
        norm = weights["W_dec"].norm(dim=1).clamp_min(1e-12)
        weights |= {"W_enc": weights["W_enc"] * norm, "b_enc": weights["b_enc"] * norm}
        weights["W_dec"] = weights["W_dec"] / norm[:, None]
    if not config.get("apply_b_dec_to_input", True):
        weights["b_enc"] = weights["b_enc"] + weights["b_dec"] @ weights["W_enc"]
    return weights
