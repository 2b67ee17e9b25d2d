"""SAELens folders (cfg.json + sae_weights.safetensors): our own format for dictionaries, and the field's.

Read from SAELens 6.54.12: version 6, the flat configurations before it, and training checkpoints. What that format has
no place for lies in `metadata` (facts) and in `original.safetensors` (tensors that the canonical weights lost); SAELens
passes both by.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from auditor.base.digest import canonical_json
from auditor.base.errors import AuditorError
from auditor.sae import conventions
from auditor.sae.conventions import Weights, one_side
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
from auditor.sae.formats.hooks import output_beside, usual
from auditor.sae.formats.original import of_format, original, restored
from auditor.sae.formats.saelens_temporal import is_tied, temporal_fields, temporal_settings, temporal_stored
from auditor.sae.sae import Arch, Normalise, Original, Sae

# Whose layout it is: without it SAELens takes a folder for one before version 6, and drops what `metadata` says.
_VERSION = "6.54.12"
WEIGHTS = "sae_weights.safetensors"
ORIGINAL = "original.safetensors"
SCALER = "activation_scaler.json"
WHITENING = "activation_whitening.safetensors"
_ARCHS = {
    "standard": "relu", "topk": "topk", "abstopk": "topk", "jumprelu": "jumprelu", "gated": "jumprelu",
    "batchtopk": "jumprelu", "matryoshka_batchtopk": "jumprelu", "matching_pursuit": "matching_pursuit",
    "transcoder": "relu", "skip_transcoder": "relu", "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu", "topk_transcoder": "topk", "topk_skip_transcoder": "topk",
    "groupmax": "groupmax", "groupmax_transcoder": "groupmax", "groupmax_skip_transcoder": "groupmax",
    "temporal": "topk",
}  # fmt: skip
_NAMES = {
    "relu": "standard", "topk": "topk", "groupmax": "groupmax", "jumprelu": "jumprelu",
    "matching_pursuit": "matching_pursuit",
}  # fmt: skip
_NORMALISE = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}
_ORIENTATION = "W_enc is [d_in, d_sae] and W_dec [d_sae, d_in] in this format."


def write(sae: Sae, path: Path, *, half: bool = False, exported: bool = False) -> Path:
    """Write `sae` as the folder `path`, whole or not at all; `exported`, with TransformerLens' names for SAELens, and
    ours beside. AuditorError if something is there already."""
    dtype = torch.float16 if half else torch.float32
    named = stored(sae, _architecture(sae))
    if sae.context is not None and is_tied(sae):
        del named["W_enc"]
    tensors = {name: _narrowed(name, tensor, dtype) for name, tensor in named.items()}
    files: dict[str, Any] = {WEIGHTS: tensors, CONFIG: canonical_json(_config(sae, half, exported))}
    if sae.original is not None and sae.original.tensors:
        files[ORIGINAL] = sae.original.tensors
    write_folder(path, files)
    return path


def read(path: Path) -> Sae:
    """The dictionary in the folder `path`; the format's conventions are folded into the canonical weights.

    Gated becomes the equal JumpReLU, signed TopK one of twice the features (each side of a feature is one), a
    checkpoint of BatchTopK a JumpReLU with its running threshold. A norm factor or whitening that lies beside a
    checkpoint is folded in. AuditorError for anything that is not such a folder, and for weights that are not finite.
    """
    path = Path(path)
    stood = read_config(path, WEIGHTS)
    config = _flat_to_v6(stood)
    name, architecture = path.name, str(config.get("architecture"))
    if architecture not in _ARCHS:
        raise AuditorError(
            f"“{name}” holds a dictionary of architecture “{architecture}”, which is not read.",
            f"Architectures that can be opened: {', '.join(_ARCHS)}.",
        )
    held = read_tensors(path / WEIGHTS)
    metadata = _table(config.get("metadata"))
    facts = _table(metadata.get("auditor_dictionary"))
    fields = _fields(path, config, architecture, {key: tensor.float() for key, tensor in held.items()})
    meta = dict(_table(metadata.get("auditor")))
    own = ("auditor", "auditor_dictionary")
    meta["origin"] = {key: value for key, value in metadata.items() if key not in own}
    hook = str(facts.get("hook") or metadata.get("hook_name") or "")
    if architecture.endswith("transcoder"):
        fields["hook_out"] = str(facts.get("hook_out") or metadata.get("hook_name_out") or "") or output_beside(hook)
    fields["sources"] = _sources(name, facts.get("sources"))
    arch = cast(Arch, fields.pop("arch", _ARCHS[architecture]))
    sae = Sae(arch, hook=hook, meta=meta, path=path, **fields)
    if "auditor" in metadata:
        sae.original = _kept_original(path, facts.get("original"))
    else:
        held |= {f"{WHITENING}:{key}": tensor for key, tensor in _whitening(path, config).items()}
        beside = {SCALER: read_json(path / SCALER)} if (path / SCALER).is_file() else {}
        sae.original = original("saelens", stood | beside, held, stored(sae, architecture))
        meta["origin"] |= _hints(config, architecture)
    return sae


def _recognised(path: Path) -> bool:
    return (path / WEIGHTS).is_file() and not ((path / "config.json").is_file() and not (path / CONFIG).is_file())


def _write_format(sae: Dictionary, path: Path) -> None:
    """As it was read where it came from this format; else the canonical weights, with TransformerLens' names."""
    if not isinstance(sae, Sae):
        raise AuditorError("SAELens has no place for a cross-layer transcoder.", "Export it as circuit_tracer.")
    was = of_format(sae, "saelens")
    if was is None and sae.arch == "groupmax":
        raise AuditorError("SAELens has no place for GroupMax.", "Export it as sparsify.")
    if was is None:
        write(sae, path, exported=True)
        return
    architecture = str(_flat_to_v6(was.config).get("architecture"))
    tensors = restored(was, stored(sae, architecture))
    beside = {key.partition(":")[2]: tensors.pop(key) for key in list(tensors) if key.startswith(f"{WHITENING}:")}
    config = dict(was.config)
    scaler = config.pop(SCALER, None)
    files: dict[str, Any] = {WEIGHTS: tensors, CONFIG: config_json(config)}
    files |= {} if scaler is None else {SCALER: config_json(scaler)}
    write_folder(path, files | ({WHITENING: beside} if beside else {}))


