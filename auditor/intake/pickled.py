"""Tensors of a torch pickle (.pt), read in a jailed child: what comes back is a safetensors file and plain values."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.base.errors import AuditorError
from auditor.intake.jail import Limits, jailed
from auditor.intake.safetensors_header import check_safetensors

if TYPE_CHECKING:
    from torch import Tensor

_INSTEAD = "Ask for the weights as safetensors, which cannot carry code."
_LONGEST_TEXT, _MOST_ITEMS, _DEEPEST = 10_000, 10_000, 6


def read_pickle(path: Path, inside: tuple[str, ...] = (), skip: int = 0) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, plain values by name) of the state dictionary in the torch file `path` from byte `skip` on.

    If the pickled object holds a dictionary under one of the names `inside`, that is the state dictionary, and of the
    rest only plain values are kept. Only tensors and plain values are accepted (torch's weights_only); AuditorError
    where the file holds anything else, is damaged, or claims more than it holds.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise AuditorError(f"There is no file “{path.name}”.", "Check the path.")
    size = path.stat().st_size
    limits = Limits(memory_bytes=(8 << 30) + 8 * size, cpu_seconds=600, wall_seconds=300.0, file_bytes=size + (1 << 20))
    with tempfile.TemporaryDirectory(prefix="auditor-pickle-") as folder:
        out = Path(folder) / "tensors.safetensors"
        asked = (str(path.resolve()), str(out), list(inside), skip)
        plain = jailed("auditor.intake.pickled:unpacked", *asked, limits=limits)
        if not out.is_file():
            raise AuditorError(f"“{path.name}” holds no tensors.", "Choose the file of the weights.")
        check_safetensors(out)
        return {name: tensor.clone() for name, tensor in load_file(out).items()}, dict(plain)


def unpacked(path: str, out: str, inside: list[str], skip: int) -> dict[str, Any]:
    """Runs in the child: writes the tensors to `out` and gives the plain values."""
    import torch
    from safetensors.torch import save_file

    source = Path(path)
    with open(source, "rb") as file:
        file.seek(skip)
        _check_archive(source, skip)
        try:
            loaded = torch.load(file if skip else path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise AuditorError(
                f"“{source.name}” holds more than tensors or is damaged, so it was not read.", _INSTEAD
            ) from error
    if not isinstance(loaded, dict):
        raise AuditorError(f"“{source.name}” is not a table of tensors.", "Choose the file of the weights.")
    state = next((loaded[name] for name in inside if isinstance(loaded.get(name), dict)), loaded)
    tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    for name, tensor in tensors.items():
        if tensor.is_sparse or tensor.is_quantized or tensor.device.type != "cpu":
            raise AuditorError(f"“{name}” in “{source.name}” is not an ordinary tensor.", _INSTEAD)
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise AuditorError(f"“{name}” in “{source.name}” claims to be larger than the file.", _INSTEAD)
    plain = {str(name): value for name, value in state.items() if not isinstance(value, torch.Tensor)}
    if state is not loaded:
        single = {name: v.item() for name, v in loaded.items() if isinstance(v, torch.Tensor) and v.numel() == 1}
        plain |= {str(name): value for name, value in (loaded | single).items() if value is not state}
    if tensors:
        save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, out)
    return {name: kept for name, value in plain.items() if (kept := _plain(value)) is not None}


def _check_archive(path: Path, skip: int) -> None:
    """torch unpacks what is packed in its zip: its own files never are."""
    if skip or not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise AuditorError(f"“{path.name}” is packed in an unusual way.", _INSTEAD)


def _plain(value: Any, depth: int = 0) -> Any:
    """None, bool, int, float, short text, and lists and dicts of those; None in the place of anything else."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else None
    if depth < _DEEPEST and isinstance(value, list | tuple) and len(value) <= _MOST_ITEMS:
        return [_plain(item, depth + 1) for item in value]
    if depth < _DEEPEST and isinstance(value, dict) and len(value) <= _MOST_ITEMS:
        return {str(name): _plain(item, depth + 1) for name, item in value.items()}
    return None
