"""A named, ordered collection of samples."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar, cast, overload

from auditor.data.columns import Columns
from auditor.data.reading import Unloaded
from auditor.data.sample import Sample
from auditor.data.skipped import Skips

Made = TypeVar("Made")


class Samples(Sequence[Sample]):
    """Samples in order, with the name of their source and a digest over all of their content.

    Those of a file stay there and are read when they are asked for. `skips` are the items that could not be read,
    `columns` which column of a table is what; `drawn` is how many samples these were drawn from,
    where not all may have been needed, else 0.
    """

    def __init__(
        self,
        name: str,
        samples: Iterable[Sample],
        *,
        skips: Skips | None = None,
        columns: Columns | None = None,
        counts: Mapping[str, int] | None = None,
        drawn: int = 0,
    ) -> None:
        self.name, self.skips, self.columns, self.drawn = name, skips or Skips(), columns, drawn
        self._samples: Sequence[Sample] = samples if isinstance(samples, Unloaded) else tuple(samples)
        self._counts = counts
        self._remembered: tuple[Hashable, object] | None = None

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Samples: ...

    def __getitem__(self, index: int | slice) -> Sample | Samples:
        if isinstance(index, slice):
            return Samples(self.name, self._samples[index])
        return self._samples[index]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every sample in order, all of which are read for it: that of the JSON list of their digests."""
        found = hashlib.sha256()
        for number, sample in enumerate(self._samples):
            found.update((',"' if number else '["').encode() + sample.digest.encode() + b'"')
        found.update(b"]" if len(self._samples) else b"[]")
        return found.hexdigest()

    def remembered(self, key: Hashable, make: Callable[[Sequence[Sample]], Made]) -> Made:
        """What `make` makes of them, which is made once for whoever asks with the same `key` again next. It is given
        what holds them, not this: who is held by this and holds it would stay, with files, until a collector comes."""
        held = self._remembered  # by this name another thread may keep what it makes meanwhile
        if held is None or held[0] != key:
            held = self._remembered = key, make(self._samples)
        return cast(Made, held[1])

    @property
    def counts(self) -> Mapping[str, int]:
        """How many samples have a ``text``, a ``conversation``, an ``image`` and an ``audio``; 0 is left out."""
        if self._counts is None:
            self._counts = Counter(kind for sample in self._samples for kind in sample.modalities)
        return self._counts

    @property
    def modalities(self) -> frozenset[str]:
        """Which of ``text``, ``conversation``, ``image`` and ``audio`` occur."""
        return frozenset(self.counts)
