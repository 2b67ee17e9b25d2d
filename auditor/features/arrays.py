"""The index's arrays in one .npz: written with fixed dates, read one by one with size and shape checked first."""

from __future__ import annotations

import io
import struct
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.base.errors import AuditorError
from auditor.features.layout import REBUILD

_HEADER = 256
_MAX_COLUMNS = 10_000
# What zipfile and numpy's header parser raise on mutated files.
_DAMAGED = (
    KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError, SyntaxError,
    TypeError, IndexError, MemoryError, OverflowError, struct.error, tokenize.TokenError, zlib.error,
)  # fmt: skip
_COMPRESS_UNDER = 1 << 26


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the arrays; small files are compressed, large ones left plain so that they open fast."""
    small = sum(array.nbytes for array in arrays.values()) < _COMPRESS_UNDER
    with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED if small else zipfile.ZIP_STORED) as file:
        for name in sorted(arrays):
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED if small else zipfile.ZIP_STORED
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(arrays[name]), version=(1, 0), allow_pickle=False)
            file.writestr(info, buffer.getvalue(), compresslevel=9 if small else None)


class ArrayFile:
    """Reads arrays of an .npz by name and keeps them. Safe from several threads."""

    def __init__(self, path: Path) -> None:
        self._name = f"{path.parent.name}/{path.name}"
        self._lock = threading.Lock()
        self._kept: dict[str, NDArray[Any]] = {}
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGED:
            raise AuditorError(f"“{self._name}” cannot be read.", REBUILD) from None

    def read(self, name: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
        """The array `name`; None in `shape` stands for any length. AuditorError where it is not a plain number array
        of that shape."""
        with self._lock:
            if name not in self._kept:
                self._kept[name] = self._load(name, shape)
            return self._kept[name]

    def close(self) -> None:
        self._zip.close()

    def _load(self, name: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
        damaged = AuditorError(f"“{name}” in “{self._name}” is damaged.", REBUILD)
        try:
            info = self._zip.getinfo(f"{name}.npy")
            most = int(np.prod([_MAX_COLUMNS if n is None else n for n in shape])) * 8 + _HEADER
            if info.file_size > most:
                raise damaged
            with self._zip.open(info) as file:
                array = np.lib.format.read_array(io.BytesIO(file.read(info.file_size)), allow_pickle=False)
        except _DAMAGED:
            raise damaged from None
        fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
        if not fits or array.dtype.kind not in "iuf":
            raise damaged
        return array
