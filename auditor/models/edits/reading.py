"""Where an edge ends: a component's reading of the residual stream, computed again without some sources."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from auditor.base.errors import AuditorError
from auditor.models.edits.edit import Edit
from auditor.models.edits.norms import NormShape, shape_of
from auditor.models.edits.source import Source
from auditor.models.edits.wiring import Wiring

if TYPE_CHECKING:
    from auditor.models.model import Model

_READ = ("q", "k", "v", "mlp_pre", "mlp_linear")
_Entry = tuple[list[int] | None, list[int] | None, Source, bool]


class Reading(Edit):
    """One reading of the residual stream without some sources: the output of the module at `module` (seen at `hook`)
    is computed again from the input without them, or, with no hook point, its input is exchanged."""

    def __init__(self, hook: str, module: str, norm: str | None, model: Model) -> None:
        super().__init__(hook)
        self.module, self.norm, self.model = module, norm, model
        self.cuts: list[_Entry] = []
        self._read: Tensor | None = None
        self._stream: Tensor | None = None

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
            new = self._without(self._read, [entry[1:] for entry in self.cuts])
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, name: new})

        try:
            if self.norm is not None:
                handles.append(model.network.get_submodule(self.norm).register_forward_pre_hook(see_stream))
            if self.module != self.norm:
                module = model.network.get_submodule(self.module)
                handles.append(module.register_forward_pre_hook(see_input, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._read = self._stream = None

    def apply(self, x: Tensor) -> Tensor:
        """The hook point's values [B, P, width], computed again for the channels that no longer read a source."""
        point = self.model.hook_points[self.hook]
        whole = self.module == self.norm
        read = x if whole else self._read
        assert read is not None
        for columns, entries in self._by_columns(x.shape[-1]):
            without = self._without(read, entries)
            if not whole:
                project: Any = self.model.network.get_submodule(self.module).forward
                without = project(without)
                without = point.part.take(without) if point.part is not None else without
            new = without.view(x.shape)
            x = new if columns is None else torch.where(self._chosen(columns, x, 2, "channel"), new, x)
        return x

    def _by_columns(self, width: int) -> list[tuple[list[int] | None, list[Any]]]:
        """Channels that lose the same sources, together."""
        if all(entry[0] is None for entry in self.cuts):
            return [(None, [entry[1:] for entry in self.cuts])]
        held: dict[tuple[int, ...], list[int]] = {}
        columns = [set(range(width)) if entry[0] is None else set(entry[0]) for entry in self.cuts]
        for column in range(width):
            own = tuple(at for at, of in enumerate(columns) if column in of)
            held.setdefault(own, []).append(column)
        return [(chosen, [self.cuts[at][1:] for at in own]) for own, chosen in held.items() if own]

    def _without(self, read: Tensor, entries: Sequence[Any]) -> Tensor:
        """What the component reads, less what the sources add to it."""
        live = self._sum([entry for entry in entries if entry[2]], read.device)
        frozen = self._sum([entry for entry in entries if not entry[2]], read.device)
        if self.norm is None:
            return read - sum(part for part in (live, frozen) if part is not None).view(read.shape)  # type: ignore[union-attr]
        assert self._stream is not None
        x, y = self._stream, read.view(self._stream.shape)
        if live is not None:
            norm: Any = self.model.network.get_submodule(self.norm).forward
            read = norm(x - live.view(x.shape)).view(read.shape)
        if frozen is not None:
            read = read - _shape(self.model, self.norm, x).share(frozen.view(x.shape), x, y).view(read.shape)
        return read

    def _sum(self, entries: Sequence[Any], device: torch.device) -> Tensor | None:
        total: Tensor | None = None
        for positions, source, _ in entries:
            part = source.contribution().to(device)
            if positions is not None:
                part = torch.where(self._chosen(positions, part, 1, "position"), part, torch.zeros_like(part))
            total = part if total is None else total + part
        return total


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
        if part not in ("final_norm", "logits") or f"{prefix}final_norm" not in points:
            raise AuditorError(f"“{prefix}{part}” reads no residual stream.", "Choose blocks.N.mlp or final_norm.")
        return [(f"{prefix}final_norm", points[f"{prefix}final_norm"].module)]
    at = f"{prefix}blocks.{number}."
    wanted = ("q", "k", "v") if part == "attn" else (part,) if part in _READ else ()
    if wanted and all(_linear(model, at + name) for name in wanted):
        return [(at + name, points[at + name].module) for name in wanted]
    inner = {"attn": ("z", "attn_out"), "mlp": ("mlp_hidden", "router", "mlp_out")}.get(part)
    if inner is None:
        raise AuditorError(
            f"“{at}{part}” does not read the residual stream, or this network has no such hook point.",
            "Choose q, k, v, mlp_pre, mlp_linear, attn or mlp of a block, or final_norm.",
        )
    inside = [points[at + name].module for name in inner if at + name in points]
    block = points[at + "resid_pre"].module + "." if at + "resid_pre" in points else ""
    holding = [path for path in wiring.read if path.startswith(block) and _holds(path, inside)]
    found = [path for path in holding if path in wiring.before] or holding
    if not found and part == "mlp" and _linear(model, at + "mlp_pre"):  # of parts that no module holds together
        return [(at + name, points[at + name].module) for name in _READ[3:] if _linear(model, at + name)]
    if not found:
        raise AuditorError(f"“{at}{part}” cannot be told from the rest of its block.", "Ablate it instead.")
    return [("", min(found, key=len))]


def _linear(model: Model, hook: str) -> bool:
    point = model.hook_points.get(hook)
    return point is not None and point.tensor == "output"


def _holds(path: str, inside: Sequence[str]) -> bool:
    return any(module == path or module.startswith(path + ".") for module in inside)


def _shape(model: Model, path: str, x: Tensor) -> NormShape:
    return shape_of(model.network.get_submodule(path), x.shape[-1], x.device, x.dtype)
