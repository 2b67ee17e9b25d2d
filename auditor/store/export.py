"""One hook point of a store as a plain file for other programs: .npy, .safetensors or .h5."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from auditor.base.errors import AuditorError
from auditor.base.files import partial
from auditor.base.reporter import Reporter
from auditor.intake.hdf5 import h5py
from auditor.store.convert import Numbers
from auditor.store.formats import exported
from auditor.store.layout import COLUMNS, RAW
from auditor.store.reader import Store

FORMATS = (".npy", ".safetensors", ".h5")
_CHUNK_ROWS = 8192
Arrays = dict[str, tuple[tuple[int, ...], str]]
_SAFETENSORS = {"float16": "F16", "float32": "F32", "bfloat16": "BF16", "int32": "I32", "uint8": "U8"}


def export_hook(store: Store, hook: str | None, path: Path | str, reporter: Reporter | None = None) -> Path:
    """Write the rows of `hook` to `path`, whose ending chooses the format: in the store's dtype where that has it, else
    as float32 (int8, and bfloat16 but in .safetensors).

    .npy has the rows alone; .safetensors and .h5 have ``activations`` [n, width] with ``sample``, ``unit``, ``kind``,
    ``token`` [n] beside them, the names of the samples and what `auditor.store.formats.exported` tells. The file
    appears whole or not at all. AuditorError: another ending, no room.
    """
    reporter, target, name = reporter or Reporter(), Path(path), store.hook(hook)
    store = store.at(name)
    if target.suffix not in FORMATS:
        raise AuditorError(f"“{target.name}” has no known ending.", f"The formats are {', '.join(FORMATS)}.")
    if not store.n_rows:
        raise AuditorError(f"The store “{store.name}” has no rows of {name}.", "Choose another hook point.")
    arrays: Arrays = {"activations": ((store.n_rows, store.hook_points[name]), _written_as(store.dtype, target.suffix))}
    if target.suffix != ".npy":
        arrays |= {column: ((store.n_rows,), dtype) for column, dtype in COLUMNS.items()}
    check_room(target, sum(_bytes(shape, dtype) for shape, dtype in arrays.values()))
    beside = _beside(store, name, target.suffix, reporter)
    arrays |= {array: (held.shape, str(held.dtype)) for array, held in beside.items()}
    total = sum(shape[0] for shape, _ in arrays.values())
    reporter.started(f"Export {name} of {store.name}", total, "rows")
    with partial(target) as unfinished:
        if target.suffix == ".safetensors":
            offsets = _begin_safetensors(unfinished, arrays, exported.saying(store, name))
        else:
            offsets = (_begin_npy if target.suffix == ".npy" else _begin_hdf5)(unfinished, arrays)
        with open(unfinished, "r+b") as file:
            done = 0
            for array, (_, dtype) in arrays.items():
                file.seek(offsets[array])
                pieces = iter([beside[array]]) if array in beside else _pieces(store, name, array, dtype)
                done = _write(file, pieces, reporter, done, total)
    return target


def _beside(store: Store, hook: str, suffix: str, reporter: Reporter) -> dict[str, np.ndarray]:
    """The names of the samples, and in HDF5 what is said of the whole, as the format keeps texts."""
    if suffix == ".npy":
        return {}
    found = []
    for number in range(store.n_samples):
        reporter.check()
        found.append(store.sample(number).id.encode("utf-8", "replace")[: exported.LONGEST_ID])
    ids = np.array(found, dtype=f"S{max(1, *map(len, found))}")
    if suffix == ".safetensors":
        return {exported.IDS: ids.view(np.uint8).reshape(len(ids), -1)}
    return {exported.IDS: ids, exported.NAME: np.array([exported.saying(store, hook).encode()])}


def _begin_npy(path: Path, arrays: Arrays) -> dict[str, int]:
    shape, dtype = arrays["activations"]
    header = io.BytesIO()
    described = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    path.write_bytes(header.getvalue())
    return {"activations": len(header.getvalue())}


def _begin_safetensors(path: Path, arrays: Arrays, said: str) -> dict[str, int]:
    table: dict[str, dict[str, object]] = {"__metadata__": {exported.NAME: said}}
    starts: dict[str, int] = {}
    at = 0
    for name, (shape, dtype) in arrays.items():
        size = _bytes(shape, dtype)
        table[name] = {"dtype": _SAFETENSORS[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
        starts[name] = at
        at += size
    text = json.dumps(table, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    return {name: 8 + len(text) + start for name, start in starts.items()}


def _begin_hdf5(path: Path, arrays: Arrays) -> dict[str, int]:
    """Datasets whose room is laid out but not filled: their bytes are written past libhdf5, at their offsets."""
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    made.set_obj_track_times(False)
    offsets = {}
    with h5py.File(path, "w") as file:
        for name, (shape, dtype) in arrays.items():
            kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
            dataset = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape), made)
            offsets[name] = int(dataset.get_offset())
    return offsets


def _pieces(store: Store, hook: str, array: str, dtype: str) -> Iterator[np.ndarray]:
    for start in range(0, store.n_rows, _CHUNK_ROWS):
        index = slice(start, start + _CHUNK_ROWS)
        if array == "activations":
            rows = store.rows(index, hook)
            yield rows.astype(dtype) if dtype != "bfloat16" else Numbers(dtype).narrowed(rows, str)
        else:
            yield getattr(store.positions(index), array)


def _write(file: BinaryIO, pieces: Iterator[np.ndarray], reporter: Reporter, done: int, total: int) -> int:
    for piece in pieces:
        file.write(np.ascontiguousarray(piece).data)
        done += len(piece)
        reporter.step(done, total, unit="rows")
    return done


def check_room(target: Path, needed: int) -> None:
    """AuditorError where `needed` bytes do not fit beside `target`, or its folder is not there."""
    folder = target.absolute().parent
    if not folder.is_dir():
        raise AuditorError(f"The folder “{folder.name}” does not exist.", "Choose a folder that does.")
    free = shutil.disk_usage(folder).free
    if needed + (1 << 20) > free:
        raise AuditorError(
            f"“{target.name}” needs {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free.",
            f"Free at least {(needed + (1 << 20) - free) / 1e6:.1f} MB more, or choose another disk.",
        )


def _written_as(dtype: str, suffix: str) -> str:
    return dtype if dtype in ("float16", "float32") or (dtype, suffix) == ("bfloat16", ".safetensors") else "float32"


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return int(np.prod(shape)) * np.dtype(RAW.get(dtype, dtype)).itemsize
