"""What every edit is: a change of one run of a network, composed in order and gone when the run is over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from auditor.base.errors import AuditorError

if TYPE_CHECKING:
    from auditor.models.inputs import Inputs
    from auditor.models.model import Model


class Edit:
    """A change of the values at one hook point. Subclass it and write `apply`.

    `apply` gets all rows x [B, P, width] (of an attention pattern [B, head, query, key]) and gives a tensor of that
    shape; it must be differentiable and must not write into x. Of its result only `positions` (indices on P or on the
    queries, negative ones count from the end; None: all) and `columns` (channels, such as those of one head, or heads
    of a pattern; None: all) take effect. Edits of one hook point are applied in the order given; `record` sees the
    values before them. An edit that is not at one hook point has an empty `hook`, and says in `bound` or `in_place`
    what it does.
    """

    hook: str
    per_row = True
    """Whether each row of a batch is edited by itself, so that a control may be another one in each row."""

    def __init__(self, hook: str, positions: Sequence[int] | None = None, columns: Sequence[int] | None = None) -> None:
        self.hook = hook
        self.positions = None if positions is None else list(positions)
        self.columns = None if columns is None else list(columns)

    def apply(self, x: Tensor) -> Tensor:
        """[B, P, width] → [B, P, width]."""
        return x

    def bound(self, model: Model, inputs: Inputs) -> Sequence[Edit]:
        """The edits that this one consists of in a run of `model` on `inputs`: itself, unless it says otherwise."""
        return [self]

    def in_place(self, model: Model) -> contextlib.AbstractContextManager[None]:
        """What is exchanged or hooked in the network during the run, beside the hook point; put back on leaving,
        whatever happens."""
        return contextlib.nullcontext()

    def control(self, seeds: Sequence[int]) -> Edit | None:
        """An edit of equal size that has no meaning: what this edit's effect has to beat; another one for each row of
        a batch, of `seeds`. None where there is none."""
        from auditor.models.edits.control import EqualChange

        return EqualChange(self, seeds)

    @property
    def after_final_norm(self) -> bool:
        """Whether it may act behind the final norm's input, so that logits have to be those of the network itself."""
        return self.hook.endswith("final_norm")

    def on_rows(self, x: Tensor) -> Tensor:
        """`apply`, at `positions` and `columns` alone. AuditorError for a wrong shape or a place that is not there."""
        edited = self.apply(x).to(x.dtype)
        if edited.shape != x.shape:
            raise AuditorError(
                f"An edit at “{self.hook}” turned {list(x.shape)} into {list(edited.shape)}.",
                "An edit must keep the shape [batch, positions, width].",
            )
        if self.positions is not None:
            edited = torch.where(self._chosen(self.positions, x, x.ndim - 2, "position"), edited, x)
        if self.columns is not None:
            axis, what = (1, "head") if x.ndim == 4 else (2, "channel")
            edited = torch.where(self._chosen(self.columns, x, axis, what), edited, x)
        return edited

    def _fitting(self, value: Tensor, x: Tensor, what: str) -> Tensor:
        """`value` as it goes into x. AuditorError for one that does not broadcast to the shape of x, or whose last axis
        is another one."""
        try:
            fits = torch.broadcast_shapes(value.shape, x.shape) == x.shape  # type: ignore[no-untyped-call]
        except RuntimeError:
            fits = False
        if not fits or (value.ndim and value.shape[-1] != x.shape[-1]):
            raise AuditorError(
                f"The {what} of an edit at “{self.hook}” is {list(value.shape)}, and the values there are "
                f"{list(x.shape)}.",
                "Give one of that hook point's own width, for one sample or for as many.",
            )
        return value.to(x)

    def _chosen(self, places: Sequence[int], x: Tensor, axis: int, what: str) -> Tensor:
        """bool, broadcasts to x: True at these places of one axis."""
        size = x.shape[axis]
        for place in places:
            if not -size <= place < size:
                of = f"a sample of {size} positions" if what == "position" else f"the {size} {what}s"
                raise AuditorError(
                    f"{what.capitalize()} {place} is not in {of} (edit at “{self.hook}”).",
                    f"Choose a {what} that {'the sample' if what == 'position' else 'the hook point'} has.",
                )
        chosen = torch.zeros(size, dtype=torch.bool, device=x.device)
        chosen[torch.tensor(places, dtype=torch.int64, device=x.device)] = True
        return chosen.view(-1, *[1] * (x.ndim - 1 - axis))


def bound(edits: Sequence[Edit], model: Model, inputs: Inputs) -> list[Edit]:
    """What `edits` consist of in this run, in the order in which it acts: cuts read a component's input anew before
    anything else is done there, and what a source writes is seen after all edits of it."""
    from auditor.models.edits.reading import arranged

    return arranged([part for edit in edits for part in edit.bound(model, inputs)])


@contextlib.contextmanager
def exchanged(edits: Sequence[Edit], model: Model) -> Iterator[None]:
    """`in_place` of all edits, in order; taken back in the other order."""
    with contextlib.ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.in_place(model))
        yield