def weights_of(path: Path, config: dict[str, Any], architecture: str, tensors: Weights) -> tuple[Arch, dict[str, Any]]:
    """The kind of `Sae` and its fields of weights, for tensors and settings in this format's terms."""
    return cast(Arch, _ARCHS[architecture]), _fields(path, config, architecture, tensors)


def _fields(path: Path, config: dict[str, Any], architecture: str, tensors: Weights) -> dict[str, Any]:
    """Fields of the `Sae`, all conventions folded in."""
    name = path.name
    tensors = _finetuned(name, config, tensors)
    if architecture == "temporal":
        return temporal_fields(name, config, _table(_table(config.get("metadata")).get("auditor_dictionary")), tensors)
    _check(name, config, architecture, tensors)
    if architecture == "matching_pursuit":
        return _pursuit(path, config, tensors)
    fields: dict[str, Any] = {}
    if (skip := tensors.pop("W_skip", None)) is not None:
        fields["W_skip"] = skip.T.contiguous()
    if architecture == "gated":
        W_enc, b_gate, r_mag, b_mag = (tensors.pop(part) for part in ("W_enc", "b_gate", "r_mag", "b_mag"))
        if config.get("apply_b_dec_to_input", True) is False:
            shift = tensors["b_dec"] @ W_enc
            b_gate, b_mag = b_gate + shift, b_mag + shift * r_mag.exp()
        tensors = conventions.gated(W_enc, b_gate, r_mag, b_mag, tensors)
    elif not architecture.endswith("transcoder") and config.get("apply_b_dec_to_input", True) is False:
        tensors = conventions.input_not_centred(tensors)
    if (scalar := tensors.pop("topk_threshold", None)) is not None:
        tensors["threshold"] = scalar.expand(len(tensors["b_enc"])).clone()
    if config.get("rescale_acts_by_decoder_norm"):
        tensors = conventions.decoder_norms_in_activations(tensors)
    if "threshold" in tensors:
        tensors["threshold"] = tensors["threshold"].clamp_min(0)  # the tool's ReLU comes before its threshold
    if architecture == "abstopk":
        tensors = conventions.signed(tensors)
    if _ARCHS[architecture] in ("topk", "groupmax"):
        fields["k"] = whole_number(name, config, "k")
    normalise, tensors = _normalised(path, config, tensors)
    return fields | {"normalise": normalise} | tensors


