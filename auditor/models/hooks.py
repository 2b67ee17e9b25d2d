"""Recording and editing by plain forward hooks that are always taken away again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from auditor.models.attention import KERNEL, Look, among_stacked, look, placed, stacked
from auditor.models.edits import Edit
from auditor.models.hook_points import PATTERN, HookPoint, as_rows, from_axes, in_turn, to_axes


class Reached(Exception):
    """Raised inside the forward pass when nothing deeper is asked for."""


@contextlib.contextmanager
def hooked(
    network: nn.Module,
    points: Sequence[HookPoint],
    record: Sequence[str],
    edits: Sequence[Edit],
    *,
    batch: int,
    grad: bool,
    stop_at: str | None,
    whose: Mapping[str, Tensor] | None = None,
    keys: Mapping[str, Tensor] | None = None,
) -> Iterator[tuple[dict[str, Tensor], set[str]]]:
    """Hook `points` for a run of `batch` samples; yields what recorded tensors, and names that were come to, arrive in.
    `whose` has, for hook points where modules see all pictures in turn, which rows are whose (`to_axes`), and `keys`
    which keys.

    With `grad`, a recorded tensor that nothing before it made differentiable becomes a leaf, so that gradients of
    anything after it reach it and cost nothing before it. `stop_at` names the point after which `Reached` is raised.
    """
    records: dict[str, Tensor] = {}
    reached: set[str] = set()
    with contextlib.ExitStack() as taken:
        for point in points:
            own = [edit for edit in edits if edit.hook == point.name]
            visit = _Visit(point, point.name in record, own, records, reached, batch, grad, point.name == stop_at)
            visit.whose, visit.keys = (whose or {}).get(point.name), (keys or {}).get(point.name)
            module = network.get_submodule(point.module)
            if point.tensor == "inside":
                taken.enter_context(_looking_inside(module, visit))
            elif point.tensor == "output":
                taken.callback(module.register_forward_hook(visit.after).remove)
            else:
                seen = visit.before if point.tensor == "input" else visit.before_experts
                taken.callback(module.register_forward_pre_hook(seen, with_kwargs=True).remove)
        yield records, reached


@contextlib.contextmanager
def _looking_inside(module: nn.Module, visit: _Visit) -> Iterator[None]:
    """`visit` sees what the first call of its torch function gives in every call of `module`; for an attention pattern,
    also the pattern of a fused kernel that stands in its place, or of all that do."""
    forward, own = module.forward, module.__dict__.get("forward")

    def watched(*args: Any, **kwargs: Any) -> Any:
        mode = _Each(visit) if visit.point.apart else _First(visit)
        with mode, _begun_after(module, visit.point.after, mode):
            return forward(*args, **kwargs)

    module.forward = watched
    try:
        yield
    finally:
        module.__dict__.pop("forward", None)
        if own is not None:
            module.forward = own


@contextlib.contextmanager
def _begun_after(module: nn.Module, path: str, mode: _First | _Each) -> Iterator[None]:
    """`mode` looks on only after the module at `path` within `module` has been called, if one is named."""
    if not path:
        yield
        return
    mode.seen = True
    handle = module.get_submodule(path).register_forward_hook(lambda *_: setattr(mode, "seen", False))
    try:
        yield
    finally:
        handle.remove()


class _First(TorchFunctionMode):
    """Shows a visit the result of the first call of its torch function."""

    def __init__(self, visit: _Visit) -> None:
        super().__init__()
        self.visit = visit
        *self.before, inside = visit.point.inside.split()
        self.names = {inside, *([KERNEL] if visit.point.axes == PATTERN else [])}
        self.seen = False

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if not self.seen and self.before:
            self.before = self.before[name == self.before[0] :]
            return function(*args, **(kwargs or {}))
        if self.seen or name not in self.names:
            return function(*args, **(kwargs or {}))
        self.seen = True
        visit = self.visit
        if name == KERNEL:
            seen = look(function, args, kwargs or {})
            return placed(seen, visit.visit(seen.pattern), through=visit.record and visit.grad)
        result = function(*args, **(kwargs or {}))
        new = visit.after(None, args, result)
        return result if new is None else new


class _Each(TorchFunctionMode):
    """Shows a visit the patterns of all calls of the fused kernel as one, where what they give is put together."""

    def __init__(self, visit: _Visit) -> None:
        super().__init__()
        self.visit = visit
        self.calls: list[Look] = []
        self.seen = False

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name == KERNEL and not self.seen:
            self.calls.append(look(function, args, kwargs or {}))
            return self.calls[-1].given
        result = function(*args, **(kwargs or {}))
        if name != "cat" or self.seen or not self.calls or len(args[0]) != len(self.calls):
            return result
        self.seen = True
        new = self._visited()
        if new is None:
            return result
        through = self.visit.record and self.visit.grad
        each = [placed(call, pattern, through=through) for call, pattern in zip(self.calls, new, strict=True)]
        # The library has heads behind positions by now.
        return function([one.transpose(1, 2) for one in each], **(kwargs or {}))

    def _visited(self) -> list[Tensor] | None:
        """The patterns that come back, in the order of the calls."""
        visit, point = self.visit, self.visit.point
        whole, sizes = stacked([call.pattern for call in self.calls])
        rows = in_turn(point, visit.batch, sum(sizes), whole.device) if visit.whose is None else visit.whose
        visit.whose, whose = among_stacked(rows, sizes), visit.whose
        try:
            new = visit.visit(whole)
        finally:
            visit.whose = whose
        return None if new is None else [one[None, :, :n, :n] for one, n in zip(new, sizes, strict=True)]


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
        self,
        point: HookPoint,
        record: bool,
        edits: Sequence[Edit],
        records: dict[str, Tensor],
        reached: set[str],
        batch: int,
        grad: bool,
        stop: bool,
    ) -> None:
        self.point, self.record, self.edits = point, record, edits
        self.records, self.reached = records, reached
        self.batch, self.grad, self.stop = batch, grad, stop
        self.whose: Tensor | None = None
        self.keys: Tensor | None = None
        self.calls = 0

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = "" if args else "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
        new = self._of_whole(args[0] if args else kwargs[name])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, name: new})

    def before_experts(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Weights of the chosen experts, as one channel for every expert. Edited, they are those of all experts."""
        hidden, chosen, weights = args
        dense = weights.new_zeros(*weights.shape[:-1], self.point.width).scatter(-1, chosen, weights)
        new = self.visit(dense)
        if self.edits and new is not None:
            return (hidden, torch.arange(self.point.width, device=new.device).expand_as(new), new), kwargs
        return None if new is None else ((hidden, chosen, new.gather(-1, chosen)), kwargs)

    def after(self, module: Any, args: tuple[Any, ...], output: Any) -> Any:
        several = isinstance(output, (tuple, list))
        new = self._of_whole(output[0] if several else output)
        if new is None:
            return None
        if isinstance(output, list):
            return [new, *output[1:]]
        return (new, *output[1:]) if several else new

    def _of_whole(self, whole: Tensor) -> Tensor | None:
        """The visit of a tensor, or of the part of it that is the hook point."""
        part = self.point.part
        if part is None:
            return self.visit(whole)
        x = part.take(whole)
        new = self.visit(x)
        if new is None and not (self.record and self.grad):
            return None
        return part.put(whole, x if new is None else new)

    def visit(self, x: Tensor) -> Tensor | None:
        """Record, then edit. None leaves the network's own tensor where it is."""
        self.calls += 1
        if self.point.call is not None and self.calls != self.point.call + 1:
            return None
        self.reached.add(self.point.name)
        # What is written into x below must not be what is recorded or differentiated.
        kept = self.record and self.grad and x.ndim != len(self.point.axes)
        seen = x.clone() if self.point.shared and (self.edits or kept) else x
        shaped = to_axes(self.point, seen, self.batch, self.whose, self.keys)
        if self.record:
            if self.grad and not shaped.requires_grad:
                shaped.requires_grad_(True)
            self.records[self.point.name] = shaped
        new = self._edited(shaped)
        if self.stop:
            raise Reached
        if new is None:
            if not (self.record and self.grad) or shaped is seen:
                return x.clone() if self.record and self.point.overwritten else None
            # What is recorded has to lie on the way from what is before it to what is after it, for gradients.
            new = shaped
        back = from_axes(self.point, new, x, self.whose, self.keys)
        # As it lay in memory: other strides would choose other kernels, which round otherwise.
        back = back.contiguous() if x.is_contiguous() else torch.empty_like(x).copy_(back)
        if self.point.overwritten:  # what an edit puts there is its own, as what is recorded is
            return back.clone()
        if not self.point.shared:
            return back
        x.copy_(back)
        return None

    def _edited(self, x: Tensor) -> Tensor | None:
        if not self.edits:
            return None
        rows = x if self.point.axes == PATTERN else as_rows(x)
        for edit in self.edits:
            rows = edit.on_rows(rows)
        return rows.reshape(x.shape)
