"""Whole arrays of an .npz archive, whose zip is checked first, and of a .npy file; no array can be a pickle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.base.errors import AuditorError
from auditor.intake.archives import members, read_member
from auditor.intake.arrays import npy_header

MAX_ARRAY_BYTES = 16 << 30
_AGAIN = "Ask for the file again; arrays of numbers need no code."


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of numbers by its name. AuditorError for an archive or array that is damaged or could do harm."""
    found = {}
    for member, size in members(path, most=MAX_ARRAY_BYTES).items():
        name = member.removesuffix(".npy")
        if name == member:
            raise AuditorError(f"“{path.name}” holds “{member}”, which is no array.", _AGAIN)
        if size > MAX_ARRAY_BYTES:
            raise AuditorError(f"“{name}” in “{path.name}” is larger than {MAX_ARRAY_BYTES >> 30} GiB.", _AGAIN)
        found[name] = _array(path, name, read_member(path, member, most=MAX_ARRAY_BYTES))
    if not found:
        raise AuditorError(f"“{path.name}” holds no arrays.", "Choose the file of the weights.")
    return found


def read_npy(path: Path) -> NDArray[Any]:
    """The array of a .npy file. AuditorError for one that is damaged or could do harm."""
    try:
        if not path.is_file():
            raise AuditorError(f"“{path}” is missing, or no plain file.", "Choose another file.")
        if path.stat().st_size > MAX_ARRAY_BYTES:
            raise AuditorError(f"“{path.name}” is larger than {MAX_ARRAY_BYTES >> 30} GiB.", _AGAIN)
        return _array(path, path.stem, path.read_bytes())
    except OSError as error:
        raise AuditorError(f"“{path}” cannot be read: {error.strerror}.", "Choose another file.") from error


def _array(path: Path, name: str, data: bytes) -> NDArray[Any]:
    shape, fortran, dtype, begin = npy_header(path, name, data)
    if math.prod(shape) * dtype.itemsize != len(data) - begin:
        raise AuditorError(f"“{name}” in “{path.name}” has another size than its shape {list(shape)} says.", _AGAIN)
    try:
        flat = np.frombuffer(data, dtype=dtype, offset=begin)
        return flat.reshape(shape, order="F" if fortran else "C")
    except (ValueError, OverflowError) as error:  # a side beyond what an index can be, in an array of nothing
        raise AuditorError(f"“{name}” in “{path.name}” has no usable shape.", _AGAIN) from error
