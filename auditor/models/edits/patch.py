"""Patching: values of another run in the place of this run's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.models.edits.edit import Edit
from auditor.models.hook_points import PATTERN

if TYPE_CHECKING:
    from auditor.models.model import Run


class Patch(Edit):
    """Put other values in place: `value` broadcasts to [B, P, width], or with `positions` to [B, len, width].

    Activation patching, also called causal tracing or interchange intervention (Geiger et al. 2020; Meng et al. 2022,
    §2.1; Heimersheim and Nanda 2024).
    """

    def __init__(
        self,
        hook: str,
        value: Tensor,
        positions: Sequence[int] | None = None,
        columns: Sequence[int] | None = None,
    ) -> None:
        super().__init__(hook, positions, columns)
        self.value = value

    @classmethod
    def from_run(
        cls,
        hook: str,
        run: Run,
        positions: Sequence[int] | None = None,
        origins: Sequence[int] | None = None,
        columns: Sequence[int] | None = None,
    ) -> Patch:
        """The values that `run` recorded at `hook`: those of its positions `origins` at this run's `positions`, one for
        one; without `origins`, those of the same positions. AuditorError where the two do not match."""
        if hook not in run.records:
            raise AuditorError(f"The run to patch from did not record “{hook}”.", f"Run it with record=[{hook!r}].")
        pattern = run.model.hook_points[hook].axes == PATTERN
        rows = run.records[hook] if pattern else run.rows(hook)
        taken = positions if origins is None else origins
        if taken is None:
            return cls(hook, rows, positions, columns)
        if positions is None or len(positions) != len(taken):
            raise AuditorError(
                f"{len(taken)} positions of the other run cannot be put at "
                f"{'all' if positions is None else len(positions)} positions of this one.",
                "Name as many positions in both.",
            )
        for place in taken:
            if not -rows.shape[-2] <= place < rows.shape[-2]:
                raise AuditorError(
                    f"The other run has no position {place}: it has {rows.shape[-2]}.", "Choose one that it has."
                )
        index = torch.tensor(list(taken), dtype=torch.int64, device=rows.device) % rows.shape[-2]
        return cls(hook, rows.index_select(-2, index), positions, columns)

    def apply(self, x: Tensor) -> Tensor:
        value = self.value.to(x)
        fits_some = self.positions is not None and value.ndim > 1 and value.shape[-2] == len(self.positions)
        if self.positions is None or not fits_some:
            self._must_fit(value, x)
            return self._fitting(value, x, "value").expand_as(x)
        self._fitting(value[..., :1, :], x, "value")
        index = torch.tensor(self.positions, dtype=torch.int64, device=x.device) % x.shape[-2]
        return x.index_copy(-2, index, value.expand(*x.shape[:-2], len(self.positions), x.shape[-1]))

    def _must_fit(self, value: Tensor, x: Tensor) -> None:
        if value.ndim == x.ndim and value.shape[0] not in (1, x.shape[0]):
            raise AuditorError(
                f"The run to patch “{self.hook}” from is of {value.shape[0]} samples and this one of {x.shape[0]}.",
                "Patch from one sample, or from as many as there are.",
            )
        if value.ndim > 1 and value.shape[-2] not in (1, x.shape[-2]):
            raise AuditorError(
                f"The run to patch from has {value.shape[-2]} positions at “{self.hook}” and this one {x.shape[-2]}.",
                "Name the positions to patch, or choose a text of as many tokens.",
            )
