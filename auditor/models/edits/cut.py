"""Cut edges: what one component writes is taken out of what another one reads, and of nothing else.

A component of a pre-norm transformer reads norm(r) of the residual stream r, which is the plain sum of what was
written to it (Elhage et al. 2021). Taking a source's contribution c out of it is exact in either of two ways:

    frozen   norm(r) − scale(r) · gain · centre(c)    the denominator stays that of the whole stream
    live     norm(r − c)                              the denominator is computed anew

The frozen one is linear: the shares of all sources (and the norm's bias) add up to norm(r), so edges can be compared
and cut one by one or together. The live one is what the component would have read, had the source never written, and
is the usual path patching (Wang et al. 2023, §3.1; Goldowsky-Dill et al. 2023). Cuts of one reading act together.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from auditor.base.errors import AuditorError
from auditor.models.edits.control import other_group, random_rows, resized
from auditor.models.edits.edit import Edit
from auditor.models.edits.norms import NormShape, shape_of
from auditor.models.edits.wiring import Wiring, wiring_of

if TYPE_CHECKING:
    from auditor.models.hook_points import HookPoint
    from auditor.models.inputs import Inputs
    from auditor.models.model import Model

Norm = Literal["frozen", "live"]
Write = Callable[[Tensor], Tensor]
_NAME = re.compile(r"(?P<prefix>.*?)(?:blocks\.(?P<number>\d+)\.)?(?P<part>[a-z_]+)")
_READ = ("q", "k", "v", "mlp_pre", "mlp_linear")
_WRITTEN = ("embed", "attn_out", "mlp_out", "resid_pre", "resid_mid", "resid_post")


class CutEdge(Edit):
    """Take what `source` writes out of what `target` reads; everything else still reads it.

    `source`: a hook point whose values reach the residual stream in a straight line: ``blocks.N.z`` (with the
    `columns` of a head), ``blocks.N.mlp_hidden`` (a neuron), ``attn_out``, ``mlp_out``, ``embed`` or the stream itself;
    `write` maps its values [B, P, width] to what counts [B, P, d_model], as for a dictionary's feature. `target`:
    ``blocks.N.q``, ``.k``, ``.v`` (of `heads`, or all; k and v are numbered by their own heads), ``.mlp_pre``,
    ``.mlp_linear`` (`heads` are then neurons), ``blocks.N.attn``, ``blocks.N.mlp``, or ``final_norm``, which is the
    source's direct effect on the logits. `instead`: source values of another run, whose contribution then takes the
    place of the cut one (path patching). `positions`: of the reader. The source is read after all edits of it.
    """

    def __init__(
        self,
        source: str,
        target: str,
        *,
        columns: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
        instead: Tensor | None = None,
        write: Write | None = None,
        norm: Norm = "frozen",
    ) -> None:
        super().__init__("", positions)
        self.source, self.target, self.source_columns = source, target, columns
        self.heads, self.instead, self.write, self.norm = heads, instead, write, norm
        self.aside: list[int] = []

    def bound(self, model: Model, inputs: Inputs) -> Sequence[Edit]:
        wiring = wiring_of(model, inputs)
        prefix, number, part = _named(self.target)
        read = _readings(model, wiring, prefix, number, part)
        source = _Source(self, model, wiring)
        parts: list[Edit] = [source]
        for hook, module in read:
            norm = module if hook.endswith("final_norm") else wiring.before.get(module)
            stream = wiring.stream(wiring.read[norm or module], prefix) if (norm or module) in wiring.read else None
            if stream is None:
                raise AuditorError(
                    f"“{self.target}” does not read the residual stream of this network in a way that can be told.",
                    "Choose another edge, or ablate the component.",
                )
            self._must_lie_before(model, wiring, source.point, stream)
            cut = _Cut(hook, module, norm, model)
            cut.cuts.append((self._columns(model, hook), self.positions, source, self.norm == "live"))
            parts.append(cut)
        return parts

    def control(self, seeds: Sequence[int]) -> Edit:
        """The same cut of a vector as long as the source's, at each position: along what another head or neuron writes,
        or a random direction."""
        made = CutEdge(
            self.source, self.target, columns=self.source_columns, heads=self.heads, positions=self.positions,
            instead=self.instead, write=self.write, norm=self.norm,
        )  # fmt: skip
        made.aside = list(seeds)
        return made

    @property
    def after_final_norm(self) -> bool:
        return self.target.endswith(("final_norm", "logits"))

    def _columns(self, model: Model, hook: str) -> list[int] | None:
        if self.heads is None or not hook:
            return None if self.heads is None else _no_heads(self.target)
        point = model.hook_points[hook]
        size = point.width // point.heads if point.heads else 1
        return [head * size + at for head in self.heads for at in range(size)]

    def _must_lie_before(self, model: Model, wiring: Wiring, source: HookPoint, stream: str) -> None:
        """AuditorError where the stream that is read does not hold what the source writes, as a term of its sum."""
        prefix, number = _named(source.name)[:2]
        within, last, read = _named(stream)
        if within != prefix or source.depth > model.hook_points[stream].depth:
            raise AuditorError(
                f"What “{self.source}” writes does not reach “{self.target}” along the residual stream.",
                "Choose a source in an earlier place of the same network.",
            )
        wiring.must_add_up(prefix, number or 0, (last or 0) - (read == "resid_pre"))


class _Source(Edit):
    """Sees what the source holds after all edits of it, and says what that adds to the residual stream."""

    def __init__(self, cut: CutEdge, model: Model, wiring: Wiring) -> None:
        self.point = model._points([cut.source])[0]
        super().__init__(self.point.name)
        self.cut, self.model = cut, model
        self.kind = _named(self.point.name)[2]
        self.norm: str | None = None
        self._written: list[Tensor] = []
        straight = self.kind in _WRITTEN or cut.write is not None
        if not straight and (self.kind not in ("z", "mlp_hidden") or self.point.tensor != "input"):
            raise AuditorError(
                f"What “{cut.source}” holds does not reach the residual stream in a straight line.",
                "Cut z (a head), mlp_hidden (a neuron), attn_out, mlp_out, embed, or a feature of a dictionary.",
            )
        if not straight:
            self.norm = wiring.after.get(self.point.module)

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
        handles = []

        def watch(norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            shape = shape_of(norm, output.shape[-1], output.device, output.dtype)
            self._written = [
                shape.share(part.view(output.shape), args[0], output).view(part.shape) for part in self._written
            ]

        try:
            if self.norm is not None:
                handles.append(model.network.get_submodule(self.norm).register_forward_hook(watch))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._written = []

    def contribution(self) -> Tensor:
        """[B, P, d_model]: what the source adds, less what it is to add instead; of a control, as long as that."""
        if not self._written:
            raise AuditorError(f"“{self.cut.source}” was not computed in this run.", "Choose a source that is.")
        own = self._written[0]
        return own if len(self._written) == 1 else resized(self._written[1], own.norm(dim=-1, keepdim=True))

    def _write(self, x: Tensor, columns: Sequence[int] | None) -> Tensor:
        if columns is not None:
            chosen = self._chosen(list(columns), x, 2, "channel")
            x = torch.where(chosen, x, torch.zeros_like(x))
        if self.cut.write is not None:
            return self.cut.write(x)
        if self.kind in _WRITTEN:
            return x
        # A linear map but for its bias; its own forward, so that no hook of this run sees the call.
        project: Any = self.model.network.get_submodule(self.point.module).forward
        written: Tensor = project(x) - project(torch.zeros_like(x[:1, :1]))
        return written


_Entry = tuple[list[int] | None, list[int] | None, _Source, bool]


class _Cut(Edit):
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
    cuts: dict[tuple[str, str], _Cut] = {}
    for part in parts:
        if isinstance(part, _Cut):
            cuts.setdefault(part.key, part)
            if cuts[part.key] is not part:
                cuts[part.key].cuts += part.cuts
    rest = [part for part in parts if not isinstance(part, (_Cut, _Source))]
    return [*cuts.values(), *rest, *(part for part in parts if isinstance(part, _Source))]


def _named(name: str) -> tuple[str, int | None, str]:
    found = _NAME.fullmatch(name)
    if found is None:
        raise AuditorError(f"“{name}” is no place of a network.", "Write it as blocks.5.mlp or final_norm.")
    return found["prefix"], None if found["number"] is None else int(found["number"]), found["part"]


def _readings(model: Model, wiring: Wiring, prefix: str, number: int | None, part: str) -> list[tuple[str, str]]:
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
    stack = next((points[at + name].module for name in ("resid_pre",) if at + name in points), "")
    found = [path for path in wiring.before if _holds(path, inside)] or [
        path for path in wiring.read if _holds(path, inside) and path.startswith(stack + ".")
    ]
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


def _no_heads(target: str) -> Any:
    raise AuditorError(f"“{target}” is read as a whole.", "Name q, k or v to choose heads, or mlp_pre for neurons.")
