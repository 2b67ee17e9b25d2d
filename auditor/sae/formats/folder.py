"""The two files that dictionary folders are made of, read with their checks: cfg.json and one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from auditor.base.errors import AuditorError

CONFIG = "cfg.json"
_MAX_CONFIG_BYTES = 4 << 20
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def read_config(path: Path, weights: str) -> dict[str, Any]:
    """The JSON object in cfg.json of the folder `path`, which must also hold the file `weights`."""
    file = path / CONFIG
    if not path.is_dir() or not file.is_file() or not (path / weights).is_file():
        raise AuditorError(
            f"“{path.name}” is not a dictionary: it needs {CONFIG} and {weights}.",
            "Choose the folder that holds these two files, or import a foreign format first.",
        )
    if file.stat().st_size > _MAX_CONFIG_BYTES:
        raise AuditorError(f"{CONFIG} in “{path.name}” is larger than {_MAX_CONFIG_BYTES >> 20} MiB.")
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise AuditorError(f"{CONFIG} in “{path.name}” is not JSON ({error}).", "Get the file again.") from error
    if not isinstance(config, dict):
        raise AuditorError(f"{CONFIG} in “{path.name}” is not a JSON object.", "Get the file again.")
    return config


def read_weights(file: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file as float32; AuditorError unless all are floating and finite."""
    try:
        raw = load_file(file)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise AuditorError(f"“{file.name}” is not a safetensors file ({error}).", "Get the file again.") from error
    for name, tensor in raw.items():
        if tensor.dtype not in _DTYPES:
            raise AuditorError(f"“{name}” in “{file.name}” is {tensor.dtype}, not a floating type.")
        if not torch.isfinite(tensor).all():
            raise AuditorError(f"“{name}” in “{file.name}” holds values that are not finite.", "Get the file again.")
    return {name: tensor.float() for name, tensor in raw.items()}
