"""Arrays in other programs' HDF5, .npy, .npz and safetensors files: any of floating-point numbers with two to four
axes, read in place or imported as a store."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from auditor.base.digest import digest_json
from auditor.base.errors import AuditorError
from auditor.intake.arrays import BFLOAT16, ArrayFacts, ArrayFile, array_kind, open_arrays
from auditor.intake.hdf5 import SIGNATURE, ForeignFile
from auditor.store.formats import exported
from auditor.store.formats.exported import LONGEST_ID, Said
from auditor.store.formats.source import Piece, Source, widened
from auditor.store.layout import COLUMNS, KINDS, Manifest, check_hook
from auditor.store.samples import StoredSample
from auditor.store.shards import Runs

if TYPE_CHECKING:
    from auditor.store.reader import Store

Axis = Literal["sample", "position", "feature"]
TITLES = {"hdf5": "HDF5", "npy": "NumPy array", "npz": "NumPy arrays", "safetensors": "safetensors"}
OF_ROWS = ("samples", "kinds", "units", "idents")
"""What a mapping may name of rows without a sample axis."""
_ROWS_A_SAMPLE = 1024
_APART = 64  # names of samples that are farther apart are not looked for: a piece of the file reads few of them
_READ_ROWS = 1 << 20


class Mapping(BaseModel):
    """What the axes of a dataset mean.

    `dataset` is its path in the file (``array`` for the one of a .npy file). `axes` names each axis: one ``feature``
    (the width), at most one ``sample``, the others ``position`` (tokens, or rows and columns of a map). Without a
    sample axis, each 1024 rows count as one sample, unless `samples` is an integer dataset [rows] that changes where a
    sample ends; `kinds` is one of what stands at each row, by the numbers of `KINDS`, `units` one of the token or patch
    that it is, and `idents` a string dataset of the samples' names, by the numbers in `samples`. This program's own
    exports have all of them (`auditor.store.formats.exported`). `tokens` is an integer dataset of token ids, shaped as
    the dataset without its feature axis; `texts` a string dataset with one text a sample. `hook` names the hook point,
    `kind` what stands at the positions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    axes: tuple[Axis, ...]
    hook: str = "imported"
    kind: Literal["text", "image"] = "text"
    tokens: str | None = None
    texts: str | None = None
    samples: str | None = None
    kinds: str | None = None
    units: str | None = None
    idents: str | None = None

    def told(self) -> dict[str, Any]:
        """As plain values."""
        unsaid = {name for name in OF_ROWS if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude=unsaid)


class Candidate(BaseModel):
    """A mapping that would work, for a person to choose from: the likeliest comes first."""

    model_config = ConfigDict(frozen=True)

    mapping: Mapping
    shape: tuple[int, ...]
    dtype: str
    rows: int = Field(ge=0)
    width: int = Field(ge=1)


