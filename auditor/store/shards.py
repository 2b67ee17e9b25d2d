"""Reading a shard's bytes at the offsets that the manifest tells: no HDF5 library, so no global lock.

Plain reads rather than memory maps: they run as fast from the page cache, and a stick that is pulled out gives an
error that can be told, where a memory map would end the whole program with SIGBUS.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Protocol

import numpy as np

from auditor.base.errors import AuditorError
from auditor.store.layout import COLUMNS, ShardFacts, column_name
from auditor.store.samples import StoredSample, unpack

Runs = Sequence[tuple[int, int]]


class RowPart(Protocol):
    """A run of rows that lie together: a shard of a store, or a foreign dataset."""

    @property
    def n_rows(self) -> int: ...

    @property
    def n_samples(self) -> int: ...

    def read(self, name: str, runs: Runs, out: np.ndarray) -> None:
        """Fill `out` with the rows of each run (start, stop) in turn; `name` is a column or rows/<hook>."""

    def sample(self, number: int) -> StoredSample:
        """Sample `number` of this part; its `first_row` counts from this part's first row."""


def not_followed(path: str, flags: int) -> int:
    """An `opener` for `open` that follows no link: a stranger's store must not reach for other files."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


class Shard:
    """One row group of a shard of the store in `folder`, read at raw offsets. Safe from any thread: each read opens the
    file anew."""

    def __init__(self, folder: Path, facts: ShardFacts, group: str = "") -> None:
        self.store, self.facts, self.group = folder.name, facts, group
        self.path = Path(os.path.normpath(folder / facts.folder / facts.file))
        try:
            found = self.path.lstat()
        except OSError:
            raise self.damaged("is missing") from None
        if not self.path.is_file() or self.path.is_symlink():
            raise self.damaged("is not a plain file")
        if found.st_size != facts.bytes:
            raise self.damaged(f"has {found.st_size} bytes instead of {facts.bytes}")

    @property
    def n_rows(self) -> int:
        return self.facts.group_rows[self.group] if self.group else self.facts.rows

    @property
    def n_samples(self) -> int:
        return self.facts.samples

    def read(self, name: str, runs: Runs, out: np.ndarray) -> None:
        facts = self.facts.datasets[column_name(self.group, name) if name in COLUMNS else name]
        row_bytes = facts.bytes // facts.shape[0] if facts.shape[0] else 0
        view = out.reshape(-1).view(np.uint8).data
        done = 0
        with self._open() as file:
            for start, stop in runs:
                if not 0 <= start <= stop <= facts.shape[0]:
                    raise IndexError(f"rows {start}:{stop} of {facts.shape[0]}")
                file.seek(facts.offset + start * row_bytes)
                self._fill(file, view[done : (done := done + (stop - start) * row_bytes)])

    def sample(self, number: int) -> StoredSample:
        if not 0 <= number < self.n_samples:
            raise IndexError(f"sample {number} of {self.n_samples}")
        first_row, last_row = (int(row) for row in self._sample_start[number : number + 2])
        record = self._blob("samples/record", number)
        image = self._blob("samples/image", number)
        where = f"Sample {number} of {self.path.parent.name}/{self.path.name}"
        return unpack(record, image, first_row, last_row - first_row, where, self.group)

    @cached_property
    def _ends(self) -> dict[str, np.ndarray]:
        return {name: self._column(f"{name}_end") for name in ("samples/record", "samples/image")}

    @cached_property
    def _sample_start(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self._column(column_name(self.group, "samples/rows")))])

    def _column(self, name: str) -> np.ndarray:
        out = np.empty(self.facts.datasets[name].shape, dtype=self.facts.datasets[name].dtype)
        self.read(name, [(0, len(out))], out)
        return out

    def _blob(self, name: str, number: int) -> bytes:
        ends = self._ends[name]
        start, stop = (int(ends[number - 1]) if number else 0), int(ends[number])
        if not 0 <= start <= stop <= self.facts.datasets[name].shape[0]:
            raise self.damaged(f"contradicts itself in {name}_end")
        out = np.empty(stop - start, dtype=np.uint8)
        self.read(name, [(start, stop)], out)
        return out.tobytes()

    def _open(self) -> FileIO:
        try:
            return open(self.path, "rb", buffering=0, opener=not_followed)
        except OSError as error:
            raise self.damaged(f"cannot be opened ({error.strerror})") from None

    def _fill(self, file: FileIO, view: memoryview) -> None:
        try:
            while view:
                got = file.readinto(view)
                if not got:
                    raise self.damaged("ends too early")
                view = view[got:]
        except OSError as error:
            raise self.damaged(f"cannot be read ({error.strerror})") from None

    def damaged(self, what: str) -> AuditorError:
        """The error that says what is wrong with this shard."""
        if self.facts.folder:
            home = self.path.parent
            return AuditorError(
                f"{self.path.name} of the store “{home.name}”, which “{self.store}” goes on from, {what}.",
                f"Put “{home.name}” back as “{home}”, unchanged; the two belong together.",
            )
        return AuditorError(
            f"{self.path.name} of the store “{self.store}” {what}.",
            "Is the disk or stick still there? Otherwise copy the store again, or record it again.",
        )
