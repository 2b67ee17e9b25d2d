"""Where an edge ends: a component's reading of the residual stream, computed again without some sources."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from auditor.base.errors import AuditorError
from auditor.models.edits.edit import Edit
from auditor.models.edits.norms import shape_of
from auditor.models.edits.source import Source
from auditor.models.edits.wiring import Way, Wiring, called, module_of, named, place_of, whose
from auditor.models.hook_points import from_axes, to_axes

if TYPE_CHECKING:
    from auditor.models.inputs import Inputs
    from auditor.models.model import Model

_READ = ("q", "k", "v", "mlp_pre", "mlp_linear")
_CROSSING = ("cross_q", "cross_mlp_pre", "cross_mlp_linear")


@dataclass(frozen=True)
class One:
    """One cut of a reading: for the channels `columns` and at `positions` (None: all), what `source` gives no longer
    comes along its `way`."""

    columns: list[int] | None
    positions: list[int] | None
    source: Source
    way: Way
    live: bool


class Reading(Edit):
    """One reading of the residual stream without some sources: the output of the module at `module` (seen at `hook`)
    is computed again from the input without them, or, with no hook point, its input is exchanged."""

    def __init__(self, hook: str, module: str, norm: str | None, model: Model, inputs: Inputs) -> None:
        super().__init__(hook)
        self.module, self.norm, self.model = module, norm, model
        self.whose = whose(model, hook, inputs) if hook else None
        self.cuts: list[One] = []
        self._read: Tensor | None = None
        self._stream: Tensor | None = None
        self._normed: dict[str, tuple[Tensor, Tensor]] = {}
        self._mixed: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def key(self) -> tuple[str, str]:
        return self.hook, self.module

    @contextlib.contextmanager
    def in_place(self, model: Model) -> Iterator[None]:
        handles = []

        def see_stream(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._stream = args[0]

        def see_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            name = "" if args else "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
            self._read = args[0] if args else kwargs[name]
            if self.hook:
                return None
            new = self._without(self._read, self.cuts)
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, name: new})

        def see_norm(path: str) -> Any:
            calls = itertools.count()

            def after(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
                self._normed[called(path, next(calls))] = (args[0], output)

            return after

        def see_mixed(path: str) -> Any:
            def after(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
                self._mixed[path] = (args[0], output)

            return after

        try:
            for path in {module_of(place) for cut in self.cuts for place in cut.way.norms}:
                # Before other hooks: what an edit puts behind the norm is not what the norm gave.
                norm = model.network.get_submodule(path)
                handles.append(norm.register_forward_hook(see_norm(path), prepend=True))
            places = [cut.way.streams[1] for cut in self.cuts if cut.way.streams is not None]
            for path in self._watched(places):
                module = model.network.get_submodule(path)
                handles.append(module.register_forward_hook(see_mixed(path)))
            if self.norm is not None:
                handles.append(model.network.get_submodule(self.norm).register_forward_pre_hook(see_stream))
            if self.module != self.norm:
                module = model.network.get_submodule(module_of(self.module))
                handles.append(module.register_forward_pre_hook(see_input, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._read = self._stream = None
            self._normed = {}
            self._mixed = {}

    def apply(self, x: Tensor) -> Tensor:
        """The hook point's values [B, P, width], computed again for the channels that no longer read a source."""
        point = self.model.hook_points[self.hook]
        read = self._read
        if self.module == self.norm:
            assert self._stream is not None
            read = from_axes(point, x, self._stream, self.whose)
        assert read is not None
        for columns, cuts in self._by_columns(x.shape[-1]):
            without = self._without(read, cuts)
            if self.module != self.norm:
                project: Any = self.model.network.get_submodule(module_of(self.module)).forward
                without = project(without)
                without = point.part.take(without) if point.part is not None else without
            new = to_axes(point, without, len(x), self.whose)
            x = new if columns is None else torch.where(self._chosen(columns, x, 2, "channel"), new, x)
        return x

    def _by_columns(self, width: int) -> list[tuple[list[int] | None, list[One]]]:
        """Channels that lose the same sources, together."""
        if all(cut.columns is None for cut in self.cuts):
            return [(None, self.cuts)]
        held: dict[tuple[int, ...], list[int]] = {}
        columns = [set(range(width)) if cut.columns is None else set(cut.columns) for cut in self.cuts]
        for column in range(width):
            own = tuple(at for at, of in enumerate(columns) if column in of)
            held.setdefault(own, []).append(column)
        return [(chosen, [self.cuts[at] for at in own]) for own, chosen in held.items() if own]

    def _without(self, read: Tensor, cuts: Sequence[One]) -> Tensor:
        """What the component reads, less what the sources add to it."""
        added = [self._added([cut for cut in cuts if cut.live == live], read, live) for live in (True, False)]
        total = _plus(*added)
        return read if total is None else read - total.view(read.shape)

    def _added(self, cuts: Sequence[One], read: Tensor, live: bool) -> Tensor | None:
        """What the sources add to `read`, through the norms that stand between."""
        total: Tensor | None = None
        longest = max((cut.way.norms for cut in cuts), key=len, default=())
        for at, path in enumerate(longest):
            x, y = self._normed[path]
            total = _plus(total, self._sum([cut for cut in cuts if len(cut.way.norms) == len(longest) - at], x))
            total = self._through(path, total, x, y, live)
        stream = read if self._stream is None else self._stream
        total = _plus(total, self._sum([cut for cut in cuts if not cut.way.norms], stream))
        return total if self.norm is None else self._through(self.norm, total, stream, read, live)

    def _through(self, path: str, part: Tensor | None, x: Tensor, y: Tensor, live: bool) -> Tensor | None:
        """What `part` of x adds to y = norm(x)."""
        if part is None:
            return None
        module: Any = self.model.network.get_submodule(module_of(path))
        part, y = part.view(x.shape), y.view(x.shape)
        if live:
            made: Tensor = y - module.forward(x - part)
            return made
        return shape_of(module, x.shape[-1], x.device, x.dtype).share(part, x, y)

    def _watched(self, places: Sequence[str]) -> Sequence[str]:
        """Modules that tell what is mixed up to these places of several streams."""
        mixing = self.model._adapter.mixing() if places else None
        return list(dict.fromkeys(path for place in places for path in mixing.watched(place))) if mixing else []

    def _sum(self, cuts: Sequence[One], like: Tensor) -> Tensor | None:
        """What the sources give, as it enters the stream, laid out as `like` is."""
        total: Tensor | None = None
        for cut in cuts:
            part = cut.source.contribution().to(like.device) * cut.way.factor
            if cut.way.streams is not None and (mixing := self.model._adapter.mixing()) is not None:
                part = mixing.carried(part, *cut.way.streams, self._mixed)
            if cut.positions is not None:
                part = torch.where(self._chosen(cut.positions, part, 1, "position"), part, torch.zeros_like(part))
            total = _plus(total, from_axes(cut.source.point, part, torch.zeros_like(like), cut.source.whose))
        return total


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a.view(b.shape) + b


