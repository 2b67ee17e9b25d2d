"""The files that dictionary folders are made of, read with their checks: JSON settings and files of tensors."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.base.files import partial
from auditor.intake.safetensors_header import check_safetensors

CONFIG = "cfg.json"
_MAX_CONFIG_BYTES = 4 << 20
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def read_config(path: Path, weights: str, config: str = CONFIG) -> dict[str, Any]:
    """The JSON object in the file `config` of the folder `path`, which must also hold the file `weights`."""
    if not path.is_dir() or not (path / config).is_file() or not (path / weights).is_file():
        raise AuditorError(
            f"“{path.name}” is not a dictionary: it needs {config} and {weights}.",
            "Choose the folder that holds these two files, or import a foreign format first.",
        )
    return read_json(path / config)


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`. AuditorError if it is large, deep, not JSON or no object."""
    told = f"{file.name} in “{file.parent.name}”"
    if file.stat().st_size > _MAX_CONFIG_BYTES:
        raise AuditorError(f"{told} is larger than {_MAX_CONFIG_BYTES >> 20} MiB.", "Get the file again.")
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise AuditorError(f"{told} is not JSON ({error}).", "Get the file again.") from error
    if not isinstance(config, dict):
        raise AuditorError(f"{told} is not a JSON object.", "Get the file again.")
    return config


def read_tensors(file: Path, whole: Collection[str] = ()) -> dict[str, Tensor]:
    """Every tensor of a safetensors file as it is stored. AuditorError for what `check_tensors` refuses."""
    try:
        check_safetensors(file)
        raw: dict[str, Tensor] = load_file(file)
    except AuditorError as error:
        raise AuditorError(f"“{file.name}” is not a safetensors file ({error.message}).", error.hint) from error
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise AuditorError(f"“{file.name}” is not a safetensors file ({error}).", "Get the file again.") from error
    check_tensors(file.name, raw, whole)
    return raw


def check_tensors(name: str, tensors: Mapping[str, Tensor], whole: Collection[str] = ()) -> None:
    """AuditorError unless every tensor is floating and finite; those named in `whole` may hold whole numbers."""
    for key, tensor in tensors.items():
        if key in whole and not tensor.is_floating_point():
            continue
        if tensor.dtype not in _DTYPES:
            raise AuditorError(f"“{key}” in “{name}” is {tensor.dtype}, not a floating type.")
        if not torch.isfinite(tensor).all():
            raise AuditorError(f"“{key}” in “{name}” holds values that are not finite.", "Get the file again.")


def expect(
    name: str, tensors: Mapping[str, Tensor], wanted: Collection[str], what: str, also: Collection[str] = ()
) -> None:
    """AuditorError unless `tensors` has just the names `wanted`, and perhaps some of `also`; `what` needs them."""
    if not set(wanted) <= set(tensors) <= {*wanted, *also}:
        raise AuditorError(
            f"“{name}” holds the tensors {', '.join(sorted(tensors)[:20]) or 'none'}; "
            f"{what} needs {', '.join(sorted(wanted))}.",
            "Get the files again.",
        )


def expect_matrices(name: str, W_enc: Tensor, W_dec: Tensor, said: str, same: bool = True) -> None:
    """AuditorError unless W_enc [d_in, d_sae] and W_dec [d_sae, d_out] fit, where `same` with d_out = d_in; `said`
    tells how the format has them."""
    fit = W_enc.ndim == W_dec.ndim == 2 and W_enc.shape[1] == W_dec.shape[0] and W_enc.numel() and W_dec.numel()
    if not fit or (same and W_enc.shape[0] != W_dec.shape[1]):
        raise AuditorError(f"“{name}”: W_enc {list(W_enc.shape)} and W_dec {list(W_dec.shape)} do not fit.", said)


def expect_vectors(name: str, weights: Mapping[str, Tensor]) -> None:
    """AuditorError unless b_enc and b_dec have a number for each column of W_enc and of W_dec."""
    for bias, weight in (("b_enc", "W_enc"), ("b_dec", "W_dec")):
        if weights[bias].shape != weights[weight].shape[1:]:
            raise AuditorError(
                f"“{name}”: the bias beside {weight} {list(weights[weight].shape)} has the shape "
                f"{list(weights[bias].shape)}.",
                "Get the files again.",
            )


def turned(name: str, tensors: Mapping[str, Tensor], key: str) -> Tensor:
    """The matrix `key` of `tensors`, transposed. AuditorError if it is no matrix."""
    if tensors[key].ndim != 2:
        raise AuditorError(f"“{name}”: {key} is {list(tensors[key].shape)}, not a matrix.", "Get the files again.")
    return tensors[key].T.contiguous()


def expect_stated(name: str, config: Mapping[str, Any], **found: int) -> None:
    """AuditorError where the settings state another size than the tensors have."""
    for key, size in found.items():
        stated = config.get(key, size)
        if stated != size:
            raise AuditorError(
                f"“{name}”: its settings state {key} = {stated!r}, but its tensors have {size}.", "Get the files again."
            )


def whole_number(name: str, config: Mapping[str, Any], key: str) -> int:
    """The positive whole number `key` of the settings; AuditorError where it is something else."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 40:
        raise AuditorError(f"“{name}”: {key} is {value!r}, not a whole number above 0.", "Get the files again.")
    return value


def write_folder(path: Path, files: Mapping[str, bytes | Mapping[str, Tensor]]) -> None:
    """Write the folder `path`, whole or not at all: bytes as they are, tensors as safetensors files."""
    if path.exists():
        raise AuditorError(f"“{path.name}” exists already.", "Choose another name; dictionaries are never overwritten.")
    with partial(path) as folder:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in content.items()}
                save_file(tensors, folder / name, metadata={"format": "pt"})


def config_json(config: Mapping[str, Any]) -> bytes:
    """Settings as other tools write them: JSON in the order they stood."""
    return json.dumps(config, indent=1, ensure_ascii=False).encode() + b"\n"
