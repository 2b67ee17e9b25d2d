"""Where an edge begins: what a component gives to the residual stream, as it is in the run that goes on."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from auditor.base.errors import AuditorError
from auditor.models.edits.control import other_group, random_rows, resized
from auditor.models.edits.edit import Edit
from auditor.models.edits.norms import shape_of
from auditor.models.edits.wiring import WRITES, Wiring, called, module_of, named, place_of, whose
from auditor.models.hook_points import RESIDUAL, from_axes, to_axes

if TYPE_CHECKING:
    from auditor.models.edits.cut import CutEdge
    from auditor.models.inputs import Inputs
    from auditor.models.model import Model

_WRITTEN = ("embed", *WRITES, *RESIDUAL)


class Source(Edit):
    """Sees what the source holds after all edits of it, and says what that adds to the residual stream."""

    def __init__(self, cut: CutEdge, model: Model, wiring: Wiring, inputs: Inputs) -> None:
        self.point = model._points([cut.source])[0]
        super().__init__(self.point.name)
        self.whose = whose(model, self.point.name, inputs)
        self.cut, self.model = cut, model
        self.kind = named(self.point.name)[2]
        self.norm: str | None = None
        self._written: list[Tensor] = []
        straight = self.kind in _WRITTEN
        if not straight and (self.kind not in ("z", "mlp_hidden") or self.point.tensor != "input"):
            raise AuditorError(
                f"What “{cut.source}” holds does not reach the residual stream in a straight line.",
                "Cut z (a head), mlp_hidden (a neuron), attn_out, mlp_out, embed, or a feature of a dictionary.",
            )
        if not straight:
            self.norm = wiring.after.get(place_of(self.point))

    def apply(self, x: Tensor) -> Tensor:
        """Notes, while the source's block runs, what it writes, and what its control writes."""
        cut = self.cut
        self._written = [self._write(x, cut.source_columns)]
        if cut.instead is not None:
            if cut.instead.shape[-2] != x.shape[-2]:
                raise AuditorError(
                    f"The other run has {cut.instead.shape[-2]} positions and this one {x.shape[-2]}.",
                    "Choose a text of as many tokens.",
                )
            self._written[0] = self._written[0] - self._write(cut.instead.to(x), cut.source_columns)
        if cut.aside:
            drawn = [other_group(None if cut.write else cut.source_columns, x.shape[-1], seed) for seed in cut.aside]
            if any(other is None for other in drawn):
                self._written.append(random_rows(self._written[0], cut.aside))
            else:
                rows = [self._write(x[row, None], other) for row, other in enumerate(drawn)]
                self._written.append(torch.cat(rows))
        return x

    @contextlib.contextmanager
    def in_place(self, model: Model) -> Iterator[None]:
        """Behind the norm that some families have after the output projection, the share that passes is what counts."""
        handles, calls = [], itertools.count()

        def watch(norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if self.norm is None or called(module_of(self.norm), next(calls)) != self.norm:
                return
            shape = shape_of(norm, output.shape[-1], output.device, output.dtype)
            point, rows = self.point, self.whose
            laid = [from_axes(point, part, torch.zeros_like(output), rows) for part in self._written]
            shares = [shape.share(part, args[0], output) for part in laid]
            self._written = [to_axes(point, share, len(self._written[0]), rows) for share in shares]

        try:
            if self.norm is not None:
                handles.append(model.network.get_submodule(module_of(self.norm)).register_forward_hook(watch))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._written = []

    def contribution(self) -> Tensor:
        """[B, P, d_model]: what the source gives, less what it is to give instead; of a control, as long as that."""
        if not self._written:
            raise AuditorError(f"“{self.cut.source}” was not computed in this run.", "Choose a source that is.")
        own = self._written[0]
        return own if len(self._written) == 1 else resized(self._written[1], own.norm(dim=-1, keepdim=True))

    def _write(self, x: Tensor, columns: Sequence[int] | None) -> Tensor:
        if columns is not None:
            chosen = self._chosen(list(columns), x, 2, "channel")
            x = torch.where(chosen, x, torch.zeros_like(x))
        if self.cut.write is not None:
            x = self.cut.write(x)
        if self.kind in _WRITTEN:
            return x.clone()  # some families add the next part into this very tensor
        # A linear map but for its bias; its own forward, so that no hook of this run sees the call.
        project: Any = self.model.network.get_submodule(self.point.module).forward
        written: Tensor = project(x) - project(torch.zeros_like(x[:1, :1]))
        return written
