"""Steering along a direction."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from auditor.models.edits.edit import Edit


class AddDirection(Edit):
    """Steering: add `amount` times a direction [width] (Turner et al. 2023, activation addition)."""

    def __init__(
        self,
        hook: str,
        direction: Tensor,
        amount: float | Tensor = 1.0,
        positions: Sequence[int] | None = None,
        columns: Sequence[int] | None = None,
    ) -> None:
        super().__init__(hook, positions, columns)
        self.direction, self.amount = direction, amount

    def apply(self, x: Tensor) -> Tensor:
        return x + self.amount * self._fitting(self.direction, x, "direction")
