"""Sparse activations of a whole store, grouped by feature: one pass of the encoder, then a counting sort on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.base.files import reserve
from auditor.base.reporter import Reporter
from auditor.features.examples import IMAGE, TEXT

if TYPE_CHECKING:
    from auditor.sae.sae import Sae
    from auditor.store.reader import Store

_CHUNK = 1 << 21


@dataclass(frozen=True)
class Codes:
    """Activations > 0 by feature: entries indptr[f] … indptr[f+1] are feature f's, by rising row of the store.

    Per feature and modality (first axis 0 text, 1 image): `fires` counts, `mass` sums of activation (float64), `peak`
    largest activations.
    """

    indptr: NDArray[np.int64]
    rows: NDArray[Any]
    values: NDArray[np.float32]
    fires: NDArray[np.int64]
    mass: NDArray[np.float64]
    peak: NDArray[np.float32]

    def column(self, feature: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(rows [m] rising, activations [m] > 0) of one feature."""
        part = slice(int(self.indptr[feature]), int(self.indptr[feature + 1]))
        return np.asarray(self.rows[part], np.int64), np.asarray(self.values[part])


def encode_store(store: Store, sae: Sae, hook: str, kinds: NDArray[np.uint8], starts: NDArray[np.int64],
                 folder: Path, *, batch_size: int, reporter: Reporter) -> Codes:
    """Encode every text and image row of `store` at `hook` and group the activations by feature. A temporal dictionary
    reads samples whole, with their special positions: starts[r] … starts[r+1] are the rows of the r-th.

    Scratch files of 24 bytes an activation are left in `folder`; memory stays bounded whatever the store's size.
    """
    row_type = np.dtype(np.uint32 if store.n_rows < 1 << 32 else np.uint64)
    id_type = np.dtype(np.uint16 if sae.d_sae <= 1 << 16 else np.uint32)
    counts = np.zeros(sae.d_sae, np.int64)
    with (open(folder / "ids", "xb") as ids_file, open(folder / "rows", "xb") as rows_file,
          open(folder / "values", "xb") as values_file):
        for start, stop, runs in _batches(store.n_rows, batch_size, starts if sae.context is not None else None):
            keep = np.flatnonzero((kinds[start:stop] == TEXT) | (kinds[start:stop] == IMAGE))
            if len(keep):
                x = store.rows(slice(start, stop), hook)
                ids, rows, values = _encode(sae, x, start, keep, runs)
                counts += np.bincount(ids, minlength=sae.d_sae)
                ids_file.write(ids.astype(id_type).tobytes())
                rows_file.write(rows.astype(row_type).tobytes())
                values_file.write(values.tobytes())
            reporter.step(stop, store.n_rows, "encoding the store", "rows")
    return grouped(folder, counts, kinds, row_type, id_type, reporter)


def _batches(rows: int, size: int, starts: NDArray[np.int64] | None) -> Iterator[tuple[int, int, list[int] | None]]:
    """(start, stop, runs) of so many rows in batches of `size`; of whole samples, as many as that holds but at least
    one, where their `starts` are given."""
    if starts is None:
        yield from ((start, min(start + size, rows), None) for start in range(0, rows, size))
        return
    first = 0
    while first < len(starts) - 1:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + size, side="right")) - 1)
        yield int(starts[first]), int(starts[last]), np.diff(starts[first : last + 1]).tolist()
        first = last


def _encode(sae: Sae, x: NDArray[np.float32], start: int, keep: NDArray[np.int64], runs: list[int] | None,
            ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """(feature, row, activation) of what fires in the rows start + `keep`; x holds all from `start` on."""
    read = x if runs is not None or len(keep) == len(x) else x[keep]
    with torch.no_grad():
        dense_values, dense_ids = sae.encode_sparse(torch.from_numpy(np.ascontiguousarray(read)).to(sae.device), runs)
    values, ids = dense_values.float().cpu().numpy(), dense_ids.cpu().numpy()
    if len(read) > len(keep):
        values, ids = values[keep], ids[keep]
    which, place = np.nonzero(values > 0)
    return ids[which, place], start + keep[which], values[which, place]


def grouped(folder: Path, counts: NDArray[np.int64], kinds: NDArray[np.uint8], row_type: np.dtype[Any],
            id_type: np.dtype[Any], reporter: Reporter) -> Codes:
    """The activations in the files `ids`, `rows` and `values` of `folder`, by rising row, grouped by feature; `counts`
    [n] has how many each feature has."""
    n, total = len(counts), int(counts.sum())
    indptr = np.concatenate([[0], np.cumsum(counts)])
    fires, mass = np.zeros((2, n), np.int64), np.zeros((2, n))
    peak = np.zeros((2, n), np.float32)
    if not total:
        return Codes(indptr, np.zeros(0, row_type), np.zeros(0, np.float32), fires, mass, peak)
    ids = np.memmap(folder / "ids", id_type, "r")
    rows, values = np.memmap(folder / "rows", row_type, "r"), np.memmap(folder / "values", np.float32, "r")
    out_rows = _mapped(folder / "rows.by-feature", row_type, total)
    out_values = _mapped(folder / "values.by-feature", np.dtype(np.float32), total)
    cursor = indptr[:-1].copy()
    for start in range(0, total, _CHUNK):
        reporter.step(start, total, "grouping by feature", "activations")
        part = slice(start, min(start + _CHUNK, total))
        order = np.argsort(ids[part], kind="stable")
        f, r, v = ids[part][order].astype(np.int64), rows[part][order], values[part][order]
        first = np.flatnonzero(np.diff(f, prepend=-1))
        runs = np.diff(first, append=len(f))
        place = np.repeat(cursor[f[first]] - first, runs) + np.arange(len(f))
        out_rows[place], out_values[place] = r, v
        cursor[f[first]] += runs
        for code, kind in enumerate((TEXT, IMAGE)):
            _add_figures(code, f, v, kinds[r] == kind, fires, mass, peak)
    return Codes(indptr, out_rows, out_values, fires, mass, peak)


def _mapped(path: Path, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    reserve(path, count * dtype.itemsize)
    return np.memmap(path, dtype, "r+", shape=(count,))


def _add_figures(code: int, f: NDArray[np.int64], v: NDArray[np.float32], mask: NDArray[np.bool_],
                 fires: NDArray[np.int64], mass: NDArray[np.float64], peak: NDArray[np.float32]) -> None:
    f, v = f[mask], v[mask]
    if not len(f):
        return
    n = fires.shape[1]
    fires[code] += np.bincount(f, minlength=n)
    mass[code] += np.bincount(f, weights=v, minlength=n)
    first = np.flatnonzero(np.diff(f, prepend=-1))
    peak[code, f[first]] = np.maximum(peak[code, f[first]], np.maximum.reduceat(v, first))
