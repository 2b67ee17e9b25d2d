"""Weights edited for one run, on a copy: the network's own parameters are never written to."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from auditor.base.errors import AuditorError
from auditor.models.edits.edit import Edit

if TYPE_CHECKING:
    from auditor.models.model import Model

Change = Literal["set", "scale", "add"]
Index = tuple[int | slice, ...]


class EditWeight(Edit):
    """Exchange the parameter at `path` (as in ``model.layers.3.mlp.down_proj.weight``) for a changed copy.

    set, scale or add `amount` (a number or a tensor that broadcasts) at `index` (() means everywhere); or, with `left`
    [rows, r] and `right` [r, columns], add amount · left · right: a rank-one change as in ROME (Meng et al. 2022,
    eq. 2), or a low-rank one as in LoRA (Hu et al. 2021, eq. 3). A parameter that is used in several places (tied
    embeddings) changes in all. Edits of one parameter act in order; the network's own object is put back at the end,
    whatever happens.
    """

    per_row = False

    def __init__(
        self,
        path: str,
        change: Change = "set",
        amount: float | Tensor = 0.0,
        index: Index = (),
        *,
        left: Tensor | None = None,
        right: Tensor | None = None,
    ) -> None:
        super().__init__("")
        if (left is None) != (right is None):
            raise AuditorError("A low-rank change needs both of its factors.", "Give [rows, r] and [r, columns].")
        self.path, self.change, self.amount, self.index = path, change, amount, index
        self.left, self.right = left, right

    def changed(self, weight: Tensor) -> Tensor:
        """The new tensor, of the same shape. AuditorError where index or factors do not fit."""
        if self.left is not None and self.right is not None:
            return weight + self._product(weight)
        found = self._indexed(weight)
        amount = self._amount_for(found)
        new = weight.clone()
        if self.change == "set":
            new[self.index] = amount if isinstance(amount, Tensor) else torch.full_like(found, amount)
        else:
            new[self.index] = found * amount if self.change == "scale" else found + amount
        return new

    @contextlib.contextmanager
    def in_place(self, model: Model) -> Iterator[None]:
        own = parameter_at(model, self.path)
        new = self.changed(own.detach())
        places = [
            (module, name)
            for module in model.network.modules()
            for name, held in module._parameters.items()
            if held is own
        ]
        try:
            for module, name in places:
                module._parameters[name] = new  # type: ignore[assignment]
            yield
        finally:
            for module, name in places:
                module._parameters[name] = own  # type: ignore[assignment]

    def control(self, seeds: Sequence[int]) -> EditWeight:
        """A random change of the same places and rank that is as long (Frobenius norm); one for the whole batch."""
        return _RandomChange(self, seeds[0])

    @property
    def after_final_norm(self) -> bool:
        return True

    def _amount_for(self, found: Tensor) -> float | Tensor:
        if not isinstance(self.amount, Tensor):
            return self.amount
        try:
            return self.amount.to(found).expand_as(found)
        except RuntimeError:
            raise AuditorError(
                f"The amount is {list(self.amount.shape)}, and what is edited of “{self.path}” {list(found.shape)}.",
                "Give a number, or a tensor of that shape.",
            ) from None

    def _indexed(self, weight: Tensor) -> Tensor:
        try:
            return weight[self.index]
        except IndexError:
            raise AuditorError(
                f"“{told_index(self.index)}” is not an index of “{self.path}”, which is {list(weight.shape)}.",
                "Give one number, or : for all, for each axis.",
            ) from None

    def _product(self, weight: Tensor) -> Tensor:
        assert self.left is not None and self.right is not None
        if self.left.ndim != 2 or self.right.ndim != 2 or self.left.shape[1] != self.right.shape[0]:
            raise AuditorError(
                f"The factors of a low-rank change are {list(self.left.shape)} and {list(self.right.shape)}.",
                "Give [rows, r] and [r, columns].",
            )
        shape = (self.left.shape[0], self.right.shape[1])
        if shape != tuple(weight.shape):
            raise AuditorError(
                f"The low-rank change is {list(shape)} and “{self.path}” {list(weight.shape)}.",
                "Give factors of that many rows and columns.",
            )
        product: Tensor = self.amount * (self.left.to(weight) @ self.right.to(weight))
        return product


class _RandomChange(EditWeight):
    """The control of an edited weight."""

    def __init__(self, edit: EditWeight, seed: int) -> None:
        super().__init__(edit.path, edit.change, edit.amount, edit.index, left=edit.left, right=edit.right)
        self.edit, self.seed = edit, seed

    def changed(self, weight: Tensor) -> Tensor:
        size = (self.edit.changed(weight) - weight).norm()
        generator = torch.Generator().manual_seed(self.seed)

        def drawn(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator).to(weight)

        change = torch.zeros_like(weight)
        if self.left is not None and self.right is not None:
            change = drawn(self.left) @ drawn(self.right)
        else:
            change[self.index] = drawn(self._indexed(weight))
        new: Tensor = weight + change * (size / change.norm().clamp(min=1e-30))
        return new


def parameter_at(model: Model, path: str) -> Tensor:
    """The parameter object at `path`. AuditorError with the nearest names where there is none, or where it is computed
    from others as it is read."""
    module_path, _, name = path.rpartition(".")
    try:
        module = model.network.get_submodule(module_path)
        held = module._parameters.get(name)
    except AttributeError:
        module, held = None, None
    if module is not None and name and is_parametrized(module, name):
        raise AuditorError(
            f"“{path}” is computed as it is read: an adapter lies over it, or it is kept in few bits.",
            "Open the base in float32 or bfloat16.",
        )
    if held is None:
        names = [name for name, _ in model.network.named_parameters(remove_duplicate=False)]
        close = difflib.get_close_matches(path, names, 3, 0.5)
        hint = f"Did you mean {', '.join(close)}?" if close else f"One of them is {names[0]}." if names else ""
        raise AuditorError(f"“{model.name}” has no weight “{path}”.", hint)
    return held


def told_index(index: Index) -> str:
    """As `parsed_index` reads it."""
    ends = [(part.start, part.stop) if isinstance(part, slice) else part for part in index]
    return ",".join(
        str(part) if isinstance(part, int) else ":".join("" if end is None else str(end) for end in part)
        for part in ends
    )


def parsed_index(text: str) -> Index:
    """“3,:” → (3, all of the second axis); empty: everywhere. AuditorError for anything else."""
    found: list[int | slice] = []
    for part in text.split(",") if text.strip() else []:
        bounds = part.strip().split(":")
        if len(bounds) > 2 or not all(bound.strip().lstrip("-").isdecimal() or not bound.strip() for bound in bounds):
            raise AuditorError(f"“{text}” is not an index.", "Write numbers and ranges, as in 3,: or 0:16,7.")
        if len(bounds) == 1 and not bounds[0]:
            raise AuditorError(f"“{text}” is not an index.", "Write numbers and ranges, as in 3,: or 0:16,7.")
        ends = [int(bound) if bound.strip() else None for bound in bounds]
        found.append(slice(ends[0], ends[1]) if len(ends) == 2 else int(bounds[0]))
    return tuple(found)
