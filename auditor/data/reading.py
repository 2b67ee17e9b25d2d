"""How a file or folder is read item by item: found by one scan, and made into a sample whenever one is asked for."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from auditor.base.errors import AuditorError
from auditor.base.files import limit_behind
from auditor.data.columns import Columns
from auditor.data.sample import Sample
from auditor.data.skipped import Unreadable
from auditor.intake.spool import Spool

Key = tuple[int, ...]
"""Where an item is: as many whole numbers as the reading's `width`, of which only it knows the meaning."""


class Reading(ABC):
    """Items that can be read in any order."""

    width: int = 3
    columns: Columns | None = None

    @abstractmethod
    def scan(self) -> Iterator[tuple[Key, Any]]:
        """Every item in order: its key, and what `sample` makes a sample of (or the AuditorError that it is)."""

    @abstractmethod
    def raw(self, key: Key) -> Any:
        """What `scan` gave beside this key."""

    @abstractmethod
    def sample(self, key: Key, raw: Any) -> Sample:
        """The sample of an item. Unreadable if it is none."""


class Listed(Reading):
    """Samples that are there already, or the reasons why they are not."""

    width = 1

    def __init__(self, items: Sequence[Sample | AuditorError]) -> None:
        self._items = items

    def scan(self) -> Iterator[tuple[Key, Any]]:
        for number, item in enumerate(self._items):
            yield (number,), item

    def raw(self, key: Key) -> Any:
        return self._items[key[0]]

    def sample(self, key: Key, raw: Any) -> Sample:
        found: Sample = raw
        return found


class Chain(Reading):
    """Several readings of one kind, one after the other. What one cannot be read for is told like an item of it."""

    def __init__(self, parts: Sequence[Reading]) -> None:
        self._parts = parts
        self.width = 1 + max((part.width for part in parts), default=0)
        self.columns = next((part.columns for part in parts if part.columns is not None), None)

    def scan(self) -> Iterator[tuple[Key, Any]]:
        for number, part in enumerate(self._parts):
            try:
                for key, raw in part.scan():
                    yield (number, *key, *[0] * (self.width - 1 - len(key))), raw
            except AuditorError as error:
                if limit_behind(error):
                    raise
                yield (number, *[0] * (self.width - 1)), Unreadable(error.message, error.hint)

    def raw(self, key: Key) -> Any:
        part = self._parts[key[0]]
        return part.raw(key[1 : 1 + part.width])

    def sample(self, key: Key, raw: Any) -> Sample:
        part = self._parts[key[0]]
        return part.sample(key[1 : 1 + part.width], raw)


class Unloaded(Sequence[Sample], ABC):
    """Samples of which each is read when it is asked for."""

    @abstractmethod
    def one(self, number: int) -> Sample:
        """The sample of a number from 0 on."""

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Unloaded: ...

    def __getitem__(self, index: int | slice) -> Sample | Unloaded:
        if isinstance(index, slice):
            return Chosen(self, np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.one(index % len(self))


class Rows(Unloaded):
    """Samples of a reading by the keys of its scan, 8 × width bytes each."""

    def __init__(self, reading: Reading, keys: array[int]) -> None:
        self._reading = reading
        self._keys: NDArray[np.int64] = np.frombuffer(keys, dtype=np.int64).reshape(-1, reading.width)

    def __len__(self) -> int:
        return len(self._keys)

    def one(self, number: int) -> Sample:
        key = tuple(self._keys[number].tolist())
        return self._reading.sample(key, self._reading.raw(key))


class Chosen(Unloaded):
    """Some of other samples, by their numbers there."""

    def __init__(self, of: Sequence[Sample], numbers: NDArray[np.int64]) -> None:
        self._of, self._numbers = of, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def one(self, number: int) -> Sample:
        return self._of[int(self._numbers[number])]


class Taken(Unloaded):
    """Samples by their numbers in others, or rewritten as texts that are kept on disk; 16 bytes each in memory. One
    that is rewritten keeps the pictures of the sample that it was."""

    def __init__(self, of: Sequence[Sample]) -> None:
        self._of, self._at = of, array("q")
        self._spool, self._ends = Spool("samples"), array("q", [0])

    def take(self, number: int) -> None:
        """That sample as it is."""
        self._at.append(number)

    def put(self, sample: Sample, number: int = -1) -> None:
        """Another, which has a text, and the pictures of that number, if any. Values of labels become plain ones."""
        self._at.append(-len(self._ends))
        kept = [sample.id, sample.text, sample.group, dict(sample.labels), list(sample.places), number]
        self._ends.append(self._spool.add(json.dumps(kept, default=str).encode("ascii"))[1])

    def sort(self, keys: Sequence[int]) -> None:
        """Put them in the order of `keys`, one each; equal ones stay as they are to each other."""
        sort(self._at, keys)

    def __len__(self) -> int:
        return len(self._at)

    def one(self, number: int) -> Sample:
        at = self._at[number]
        if at >= 0:
            return self._of[at]
        id, text, group, labels, places, number = json.loads(self._spool.at(self._ends[-at - 1], self._ends[-at]))
        found = Sample(id=id, text=text, group=group, labels=labels, places=tuple(places))
        if number < 0:
            return found
        pictured = self._of[number]
        return replace(found, image=pictured.image, more=pictured.more)


def sort(held: array[int], keys: Sequence[int]) -> None:
    """Put whole numbers in the order of `keys`, one each."""
    order = np.argsort(np.asarray(keys), kind="stable")
    held[:] = array(held.typecode, np.frombuffer(held, np.dtype(held.typecode))[order].tobytes())
