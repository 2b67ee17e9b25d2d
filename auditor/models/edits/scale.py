"""Scaling of activations."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from auditor.models.edits.edit import Edit


class Scale(Edit):
    """Multiply the activations [B, P, width] by a number."""

    def __init__(
        self, hook: str, factor: float, positions: Sequence[int] | None = None, columns: Sequence[int] | None = None
    ) -> None:
        super().__init__(hook, positions, columns)
        self.factor = factor

    def apply(self, x: Tensor) -> Tensor:
        return x * self.factor
