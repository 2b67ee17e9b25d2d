"""Other programs' HDF5 files: any float dataset of two to four axes, read in place or imported as a store."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from auditor.base.digest import digest_json, sha256_file
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.intake.hdf5 import DatasetInFile, ForeignFile
from auditor.store.layout import KINDS, Manifest, check_hook
from auditor.store.reader import Store
from auditor.store.samples import StoredSample
from auditor.store.shards import Runs
from auditor.store.writer import StoreWriter

Axis = Literal["sample", "position", "feature"]
_ROWS_A_SAMPLE = 1024
_IMPORT_BYTES = 8 << 20


class Mapping(BaseModel):
    """What the axes of a dataset mean.

    `dataset` is its path. `axes` names each axis: one ``feature`` (the width), at most one ``sample``, the others
    ``position`` (tokens, or rows and columns of a map). Without a sample axis, each 1024 rows count as one sample.
    `tokens` is an integer dataset of token ids, shaped as the dataset without its feature axis; `texts` a string
    dataset with one text a sample. `hook` names the hook point, `kind` what stands at the positions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    axes: tuple[Axis, ...]
    hook: str = "imported"
    kind: Literal["text", "image"] = "text"
    tokens: str | None = None
    texts: str | None = None


class Candidate(BaseModel):
    """A mapping that would work, for a person to choose from: the likeliest comes first."""

    model_config = ConfigDict(frozen=True)

    mapping: Mapping
    shape: tuple[int, ...]
    dtype: str
    rows: int = Field(ge=0)
    width: int = Field(ge=1)


def candidates(path: Path | str) -> list[Candidate]:
    """Every dataset of a foreign file that could hold activations, largest first. AuditorError if there is none."""
    with ForeignFile(path) as file:
        found = [
            _guessed(dataset, file.datasets)
            for dataset in file.datasets
            if dataset.is_float and 2 <= len(dataset.shape) <= 4 and 0 not in dataset.shape
        ]
    if not found:
        raise AuditorError(
            f"“{Path(path).name}” has no dataset of floating-point numbers with two to four axes.",
            "Activations are a table: rows (tokens or patches) by width.",
        )
    return sorted(found, key=lambda candidate: candidate.rows * candidate.width, reverse=True)


def suggest_mapping(path: Path | str) -> Mapping:
    """The likeliest mapping: the largest float dataset, its last axis the width. AuditorError if there is none."""
    return candidates(path)[0].mapping


def open_foreign(path: Path | str, mapping: Mapping | None = None) -> Store:
    """A foreign file as a store, read in place. AuditorError where the mapping does not fit or the file is refused.

    Contiguous datasets whose axes are in the order sample, positions, feature are read at their raw offset, others
    through the jailed child, which is slow for shuffled batches: import them.
    """
    part = ForeignRows(Path(path), mapping or suggest_mapping(path))
    facts = Manifest(
        complete=True,
        dtype="float16" if part.dtype == np.float16 else "float32",
        hook_points={part.mapping.hook: part.width},
        shard_bytes=0,
        rows=part.n_rows,
        samples=part.n_samples,
        meta={"foreign": {"file": part.path.name, "mapping": part.mapping.model_dump(mode="json")}},
    )
    return Store(part.path, facts, [part], digest_of=part.digest)


def import_hdf5(
    path: Path | str,
    mapping: Mapping | None,
    out: Path | str,
    reporter: Reporter | None = None,
    dtype: str = "float16",
) -> Store:
    """Copy a foreign dataset into a store of our own at `out`; goes on where it was interrupted.

    AuditorError where the mapping does not fit, or at the first number that is not finite or does not fit into
    `dtype`, naming its place. Stop when cancelled.
    """
    reporter = reporter or Reporter()
    part = ForeignRows(Path(path), mapping or suggest_mapping(path))
    meta = {
        "imported": {"sha256": sha256_file(part.path), "mapping": part.mapping.model_dump(mode="json")},
        "samples": {"name": part.path.name, "digest": part.digest(), "count": part.n_samples},
        "dtype": part.dtype.name,
    }
    reporter.started(f"Import {part.path.name}", part.n_rows, "rows")
    with StoreWriter(out, {part.mapping.hook: part.width}, meta, dtype, places={"imported": str(part.path)}) as writer:
        for first, last in part.groups(writer.n_samples):
            _copy(part, writer, first, last)
            reporter.step(part.first_row(last), part.n_rows, unit="rows")
        return writer.finish()