def arranged(parts: Sequence[Edit]) -> list[Edit]:
    """Cuts of one reading as one, and first; then all else in order; what sources hold is seen last."""
    cuts: dict[tuple[str, str], Reading] = {}
    for part in parts:
        if isinstance(part, Reading):
            cuts.setdefault(part.key, part)
            if cuts[part.key] is not part:
                cuts[part.key].cuts += part.cuts
    rest = [part for part in parts if not isinstance(part, (Reading, Source))]
    return [*cuts.values(), *rest, *(part for part in parts if isinstance(part, Source))]


def read_by(model: Model, wiring: Wiring, prefix: str, number: int | None, part: str) -> list[tuple[str, str]]:
    """(hook point or none, module) of everything that the target reads the stream with."""
    points = model.hook_points
    if number is None:
        if part in ("final_norm", "logits") and f"{prefix}final_norm" in points:
            return [(f"{prefix}final_norm", points[f"{prefix}final_norm"].module)]
        heads = _heads(wiring, prefix) if part == "logits" else []
        if not heads:
            raise AuditorError(f"“{prefix}{part}” reads no residual stream.", "Choose blocks.N.mlp or final_norm.")
        return [("", path) for path in heads]
    at = f"{prefix}blocks.{number}."
    wanted = ("q", "k", "v") if part == "attn" else (part,) if part in (*_READ, *_CROSSING) else ()
    straight = all(_linear(model, at + name) for name in wanted)
    if straight and part == "attn":  # values may stand behind a norm of their own
        straight = all(_reads(wiring, place_of(points[at + name]), prefix) for name in wanted)
    if wanted and straight:
        return [(at + name, place_of(points[at + name])) for name in wanted]
    inner = {"attn": ("z", "attn_out"), "mlp": ("mlp_hidden", "router", "mlp_out")}.get(part)
    if inner is None:
        raise AuditorError(
            f"“{at}{part}” does not read the residual stream, or this network has no such hook point.",
            "Choose q, k, v, cross_q, mlp_pre, mlp_linear, attn or mlp of a block, or final_norm.",
        )
    inside = [points[at + name].module for name in inner if at + name in points]
    block = points[at + "resid_pre"].module + "." if at + "resid_pre" in points else ""
    holding = [path for path in wiring.read if path.startswith(block) and _holds(path, inside)]
    found = [path for path in holding if path in wiring.before] or holding
    if part == "mlp" and at + "experts_out" in points:
        found = [path for path in found if _holds(path, [points[at + "experts_out"].module])]
        if not found:
            raise AuditorError(
                f"“{at}mlp” reads the residual stream in several places: by its MLP, its router and its experts.",
                "Choose mlp_pre or mlp_linear, or ablate experts_out.",
            )
    if not found and part == "mlp" and _linear(model, at + "mlp_pre"):  # of parts that no module holds together
        return [(at + name, place_of(points[at + name])) for name in _READ[3:] if _linear(model, at + name)]
    if not found:
        raise AuditorError(f"“{at}{part}” cannot be told from the rest of its block.", "Ablate it instead.")
    return [("", min(found, key=len))]


def _heads(wiring: Wiring, prefix: str) -> list[str]:
    """What reads the stream behind the last block of a network without a norm there."""
    numbers = [named(name)[1] for name in wiring.rows if name.startswith(f"{prefix}blocks.")]
    last = f"{prefix}blocks.{max((number or 0 for number in numbers), default=0)}.resid_post"
    reading = [path for path, x in wiring.read.items() if wiring.stream(x, prefix) == last]
    return [path for path in reading if not any(path.startswith(f"{other}.") for other in reading)]


def _linear(model: Model, hook: str) -> bool:
    point = model.hook_points.get(hook)
    return point is not None and point.tensor == "output"


def _reads(wiring: Wiring, place: str, prefix: str) -> bool:
    """Whether a module reads the stream, through a norm or as it is."""
    x = wiring.read.get(place)
    return place in wiring.before or (x is not None and wiring.stream(x, prefix) is not None)


def _holds(path: str, inside: Sequence[str]) -> bool:
    return any(module == path or module.startswith(path + ".") for module in inside)
