"""A named, ordered collection of samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import overload

from auditor.base.digest import digest_json
from auditor.data.sample import Sample


class Samples(Sequence[Sample]):
    """Samples in order, with the name of their source and a digest over all of their content."""

    def __init__(self, name: str, samples: Iterable[Sample]) -> None:
        self.name = name
        self._samples = tuple(samples)

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
        """SHA-256 over every sample in order; images are read for it."""
        return digest_json([sample.digest for sample in self._samples])

    @property
    def modalities(self) -> frozenset[str]:
        """Which of ``text``, ``image`` and ``audio`` occur."""
        kinds = ("text", "image", "audio")
        return frozenset(kind for sample in self._samples for kind in kinds if getattr(sample, kind) is not None)