def _check(name: str, config: dict[str, Any], architecture: str, tensors: Weights) -> None:
    wanted = {"W_enc", "b_enc", "W_dec", "b_dec"}
    if architecture == "gated":
        wanted = wanted - {"b_enc"} | {"b_gate", "r_mag", "b_mag"}
    elif architecture == "matching_pursuit":
        wanted = {"W_dec", "b_dec"}
    elif architecture.endswith("batchtopk"):
        wanted |= {"topk_threshold"}
    elif "jumprelu" in architecture:
        wanted |= {"threshold"}
    wanted |= {"W_skip"} if "skip" in architecture else set()
    what = f"the architecture {architecture}"
    expect(name, tensors, wanted, what, {"W_enc"} if architecture == "matching_pursuit" else ())
    W_enc = tensors["W_enc"] if "W_enc" in tensors else turned(name, tensors, "W_dec")
    transcodes = architecture.endswith("transcoder")
    expect_matrices(name, W_enc, tensors["W_dec"], _ORIENTATION, same=not transcodes)
    expect_stated(name, config, d_in=W_enc.shape[0], d_sae=W_enc.shape[1])
    shapes = {"W_enc": W_enc.shape, "W_dec": tensors["W_dec"].shape, "b_dec": (tensors["W_dec"].shape[1],)}
    shapes |= {"topk_threshold": (), "W_skip": (tensors["W_dec"].shape[1], W_enc.shape[0])}
    for key, tensor in tensors.items():
        expected = tuple(shapes.get(key, (W_enc.shape[1],)))
        if tuple(tensor.shape) != expected:
            raise AuditorError(
                f"“{name}”: {key} has shape {list(tensor.shape)}, but W_enc {list(W_enc.shape)} asks for "
                f"{list(expected)}.",
                _ORIENTATION,
            )


def _finetuned(name: str, config: dict[str, Any], tensors: Weights) -> Weights:
    """Before version 6, activations could be multiplied by a scale for each feature on their way to the decoder."""
    tensors = dict(tensors)
    scaling = tensors.pop("scaling_factor", None)
    if scaling is None or torch.equal(scaling, torch.ones_like(scaling)):
        return tensors
    if not config.get("finetuning_scaling_factor") or scaling.shape != tensors.get("b_enc", scaling).shape:
        raise AuditorError(
            f"“{name}” carries a fine-tuning scale for each feature that its settings do not name.",
            "Fold it in SAELens first.",
        )
    return tensors | {"W_dec": tensors["W_dec"] * scaling[:, None]}


def _normalised(path: Path, config: dict[str, Any], tensors: Weights) -> tuple[Normalise, Weights]:
    """What is left to do to each row, and the weights with what could be folded in."""
    asked = str(config.get("normalize_activations") or "none")
    if asked == "expected_average_only_in":
        factor = _scaling_factor(path)
        return "none", tensors if factor is None else conventions.input_scaled(tensors, factor)
    if parts := _whitening(path, config):
        return "none", conventions.input_whitened(tensors, parts["mean"], parts["matrix"], parts["inverse_matrix"])
    if asked not in _NORMALISE:
        raise AuditorError(
            f"“{path.name}” normalises its input while running ({asked}), and what it needs for that is not there.",
            "Fold it into the weights in SAELens, then save again.",
        )
    return cast(Normalise, _NORMALISE[asked]), tensors


