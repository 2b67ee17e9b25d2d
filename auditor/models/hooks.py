"""Recording and editing by plain forward hooks that are always taken away again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from auditor.models.edits import Edit
from auditor.models.hook_points import HookPoint, as_rows, from_axes, to_axes


class Reached(Exception):
    """Raised inside the forward pass when nothing deeper is asked for."""


@contextlib.contextmanager
def hooked(
    network: nn.Module,
    points: Sequence[HookPoint],
    record: Sequence[str],
    edits: Sequence[Edit],
    *,
    grad: bool,
    stop_at: str | None,
) -> Iterator[dict[str, Tensor]]:
    """Hook `points`; yields the dict that recorded tensors arrive in.

    With `grad`, a recorded tensor that nothing before it made differentiable becomes a leaf, so that gradients of
    anything after it reach it and cost nothing before it. `stop_at` names the point after which `Reached` is raised.
    """
    records: dict[str, Tensor] = {}
    handles = []
    try:
        for point in points:
            own = [edit for edit in edits if edit.hook == point.name]
            visit = _Visit(point, point.name in record, own, records, grad, point.name == stop_at)
            module = network.get_submodule(point.module)
            if point.tensor == "input":
                handles.append(module.register_forward_pre_hook(visit.before, with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(visit.after))
        yield records
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def handing_on(network: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """The modules at `paths` give back their first argument instead of computing; their hooks still run."""
    modules = [network.get_submodule(path) for path in paths]
    try:
        for module in modules:
            module.forward = _first_argument
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


def _first_argument(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


class _Visit:
    """What happens at one hook point during one run."""

    def __init__(
        self, point: HookPoint, record: bool, edits: Sequence[Edit], records: dict[str, Tensor], grad: bool, stop: bool
    ) -> None:
        self.point, self.record, self.edits = point, record, edits
        self.records, self.grad, self.stop = records, grad, stop
        self.calls = 0

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = "" if args else "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
        new = self._visit(args[0] if args else kwargs[name])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, name: new})

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        new = self._visit(output[0] if isinstance(output, tuple) else output)
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    def _visit(self, x: Tensor) -> Tensor | None:
        """Record, then edit. None leaves the network's own tensor where it is."""
        self.calls += 1
        if self.point.call is not None and self.calls != self.point.call + 1:
            return None
        seen = x
        if self.edits and self.point.shared:
            # The edit is written into x below: what is recorded or differentiated must not be written into.
            seen = x.clone()
        if self.record:
            if self.grad and not seen.requires_grad:
                seen.requires_grad_(True)
            self.records[self.point.name] = to_axes(self.point, seen)
        new = self._edited(seen)
        if self.stop:
            raise Reached
        if new is None or not self.point.shared:
            return new
        x.copy_(new)
        return None

    def _edited(self, x: Tensor) -> Tensor | None:
        if not self.edits:
            return None
        shaped = to_axes(self.point, x)
        rows = as_rows(shaped)
        for edit in self.edits:
            rows = edit.on_rows(rows)
        return from_axes(self.point, rows.reshape(shaped.shape)).contiguous()
