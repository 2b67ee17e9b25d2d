"""What is acknowledged of the shard that a store's writer was at, read as if it were whole."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from auditor.base.errors import AuditorError
from auditor.store.journal import Journal, gathered
from auditor.store.layout import COLUMNS, Manifest, column_name
from auditor.store.open_shard import OpenShard, journal_of
from auditor.store.samples import StoredSample, unpack
from auditor.store.shards import Runs, not_followed


class UnfinishedShard:
    """One row group of shard `number` of the unfinished store in `folder`, as `auditor.store.shards.RowPart`."""

    def __init__(self, folder: Path, number: int, manifest: Manifest, group: str) -> None:
        self._shard = OpenShard(folder, number, manifest, Journal(journal_of(folder, number)))
        self._group, self._where = group, folder.name
        self._arrays = gathered(self._shard.entries)

    @property
    def n_rows(self) -> int:
        return self._shard.rows[self._group]

    @property
    def n_samples(self) -> int:
        return self._shard.n_samples

    def read(self, name: str, runs: Runs, out: np.ndarray) -> None:
        if any(not 0 <= start <= stop <= self.n_rows for start, stop in runs):
            raise IndexError(f"rows {runs} of {self.n_rows}")
        if name in COLUMNS:
            column = self._arrays[column_name(self._group, name)]
            out[...] = np.concatenate([column[start:stop] for start, stop in runs]) if runs else column[:0]
            return
        place, row_bytes = self._shard.place(name.removeprefix("rows/"))
        view, done = out.reshape(-1).view(np.uint8), 0
        try:
            with self._opened() as file:
                for start, stop in runs:
                    data = os.pread(file.fileno(), (stop - start) * row_bytes, place + start * row_bytes)
                    if len(data) != (stop - start) * row_bytes:
                        raise OSError(0, "it ends too early")
                    view[done : (done := done + len(data))] = np.frombuffer(data, np.uint8)
        except OSError as error:
            raise AuditorError(
                f"{self._shard.path.name} of the store “{self._where}” cannot be read ({error.strerror}).",
                "It is being written: open it again.",
            ) from None

    def sample(self, number: int) -> StoredSample:
        if not 0 <= number < self.n_samples:
            raise IndexError(f"sample {number} of {self.n_samples}")
        first, last = (int(row) for row in self._starts[number : number + 2])
        record, image = (self._blob(name, number) for name in ("samples/record", "samples/image"))
        return unpack(record, image, first, last - first, f"Sample {number} of {self._shard.path.name}", self._group)

    def _opened(self) -> BinaryIO:
        """The rows lie at the same places in the whole file, which the writer may just have made of the unfinished."""
        try:
            return open(self._shard.path, "rb", opener=not_followed)
        except FileNotFoundError:
            return open(self._shard.path.with_name(self._shard.name), "rb", opener=not_followed)

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self._arrays[column_name(self._group, "samples/rows")])])

    def _blob(self, name: str, number: int) -> bytes:
        ends = self._arrays[f"{name}_end"]
        start = int(ends[number - 1]) if number else 0
        return self._arrays[name][start : int(ends[number])].tobytes()