def recognise(path: Path) -> str:
    """Which of `TITLES` a file is, by its first bytes; "" where it is none of them."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        return "hdf5" if file.read(len(SIGNATURE)) == SIGNATURE else array_kind(path)


def candidates(path: Path | str) -> list[Candidate]:
    """Every dataset of a foreign file that could hold activations, largest first. AuditorError if there is none."""
    file = _opened(Path(path))
    said = exported.read(file.said(exported.NAME))
    found = [
        _guessed(dataset, file.datasets, said)
        for dataset in file.datasets
        if dataset.is_float and 2 <= len(dataset.shape) <= 4 and 0 not in dataset.shape
    ]
    if isinstance(file, ForeignFile):
        file.close()
    if not found:
        raise AuditorError(
            f"“{Path(path).name}” has no array of floating-point numbers with two to four axes.",
            "Activations are a table: rows (tokens or patches) by width.",
        )
    return sorted(found, key=lambda candidate: candidate.rows * candidate.width, reverse=True)


def suggest_mapping(path: Path | str, dataset: str = "") -> Mapping:
    """The likeliest mapping, of `dataset` where it is named: the largest float dataset, its last axis the width.
    AuditorError if there is none."""
    found = candidates(path)
    for candidate in found:
        if not dataset or candidate.mapping.dataset.strip("/") == dataset.strip("/"):
            return candidate.mapping
    names = ", ".join(candidate.mapping.dataset for candidate in found[:8])
    raise AuditorError(f"“{Path(path).name}” has no activations “{dataset}”.", f"It has: {names}.")


def open_foreign(path: Path | str, mapping: Mapping | None = None) -> Store:
    """A foreign file as a store, read in place. AuditorError where the mapping does not fit or the file is refused.

    Contiguous datasets whose axes are in the order sample, positions, feature are read at their raw offset, others of
    HDF5 through the jailed child, which is slow for shuffled batches: import them.
    """
    from auditor.store.reader import Store

    part = ArrayRows(Path(path), mapping or suggest_mapping(path))
    facts = Manifest(
        complete=True,
        dtype="float16" if part.dtype == "float16" else "float32",
        hook_points={part.mapping.hook: part.width},
        shard_bytes=0,
        rows=part.n_rows,
        samples=part.n_samples,
        meta={"foreign": {"file": part.path.name, "mapping": part.mapping.told()}},
    )
    return Store(part.path, facts, [part], digest_of=part.digest)


class ArrayRows(Source):
    """The rows of one array of a foreign file; also a `auditor.store.shards.RowPart`."""

    def __init__(self, path: Path, mapping: Mapping) -> None:
        self.mapping = mapping
        self._file = _opened(path)
        self.path, self.title = self._file.path, TITLES[recognise(path)]
        self._facts = self._file.find(mapping.dataset)
        shape, axes = self._facts.shape, mapping.axes
        _check(self._facts, mapping, path.name)
        check_hook(mapping.hook, 1)
        self._row_axes = _row_axes(axes)
        self.width = shape[axes.index("feature")]
        self.n_rows = math.prod(shape) // self.width
        self._check_rows()
        self.row_starts, self._numbers = self._starts()
        self.hook_points = {mapping.hook: self.width}
        said = exported.read(self._file.said(exported.NAME)).told() if mapping.samples else {}
        self.told = {"exported": said} if said else {}
        self.dtype = {"<f2": "float16", ">f2": "float16", BFLOAT16: BFLOAT16}.get(self._facts.dtype, "float32")
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

    def files(self) -> dict[str, Path]:
        return {self.path.name: self.path}

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "mapping": self.mapping.told()}

    def digest(self) -> str:
        """Names the numbers and their meaning."""
        return digest_json(self.facts())

    def close(self) -> None:
        if isinstance(self._file, ForeignFile):
            self._file.close()

    def piece(self, first: int, last: int) -> Piece:
        start, stop = (int(row) for row in self.row_starts[[first, last]])
        rows = np.empty((stop - start, self.width), dtype=np.float32)
        self.read(f"rows/{self.mapping.hook}", [(start, stop)], rows)
        columns = {name: np.empty(stop - start, dtype=np.int64) for name in COLUMNS}
        for name, column in columns.items():
            self.read(name, [(start, stop)], column)
        columns["sample"] -= first
        idents = self._idents(first, last)
        samples = [self._sample(number, ident) for number, ident in zip(range(first, last), idents, strict=True)]
        return Piece(samples, {self.mapping.hook: rows}, **columns)

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
        return self._sample(number, self._idents(number, number + 1)[0])

    def _sample(self, number: int, ident: str) -> StoredSample:
        first, last = (int(row) for row in self.row_starts[number : number + 2])
        text = self._file.strings(self.mapping.texts, number, number + 1)[0] if self.mapping.texts else None
        grid = None
        if self.mapping.kind == "image" and self.mapping.axes.count("position") == 2 and "sample" in self.mapping.axes:
            rows, columns = (self._facts.shape[axis] for axis in self._row_axes[1:])
            grid = (rows, columns)
        place = number if "sample" in self.mapping.axes else f"{first}:{last}"
        ident = ident or f"{self.mapping.dataset.strip('/')}[{place}]"
        return StoredSample(ident, text=text, grid=grid, first_row=first, n_rows=last - first)

    def _idents(self, first: int, last: int) -> list[str]:
        """What the file calls samples `first` to `last`, empty where it does not."""
        named = self.mapping.idents
        numbers = self._numbers[first:last]
        most = self._file.find(named).shape[0] if named else 0
        known = numbers[(numbers >= 0) & (numbers < most)]
        if named is None or not len(known) or np.ptp(known) >= _APART * len(numbers):
            return [""] * len(numbers)
        low = int(known.min())
        held = self._file.strings(named, low, int(known.max()) + 1)
        return [held[int(own) - low] if 0 <= own < most else "" for own in numbers]

    def _read_rows(self, start: int, stop: int, out: np.ndarray) -> None:
        if self._in_order and self._facts.offset >= 0:
            rows = self._raw(start, stop)
        else:
            first, last = start // self._lead, math.ceil(stop / self._lead)
            box = self._file.read(self._facts.path, first, last)
            order = (*self._row_axes, self.mapping.axes.index("feature"))
            rows = box.transpose(order).reshape(-1, self.width)[start - first * self._lead :][: stop - start]
        out[...] = rows if rows.dtype == out.dtype else widened(rows, self._facts.dtype == BFLOAT16)
        finite = np.isfinite(out).all(axis=1)
        if not finite.all():
            raise AuditorError(
                f"Not a finite number in row {start + int(np.argmin(finite))} of “{self.mapping.dataset}” "
                f"of “{self.path.name}”.",
                "Remove such rows from the file; a dictionary cannot be trained on them.",
            )

    def _raw(self, start: int, stop: int) -> np.ndarray:
        kind = self._facts.raw
        row_bytes = self.width * kind.itemsize
        with open(self.path, "rb") as file:
            file.seek(self._facts.offset + start * row_bytes)
            data = file.read((stop - start) * row_bytes)
        if len(data) != (stop - start) * row_bytes:
            raise AuditorError(f"“{self.path.name}” has become shorter.", "Copy the file again.")
        return np.frombuffer(data, dtype=kind).reshape(-1, self.width)

    def _column(self, name: str, start: int, stop: int) -> np.ndarray:
        rows = np.arange(start, stop)
        if name in ("sample", "unit"):
            sample = np.searchsorted(self.row_starts, rows, side="right") - 1
            if name == "unit" and self.mapping.units is not None:
                return np.clip(self._file.read(self.mapping.units, start, stop).astype(np.int64), 0, 2**31 - 1)
            return sample if name == "sample" else rows - self.row_starts[sample]
        if name == "kind":
            usual = np.full(len(rows), KINDS[self.mapping.kind])
            if self.mapping.kinds is None:
                return usual
            held = self._file.read(self.mapping.kinds, start, stop)
            known = [number for kind, number in KINDS.items() if kind != "pad"]
            return np.where(np.isin(held, known), held, usual)
        if self.mapping.tokens is None:
            return np.full(len(rows), -1)
        first, last = start // self._lead, math.ceil(stop / self._lead)
        ids = self._file.read(self.mapping.tokens, first, last).reshape(-1)[start - first * self._lead :]
        return np.clip(ids[: stop - start].astype(np.int64), -1, 2**31 - 1)

    def _starts(self) -> tuple[np.ndarray, np.ndarray]:
        """The first row of each sample, and behind them the number of rows; the number that the file gives each."""
        if self.mapping.samples is not None:
            starts, numbers, before = list[np.ndarray](), list[np.ndarray](), None
            for start in range(0, self.n_rows, _READ_ROWS):
                held = self._file.read(self.mapping.samples, start, min(self.n_rows, start + _READ_ROWS))
                changes = np.flatnonzero(np.diff(held, prepend=held[0] ^ 1 if before is None else before))
                starts.append(start + changes)
                numbers.append(held[changes])
                before = held[-1]
            return np.concatenate([*starts, [self.n_rows]]).astype(np.int64), np.concatenate(numbers).astype(np.int64)
        axes = self.mapping.axes
        each = self.n_rows // self._facts.shape[axes.index("sample")] if "sample" in axes else _ROWS_A_SAMPLE
        cuts = np.minimum(np.arange(math.ceil(self.n_rows / each) + 1, dtype=np.int64) * each, self.n_rows)
        return cuts, np.arange(len(cuts) - 1)

    def _check_rows(self) -> None:
        for name in filter(None, (self.mapping.samples, self.mapping.kinds, self.mapping.units)):
            facts = self._file.find(name)
            if not facts.is_int or facts.shape != (self.n_rows,) or "sample" in self.mapping.axes:
                raise AuditorError(
                    f"“{name}” does not say of each row of “{self.mapping.dataset}” what it is: it must be whole "
                    f"numbers of shape {[self.n_rows]}.",
                    "Choose another dataset, or none.",
                )
        if self.mapping.idents is not None:
            facts = self._file.find(self.mapping.idents)
            texts = facts.dtype == "string" and len(facts.shape) == 1
            if not texts and not (facts.dtype == "|u1" and len(facts.shape) == 2 and facts.shape[1] <= LONGEST_ID):
                raise AuditorError(
                    f"“{self.mapping.idents}” cannot be the names of samples: it must hold one text for each.",
                    "Choose another dataset, or none.",
                )

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


def _opened(path: Path) -> ForeignFile | ArrayFile:
    kind = recognise(path)
    if kind in ("npy", "npz", "safetensors"):
        return open_arrays(path.resolve())
    if not kind and path.suffix == ".npy":
        raise AuditorError(f"“{path.name}” is no NumPy array.", "Copy it from its source again.")
    return ForeignFile(path)  # tells what is wrong with a file that is none of them


def _check(facts: ArrayFacts, mapping: Mapping, name: str) -> None:
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


def _guessed(dataset: ArrayFacts, others: list[ArrayFacts], said: Said) -> Candidate:
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
        **_exported(dataset, others, said),
    )
    return Candidate(mapping=mapping, shape=shape, dtype=dataset.dtype, rows=math.prod(shape[:-1]), width=shape[-1])


def _exported(dataset: ArrayFacts, others: list[ArrayFacts], said: Said) -> dict[str, str]:
    """What stands beside `dataset` where this program wrote it; nothing otherwise."""
    here = dataset.shape[:1]
    whole = {d.path.strip("/"): d.path for d in others if d.is_int and d.shape == here and len(dataset.shape) == 2}
    if not {"sample", "kind"} <= set(whole):
        return {}
    found = {"samples": whole["sample"], "kinds": whole["kind"]}
    if "unit" in whole:
        found["units"] = whole["unit"]
    kind = "string" if dataset.path.startswith("/") else "|u1"  # HDF5, and formats without texts
    idents = [d.path for d in others if d.path.strip("/") == exported.IDS and d.dtype == kind]
    if idents:
        found["idents"] = idents[0]
    return found | ({"hook": said.hook} if said.hook else {})