def _whitening(path: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """Of a training checkpoint: mean [d_in], matrix and inverse_matrix [d_in, d_in]; empty where it has none."""
    if config.get("normalize_activations") != "covariance_whitening" or not (path / WHITENING).is_file():
        return {}
    parts = read_tensors(path / WHITENING)
    expect(WHITENING, parts, ("mean", "matrix", "inverse_matrix"), "whitening")
    return parts


def _scaling_factor(path: Path) -> float | None:
    """Of a training checkpoint; SAELens itself leaves it out where the file is not there."""
    if not (path / SCALER).is_file():
        return None
    factor = read_json(path / SCALER).get("scaling_factor")
    if factor is None:
        return None
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 1e30:
        raise AuditorError(f"{SCALER} in “{path.name}” states the factor {factor!r}.", "Get the file again.")
    return float(factor)


def _pursuit(path: Path, config: dict[str, Any], tensors: Weights) -> dict[str, Any]:
    """Matching pursuit is tied; without b_dec on its input it has none on its output either."""
    d_sae, d_in = tensors["W_dec"].shape
    b_dec = tensors["b_dec"] if config.get("apply_b_dec_to_input", True) else torch.zeros(d_in)
    least = config.get("residual_threshold", 1e-2)
    if isinstance(least, bool) or not isinstance(least, int | float):
        raise AuditorError(f"“{path.name}”: residual_threshold is {least!r}, not a number.", "Get the files again.")
    turns = (
        min(d_in, d_sae) if config.get("max_iterations") is None else whole_number(path.name, config, "max_iterations")
    )
    normalise, _ = _normalised(path, config, {"W_enc": tensors["W_dec"].T, "W_dec": tensors["W_dec"], "b_dec": b_dec})
    factor = 1.0
    if config.get("normalize_activations") == "expected_average_only_in":
        factor = _scaling_factor(path) or 1.0
    return {
        "W_enc": tensors["W_dec"].T.contiguous(),
        "W_dec": tensors["W_dec"],
        "b_enc": torch.zeros(d_sae),
        "b_dec": b_dec / factor,
        "k": min(turns, d_sae),
        "residual_threshold": max(0.0, float(least) / factor),
        "stop_on_repeat": bool(config.get("stop_on_duplicate_support", True)),
        "normalise": normalise,
    }


def _hints(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """What the import doctor may want to know beside the weights."""
    found = {"format": "saelens", "architecture": architecture, "k": config.get("k")}
    found |= {key: config.get(key) for key in ("normalize_activations", "reshape_activations")}
    return {key: value for key, value in found.items() if value not in (None, "none")}


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _sources(name: str, listed: Any) -> tuple[tuple[str, int], ...]:
    try:
        return tuple((str(source), int(width)) for source, width in listed or ())
    except (TypeError, ValueError) as error:
        raise AuditorError(f"“{name}” names sources that are none.", "Get the files again.") from error


def _kept_original(path: Path, facts: Any) -> Original | None:
    """What our own folder says of the format that a dictionary was imported from."""
    if not isinstance(facts, dict):
        return None
    tensors = read_tensors(path / ORIGINAL, whole=facts.get("dtypes", {})) if (path / ORIGINAL).is_file() else {}
    config, dtypes = facts.get("config"), facts.get("dtypes")
    if not isinstance(config, dict) or not isinstance(dtypes, dict):
        raise AuditorError(f"“{path.name}” does not say what its original tensors are of.", "Import it again.")
    return Original(str(facts.get("format")), config, tensors, {str(k): str(v) for k, v in dtypes.items()})


def _architecture(sae: Sae) -> str:
    if sae.context is not None:
        return "temporal"
    of_topk = sae.arch == "topk" and not sae.hook_out and not sae.sources and 2 * (sae.k or 0) <= sae.d_sae
    if of_topk and one_side(sae.tensors()) is not None:
        return "abstopk"
    if not sae.hook_out:
        return _NAMES[sae.arch]
    if sae.arch == "matching_pursuit":
        raise AuditorError("There is no place for a transcoder by matching pursuit.", "Train another architecture.")
    kind = {"relu": "", "jumprelu": "jumprelu_", "topk": "topk_", "groupmax": "groupmax_"}[sae.arch]
    return f"{kind}{'skip_' if sae.W_skip is not None else ''}transcoder"


def stored(sae: Sae, architecture: str) -> dict[str, Tensor]:
    """The canonical weights under the names of `architecture`, as far as they have them."""
    if sae.context is not None:
        return temporal_stored(sae)
    named = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if architecture == "abstopk":
        half = sae.d_sae // 2
        named |= {"W_enc": sae.W_enc[:, :half], "b_enc": sae.b_enc[:half], "W_dec": sae.W_dec[:half]}
    if architecture == "matching_pursuit":
        del named["W_enc"], named["b_enc"]
    elif architecture == "gated":
        named = {"W_dec": sae.W_dec, "b_dec": sae.b_dec, "b_mag": sae.b_enc}
    elif architecture.endswith("batchtopk") and sae.threshold is not None:
        named["topk_threshold"] = sae.threshold[0]
    elif sae.threshold is not None:
        named["threshold"] = sae.threshold
    return named | ({} if sae.W_skip is None else {"W_skip": sae.W_skip.T})


def _config(sae: Sae, half: bool, exported: bool) -> dict[str, Any]:
    hook, hook_out = (usual(name) if exported else name for name in (sae.hook, sae.hook_out))
    metadata: dict[str, Any] = {"sae_lens_version": _VERSION} if exported else {}
    metadata |= {key: value for key, value in sae.meta.get("origin", {}).items() if value is not None}
    metadata |= {"hook_name": hook, "auditor": {k: v for k, v in sae.meta.items() if k != "origin"}}
    facts: dict[str, Any] = {"sources": [list(source) for source in sae.sources]} if sae.sources else {}
    facts |= {"least_norm": sae.context.least} if sae.context is not None else {}
    if sae.original is not None:
        facts["original"] = {
            "format": sae.original.format,
            "config": sae.original.config,
            "dtypes": sae.original.dtypes,
        }
    facts |= {"hook": sae.hook, "hook_out": sae.hook_out} if (hook, hook_out) != (sae.hook, sae.hook_out) else {}
    metadata |= {"hook_name_out": hook_out} if hook_out else {}
    metadata |= {"auditor_dictionary": facts} if facts else {}
    model = sae.meta.get("model")
    if model:
        metadata["model_name"] = str(model)
    normalise = {ours: theirs for theirs, ours in _NORMALISE.items()}[sae.normalise]
    architecture = _architecture(sae)
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae // 2 if architecture == "abstopk" else sae.d_sae,
        "device": "cpu",
        "dtype": "float16" if half else "float32",
        "apply_b_dec_to_input": not sae.hook_out,
        "normalize_activations": normalise,
        "reshape_activations": "none",
        "metadata": metadata,
    }
    if sae.hook_out:
        config["d_out"] = sae.d_out
    if sae.context is not None:
        return config | temporal_settings(sae)
    if sae.arch in ("topk", "groupmax"):
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    if sae.arch == "matching_pursuit":
        config |= {"max_iterations": sae.k, "residual_threshold": sae.residual_threshold}
        config["stop_on_duplicate_support"] = sae.stop_on_repeat
    return config


def _narrowed(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    narrow = tensor.detach().cpu().to(dtype).contiguous()
    if not torch.isfinite(narrow).all():
        raise AuditorError(
            f"The dictionary's {name} does not fit {str(dtype).removeprefix('torch.')}.", "Save it in full precision."
        )
    return narrow


def _flat_to_v6(config: dict[str, Any]) -> dict[str, Any]:
    """Configurations before SAELens 6 had no metadata and named architecture, hook and TopK otherwise."""
    if "metadata" in config:
        return config
    old = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
    flat = {old.get(key, key): value for key, value in config.items()}
    kwargs = flat.get("activation_fn_kwargs")
    if flat.get("activation_fn") == "topk" and isinstance(kwargs, dict) and kwargs.get("k") is not None:
        flat |= {"architecture": "topk", "k": kwargs["k"]}
    flat.setdefault("architecture", "standard")
    if isinstance(flat.get("normalize_activations"), bool):
        flat["normalize_activations"] = "expected_average_only_in" if flat["normalize_activations"] else "none"
    flat.setdefault("apply_b_dec_to_input", True)
    flat.setdefault("reshape_activations", "hook_z" if "hook_z" in str(flat.get("hook_name", "")) else "none")
    known = (
        "model_name",
        "hook_name",
        "hook_head_index",
        "prepend_bos",
        "context_size",
        "dataset_path",
        "neuronpedia_id",
    )
    flat["metadata"] = {"hook_name": flat.get("hook_name", "")} | {key: flat[key] for key in known if key in flat}
    return flat


FORMAT = Format("saelens", "SAELens folder", _recognised, read, _write_format)
