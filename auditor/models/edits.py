"""Edits: what is changed at a hook point during a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from auditor.base.errors import AuditorError


class Edit:
    """A change of the values at one hook point. Subclass it and write `apply`.

    `apply` gets all rows x [B, P, width] and gives a tensor of that shape; it must be differentiable and must not
    write into x. Of its result only `positions` (indices on P, negative ones count from the end; None: all) take
    effect. Edits of one hook point are applied in the order given; `record` sees the values before them. At an
    attention pattern x is [B, head, query, key] and positions are those of the queries.
    """

    def __init__(self, hook: str, positions: Sequence[int] | None = None) -> None:
        self.hook = hook
        self.positions = None if positions is None else list(positions)

    def apply(self, x: Tensor) -> Tensor:
        """[B, P, width] → [B, P, width]."""
        return x

    def on_rows(self, x: Tensor) -> Tensor:
        """`apply`, limited to `positions`. AuditorError for a wrong shape or a position that is not there."""
        edited = self.apply(x).to(x.dtype)
        if edited.shape != x.shape:
            raise AuditorError(
                f"An edit at “{self.hook}” turned {list(x.shape)} into {list(edited.shape)}.",
                "An edit must keep the shape [batch, positions, width].",
            )
        if self.positions is None:
            return edited
        chosen = torch.zeros(x.shape[-2], dtype=torch.bool, device=x.device)
        for position in self.positions:
            if not -x.shape[-2] <= position < x.shape[-2]:
                raise AuditorError(
                    f"Position {position} is not in a sample of {x.shape[-2]} positions (edit at “{self.hook}”).",
                    "Choose a position that the sample has.",
                )
            chosen[position] = True
        return torch.where(chosen[:, None], edited, x)


class Ablate(Edit):
    """Put zero, or a mean activation [width], in the place of the activations."""

    def __init__(
        self,
        hook: str,
        mode: Literal["zero", "mean"] = "zero",
        mean: Tensor | None = None,
        positions: Sequence[int] | None = None,
    ) -> None:
        super().__init__(hook, positions)
        if mode == "mean" and mean is None:
            raise AuditorError("A mean ablation needs the mean.", "Give the mean activation of this hook point.")
        self.mode, self.mean = mode, mean

    def apply(self, x: Tensor) -> Tensor:
        if self.mode == "zero" or self.mean is None:
            return torch.zeros_like(x)
        return self.mean.to(x).expand_as(x)


class Scale(Edit):
    """Multiply the activations by a number."""

    def __init__(self, hook: str, factor: float, positions: Sequence[int] | None = None) -> None:
        super().__init__(hook, positions)
        self.factor = factor

    def apply(self, x: Tensor) -> Tensor:
        return x * self.factor


class AddDirection(Edit):
    """Steering: add `amount` times a direction [width]."""

    def __init__(
        self, hook: str, direction: Tensor, amount: float | Tensor = 1.0, positions: Sequence[int] | None = None
    ) -> None:
        super().__init__(hook, positions)
        self.direction, self.amount = direction, amount

    def apply(self, x: Tensor) -> Tensor:
        return x + self.amount * self.direction.to(x)


class Patch(Edit):
    """Put other values in place: `value` broadcasts to [B, P, width], or with `positions` to [B, len, width]."""

    def __init__(self, hook: str, value: Tensor, positions: Sequence[int] | None = None) -> None:
        super().__init__(hook, positions)
        self.value = value

    def apply(self, x: Tensor) -> Tensor:
        value = self.value.to(x)
        fits_some = self.positions is not None and value.ndim > 1 and value.shape[-2] == len(self.positions)
        if self.positions is None or not fits_some:
            return value.expand_as(x)
        index = torch.tensor(self.positions, device=x.device) % x.shape[-2]
        return x.index_copy(-2, index, value.expand(*x.shape[:-2], len(self.positions), x.shape[-1]))
