"""Ablation: zero, a mean, or activations of other rows in the place of a component's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import PositionKind
from auditor.models.edits.edit import Edit

if TYPE_CHECKING:
    from auditor.models.inputs import Inputs
    from auditor.models.model import Model

Mode = Literal["zero", "mean", "resample"]


class Ablate(Edit):
    """Put zero, a `mean` activation (broadcasts to [B, P, width]) or another row in the place of the activations.

    resample: each row becomes one of `rows` [n, width] (of a store, or of other samples), drawn with `seed`; without
    `rows`, one of the ordinary rows of the batch's other samples. A mean keeps what all inputs share and takes only
    what tells them apart; a resampled row also stays where the network's activations are (Chan et al. 2022, causal
    scrubbing; Wang et al. 2023, §3 on mean ablation).
    """

    def __init__(
        self,
        hook: str,
        mode: Mode = "zero",
        mean: Tensor | None = None,
        positions: Sequence[int] | None = None,
        columns: Sequence[int] | None = None,
        *,
        rows: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(hook, positions, columns)
        if mode == "mean" and mean is None:
            raise AuditorError("A mean ablation needs the mean.", "Give the mean activation of this hook point.")
        self.mode, self.mean, self.rows, self.seed = mode, mean, rows, seed
        self._ordinary: Tensor | None = None

    def bound(self, model: Model, inputs: Inputs) -> Sequence[Edit]:
        if self.mode != "resample" or self.rows is not None:
            return [self]
        made = Ablate(self.hook, self.mode, None, self.positions, self.columns, seed=self.seed)
        made._ordinary = (inputs.kind != int(PositionKind.PAD)) & (inputs.kind != int(PositionKind.SPECIAL))
        return [made]

    def apply(self, x: Tensor) -> Tensor:
        if self.mode == "resample":
            return self._others(x)
        if self.mode == "zero" or self.mean is None:
            return torch.zeros_like(x)
        return self._fitting(self.mean, x, "mean").expand_as(x)

    def _others(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        if x.ndim == 4:
            raise AuditorError(
                f"“{self.hook}” is an attention pattern, which has no rows to resample.",
                "Ablate it with zero, or patch it.",
            )
        if self.rows is not None:
            self._must_be_rows(self.rows, x)
            drawn = torch.randint(len(self.rows), x.shape[:2], generator=generator)
            return self.rows[drawn.to(self.rows.device)].to(x)
        ordinary = torch.ones(x.shape[:2], dtype=torch.bool) if self._ordinary is None else self._ordinary.cpu()
        if ordinary.shape != x.shape[:2]:  # the rows of a picture's stream, of which all are ordinary
            ordinary = torch.ones(x.shape[:2], dtype=torch.bool)
        flat, new = x.flatten(0, 1), []
        owner = torch.arange(x.shape[0])[:, None].expand(x.shape[:2])
        for row in range(x.shape[0]):
            pool = torch.nonzero((ordinary & (owner != row)).flatten())[:, 0]
            if not len(pool):
                raise AuditorError(
                    f"There is no other sample to resample “{self.hook}” from.",
                    "Give a batch of at least two samples, or rows of a store.",
                )
            new.append(flat[pool[torch.randint(len(pool), (x.shape[1],), generator=generator)].to(x.device)])
        return torch.stack(new)

    def _must_be_rows(self, rows: Tensor, x: Tensor) -> None:
        if rows.ndim != 2 or not len(rows) or rows.shape[1] != x.shape[-1]:
            raise AuditorError(
                f"The rows to resample “{self.hook}” from are {list(rows.shape)}, and it has {x.shape[-1]} channels.",
                "Give at least one row of that hook point.",
            )
