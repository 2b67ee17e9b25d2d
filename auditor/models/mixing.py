"""Residual streams that stand side by side and are mixed between components: how what one component writes comes to
what another one reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

Seen = Mapping[str, tuple[Tensor, Tensor]]
"""Of each module that was watched in a run, its first input and its first output."""


class Mixing(Protocol):
    """How a family mixes its streams. Factors that depend on the input are those of the run that goes on, as a norm's
    denominator is; with them held fixed, every place is a sum of what all sources give to it."""

    @property
    def places(self) -> Sequence[str]:
        """Hook points of the stream that components read, in order."""

    def watched(self, place: str) -> Sequence[str]:
        """Modules that tell in a run what is mixed up to `place`."""

    def carried(self, part: Tensor, source: str, place: str, seen: Seen) -> Tensor:
        """What `part` [B, P, d_model] of what the hook point `source` holds adds to the hook point `place`."""
