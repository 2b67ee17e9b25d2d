"""What is acknowledged of the shard that is being written, and all that it will hold beside its rows.

A journal is a row of entries, each one append of some batches: 8 bytes with the length of what follows the digest,
little-endian, the SHA-256 of that, then 4 bytes with the length of a JSON text, the text, and arrays one after the
other. The text tells {"facts": plain values, "arrays": [[name, dtype, elements], …]}. An entry that is cut short or
whose digest differs was never acknowledged: the journal ends before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auditor.base.digest import canonical_json
from auditor.base.errors import AuditorError
from auditor.base.files import sync_folder
from auditor.store.shards import not_followed

_HEAD = 8 + 32
_DTYPES = ("int32", "uint8", "int64")


@dataclass(frozen=True)
class Entry:
    """Some batches: `facts` about them, and their columns and samples as one-dimensional arrays by dataset."""

    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    def to_bytes(self) -> bytes:
        told = [[name, array.dtype.name, len(array)] for name, array in self.arrays.items()]
        text = canonical_json({"facts": self.facts, "arrays": told})
        body = b"".join([len(text).to_bytes(4, "little"), text, *(array.tobytes() for array in self.arrays.values())])
        return len(body).to_bytes(8, "little") + _digest(body) + body

    @classmethod
    def of(cls, body: bytes) -> Entry:
        """ValueError where it contradicts itself."""
        start = 4 + int.from_bytes(body[:4], "little")
        told = json.loads(body[4:start])
        arrays = {}
        for name, dtype, count in told["arrays"]:
            if dtype not in _DTYPES or not isinstance(count, int) or count < 0:
                raise ValueError(f"an array of {count} {dtype}")
            arrays[str(name)] = np.frombuffer(body, dtype, count, start)
            start += arrays[str(name)].nbytes
        return cls(told["facts"], arrays)


class Journal:
    """The journal at `path`, read as far as it was acknowledged; whoever writes calls `add`."""

    def __init__(self, path: Path) -> None:
        """AuditorError where it is none, or holds what no writer puts there."""
        self.path = path
        try:
            self.entries, self._end = _read(path)
        except OSError as error:
            raise self.faulty(error.strerror or "") from None
        except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
            raise self.faulty(str(error)) from None

    def faulty(self, why: str) -> AuditorError:
        """The error that says that it is not what a writer left."""
        where = f"{self.path.name} of the unfinished store “{self.path.parent.name}”"
        return AuditorError(f"{where} cannot be read ({why}).", "Remove the store and record it again.")

    def add(self, entry: Entry) -> None:
        """Acknowledge `entry`: it is there after a power cut. OSError, and nothing is added, where the disk is full or
        fails."""
        data = entry.to_bytes()
        self._put(data, self._end)
        if not self._end:
            sync_folder(self.path.parent)  # the file's name is to survive too
        self._end += len(data)
        self.entries.append(entry)

    def take_over(self) -> None:
        """What another writer left is on the disk, and not only in the system's memory, where a failed fsync that it
        did not live to hear of leaves it."""
        with open(self.path, "rb", opener=not_followed) as file:
            data = file.read(self._end)
        self._put(data, 0)
        sync_folder(self.path.parent)

    def _put(self, data: bytes, at: int) -> None:
        with open(self.path, "r+b" if self.path.exists() else "xb") as file:
            try:
                file.truncate(self._end)
                put(file.fileno(), memoryview(data), at)
                os.fsync(file.fileno())
            except OSError:
                # It would be read as acknowledged, from a memory that the disk has nothing of.
                with contextlib.suppress(OSError):
                    file.truncate(self._end)
                raise


def put(handle: int, view: memoryview, at: int) -> None:
    """Write all bytes of `view` to the file from byte `at` on."""
    while view:
        done = os.pwrite(handle, view, at)
        view, at = view[done:], at + done


def gathered(entries: Sequence[Entry]) -> dict[str, np.ndarray]:
    """The arrays of all entries, one after the other; what ends within a dataset of bytes ends in the whole of it."""
    found: dict[str, np.ndarray] = {}
    for name in entries[0].arrays if entries else ():
        parts = [entry.arrays[name] for entry in entries]
        if name.endswith("_end"):
            blob = name.removesuffix("_end")
            before = np.cumsum([0] + [len(entry.arrays[blob]) for entry in entries[:-1]])
            parts = [part + start for part, start in zip(parts, before, strict=True)]
        found[name] = np.concatenate(parts)
    return found


def _read(path: Path) -> tuple[list[Entry], int]:
    entries: list[Entry] = []
    end = 0
    if not path.exists():
        return entries, end
    with open(path, "rb", opener=not_followed) as file:
        size = os.fstat(file.fileno()).st_size
        while len(head := file.read(_HEAD)) == _HEAD:
            length = int.from_bytes(head[:8], "little")
            if length > size - end - _HEAD or _digest(body := file.read(length)) != head[8:]:
                break
            entries.append(Entry.of(body))
            end += _HEAD + length
    return entries, end


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()