class ForeignRows:
    """The rows of one dataset of a foreign file, as `auditor.store.shards.RowPart`."""

    def __init__(self, path: Path, mapping: Mapping) -> None:
        self.mapping = mapping
        self._file = ForeignFile(path)
        self.path = self._file.path
        self._facts = self._file.find(mapping.dataset)
        shape, axes = self._facts.shape, mapping.axes
        _check(self._facts, mapping, path.name)
        check_hook(mapping.hook, 1)
        self._row_axes = _row_axes(axes)
        self.width = shape[axes.index("feature")]
        self.n_rows = math.prod(shape) // self.width
        self._per_sample = self.n_rows // shape[axes.index("sample")] if "sample" in axes else _ROWS_A_SAMPLE
        self.n_samples = math.ceil(self.n_rows / self._per_sample)
        # Rows that lie along the first axis of the file can be read in pieces; with another order, one entry of it
        # may touch every row, so the first axis must be the first of the rows.
        if self._row_axes[0] != 0:
            raise AuditorError(
                f"The first axis of “{mapping.dataset}” must be its samples, or its positions if it has none.",
                "Write the dataset again with that axis first.",
            )
        self._lead = self.n_rows // shape[0]
        self._in_order = (*self._row_axes, axes.index("feature")) == tuple(range(len(axes)))
        self._check_beside()

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self._facts.dtype).newbyteorder("=")

    def digest(self) -> str:
        """Names the numbers and their meaning."""
        return digest_json([sha256_file(self.path), self.mapping.model_dump(mode="json")])

    def first_row(self, sample: int) -> int:
        return min(sample * self._per_sample, self.n_rows)

    def groups(self, start: int) -> Iterator[tuple[int, int]]:
        """Runs of samples of about 8 MiB, from sample `start` on."""
        at_once = max(1, _IMPORT_BYTES // (self._per_sample * self.width * 4))
        for first in range(start, self.n_samples, at_once):
            yield first, min(first + at_once, self.n_samples)

    def read(self, name: str, runs: Runs, out: np.ndarray) -> None:
        done = 0
        for start, stop in runs:
            piece = out[done : done + stop - start]
            if name.startswith("rows/"):
                self._read_rows(start, stop, piece)
            else:
                piece[...] = self._column(name, start, stop)
            done += stop - start

    def sample(self, number: int) -> StoredSample:
        first, last = self.first_row(number), self.first_row(number + 1)
        text = self._file.strings(self.mapping.texts, number, number + 1)[0] if self.mapping.texts else None
        grid = None
        if self.mapping.kind == "image" and self.mapping.axes.count("position") == 2 and "sample" in self.mapping.axes:
            rows, columns = (self._facts.shape[axis] for axis in self._row_axes[1:])
            grid = (rows, columns)
        ident = f"{self.mapping.dataset.strip('/')}[{number if 'sample' in self.mapping.axes else f'{first}:{last}'}]"
        return StoredSample(ident, text=text, grid=grid, first_row=first, n_rows=last - first)

    def _read_rows(self, start: int, stop: int, out: np.ndarray) -> None:
        if self._in_order and self._facts.offset >= 0:
            rows = self._raw(start, stop)
        else:
            first, last = start // self._lead, math.ceil(stop / self._lead)
            box = self._file.read(self._facts.path, first, last)
            order = (*self._row_axes, self.mapping.axes.index("feature"))
            rows = box.transpose(order).reshape(-1, self.width)[start - first * self._lead :][: stop - start]
        with np.errstate(over="ignore"):
            out[...] = rows
        finite = np.isfinite(out).all(axis=1)
        if not finite.all():
            raise AuditorError(
                f"Not a finite number in row {start + int(np.argmin(finite))} of “{self.mapping.dataset}” "
                f"of “{self.path.name}”.",
                "Remove such rows from the file; a dictionary cannot be trained on them.",
            )

    def _raw(self, start: int, stop: int) -> np.ndarray:
        kind = np.dtype(self._facts.dtype)
        row_bytes = self.width * kind.itemsize
        with open(self.path, "rb") as file:
            file.seek(self._facts.offset + start * row_bytes)
            data = file.read((stop - start) * row_bytes)
        if len(data) != (stop - start) * row_bytes:
            raise AuditorError(f"“{self.path.name}” has become shorter.", "Copy the file again.")
        return np.frombuffer(data, dtype=kind).reshape(-1, self.width)

    def _column(self, name: str, start: int, stop: int) -> np.ndarray:
        rows = np.arange(start, stop)
        if name == "sample":
            return rows // self._per_sample
        if name == "unit":
            return rows % self._per_sample
        if name == "kind":
            return np.full(len(rows), KINDS[self.mapping.kind])
        if self.mapping.tokens is None:
            return np.full(len(rows), -1)
        first, last = start // self._lead, math.ceil(stop / self._lead)
        ids = self._file.read(self.mapping.tokens, first, last).reshape(-1)[start - first * self._lead :]
        return np.clip(ids[: stop - start].astype(np.int64), -1, 2**31 - 1)

    def _check_beside(self) -> None:
        if self.mapping.tokens is not None:
            facts = self._file.find(self.mapping.tokens)
            wanted = tuple(self._facts.shape[axis] for axis in self._row_axes)
            if not facts.is_int or facts.shape != wanted:
                raise AuditorError(
                    f"“{self.mapping.tokens}” cannot be the token ids of “{self.mapping.dataset}”: they must be whole "
                    f"numbers of shape {list(wanted)}.",
                    "Choose another dataset, or none.",
                )
        if self.mapping.texts is not None:
            facts = self._file.find(self.mapping.texts)
            if facts.dtype != "string" or facts.shape != (self.n_samples,) or "sample" not in self.mapping.axes:
                raise AuditorError(
                    f"“{self.mapping.texts}” cannot be the texts of “{self.mapping.dataset}”: it must hold one string "
                    "for each entry of the sample axis.",
                    "Choose another dataset, or none.",
                )


def _check(facts: DatasetInFile, mapping: Mapping, name: str) -> None:
    where = f"“{mapping.dataset}” of “{name}”"
    if not facts.is_float or not 2 <= len(facts.shape) <= 4 or 0 in facts.shape:
        raise AuditorError(
            f"{where} holds no activations: it is {facts.dtype} of shape {list(facts.shape)}.",
            "Choose a dataset of floating-point numbers with two to four axes.",
        )
    axes = mapping.axes
    if len(axes) != len(facts.shape) or axes.count("feature") != 1 or axes.count("sample") > 1:
        raise AuditorError(
            f"{where} has {len(facts.shape)} axes, which do not fit {', '.join(axes) or 'none'}.",
            "Name each axis: one feature, at most one sample, the others position.",
        )


def _row_axes(axes: tuple[Axis, ...]) -> tuple[int, ...]:
    sample = tuple(number for number, axis in enumerate(axes) if axis == "sample")
    return sample + tuple(number for number, axis in enumerate(axes) if axis == "position")


def _guessed(dataset: DatasetInFile, others: list[DatasetInFile]) -> Candidate:
    shape = dataset.shape
    axes: list[Axis] = ["position" for _ in shape[:-1]]
    if len(shape) > 2:
        axes[0] = "sample"
    tokens = [d.path for d in others if d.is_int and d.shape == shape[:-1] and "tok" in d.path.lower()]
    texts = [d.path for d in others if d.dtype == "string" and d.shape == shape[:1] and len(shape) > 2]
    mapping = Mapping(
        dataset=dataset.path,
        axes=(*axes, "feature"),
        kind="image" if len(shape) == 4 else "text",
        tokens=tokens[0] if tokens else None,
        texts=texts[0] if texts else None,
    )
    return Candidate(mapping=mapping, shape=shape, dtype=dataset.dtype, rows=math.prod(shape[:-1]), width=shape[-1])


def _copy(part: ForeignRows, writer: StoreWriter, first: int, last: int) -> None:
    start, stop = part.first_row(first), part.first_row(last)
    rows = np.empty((stop - start, part.width), dtype=np.float32)
    part.read(f"rows/{part.mapping.hook}", [(start, stop)], rows)
    columns = {}
    for name in ("sample", "unit", "kind", "token"):
        column = np.empty(stop - start, dtype=np.int64)
        part.read(name, [(start, stop)], column)
        columns[name] = column
    columns["sample"] -= first
    samples = [part.sample(number) for number in range(first, last)]
    writer.append(samples, {part.mapping.hook: rows}, **columns)
