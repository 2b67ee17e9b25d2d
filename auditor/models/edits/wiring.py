"""How the components of a network hang together: which norm each reads through, found in one small run."""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from auditor.base.errors import AuditorError
from auditor.models.edits.norms import is_norm
from auditor.models.hook_points import RESIDUAL, HookPoint, to_axes
from auditor.models.mixing import Mixing, Seen

if TYPE_CHECKING:
    from auditor.models.inputs import Inputs
    from auditor.models.model import Model

_NAME = re.compile(r"(?P<prefix>.*?)(?:blocks\.(?P<number>\d+)\.)?(?P<part>[a-z_]+)")
_POSITIONS = 8
WRITES = ("laurel_out", "attn_out", "cross_attn_out", "mixer_out", "mlp_out", "cross_mlp_out", "per_layer_out")
"""What blocks add to the residual stream."""
_PARTS = {"z": "attn_out", "mlp_hidden": "mlp_out"}


@dataclass(frozen=True)
class Step:
    """One sum of the residual stream: what `names` hold is added, times `factor` (Granite's residual multiplier), and
    the stream is kept times `kept` (Gemma 4's factor of a block, which both have); in networks with norms after the
    sums, `norm` is the path of the one over it."""

    names: tuple[str, ...]
    factor: float = 1.0
    norm: str | None = None
    kept: float = 1.0


@dataclass(frozen=True)
class Way:
    """How what a source writes comes to a place of the stream: times `factor`, then through the `norms` in turn; or,
    in a network that mixes several `streams`, from the first of these hook points to the second."""

    factor: float
    norms: tuple[str, ...] = ()
    streams: tuple[str, str] | None = None


@dataclass(frozen=True)
class Wiring:
    """`before`: module → the norm whose output it reads; `after`: module → the norm that reads its output; `rows`: what
    hook points of the residual stream and of what is written to it held; `read`: first input of each module; `norms`:
    first input and output of each norm; `places`: those hook points, and which rows of their modules are whose. Of a
    module that is called several times in a run (ALBERT's blocks share their weights) each call has a name of its own.
    `mixing`: of a network with several streams, how they are mixed.
    """

    before: dict[str, str]
    after: dict[str, str]
    rows: dict[str, Tensor]
    read: dict[str, Tensor]
    norms: dict[str, tuple[Tensor, Tensor]]
    places: dict[str, tuple[HookPoint, Tensor | None]]
    mixing: Mixing | None = None
    _steps: dict[str, list[tuple[Step, str]]] = field(default_factory=dict)

    def stream(self, x: Tensor, prefix: str) -> str | None:
        """The hook point of the residual stream that holds x, the last one where several do."""
        mixing = None if prefix else self.mixing
        read = [name for name in self.rows if _resid(name, prefix)] if mixing is None else mixing.places
        held = [name for name in read if self._equal(name, x)]
        return held[-1] if held else None

    def _equal(self, name: str, x: Tensor) -> bool:
        seen = self._laid(name, x) if name in self.rows else None
        return seen is not None and torch.equal(seen, self.rows[name])

    def _laid(self, name: str, x: Tensor) -> Tensor | None:
        """x, as a module has it, laid out as the hook point is; None where it has not the rows."""
        rows, (point, whose) = self.rows[name], self.places[name]
        last = int(whose.max()) if whose is not None else max(point.order, default=-1)
        count = x.numel() // max(x.shape[-1], 1)
        if x.shape[-1:] != rows.shape[-1:] or (count <= last if last >= 0 else x.numel() != rows.numel()):
            return None
        return to_axes(point, x, len(rows), whose).reshape(rows.shape)

    def way(self, source: str, stream: str) -> Way | None:
        """From the hook point `source` to the hook point `stream` of the residual stream; None where the stream does
        not hold what the source writes. AuditorError where it is no sum of what is written."""
        prefix, first, kind = named(source)
        entry = source if first is None else f"{prefix}blocks.{first}.{_PARTS.get(kind, kind)}"
        if self.mixing is not None and not prefix:
            return Way(1.0, streams=(entry, stream))
        factor = 1.0 if kind == "embed" else None
        norms: list[str] = []
        before = source if kind == "embed" else ""
        for number in range(first or 0, (named(stream)[1] or 0) + 1):
            at = f"{prefix}blocks.{number}."
            begin = next((name for name in self.places_of(at) if named(name)[2] in RESIDUAL), at + "resid_pre")
            if before:
                self._must_go_on(before, begin)
            if entry == begin:
                factor = 1.0
            if stream != begin:
                for step, place in self.steps(at):
                    if factor is not None:
                        factor *= step.kept
                    elif entry in step.names:
                        factor = step.factor
                    if factor is not None and step.norm is not None:
                        norms.append(step.norm)
                    if entry == place:
                        factor = 1.0
                    if stream == place:
                        break
            before = at + "resid_post"
        return None if factor is None else Way(factor, tuple(norms))

    def places_of(self, at: str) -> list[str]:
        """The hook points of the block whose names begin with `at` that are of the stream, or written to it, in the
        order in which the stream comes to them."""
        places = (*WRITES, *RESIDUAL)
        return [name for name in self.rows if name.startswith(at) and name.removeprefix(at) in places]

    def steps(self, at: str) -> list[tuple[Step, str]]:
        """The sums of the block whose hook points begin with `at`, each with the hook point of the stream that it ends
        in, if any. AuditorError where the stream is no such sum."""
        if at not in self._steps:
            found: list[tuple[Step, str]] = []
            start, names = "", list[str]()
            for name in self.places_of(at):
                if named(name)[2] not in RESIDUAL:
                    names.append(name)
                    continue
                if start or names:
                    sums = self._sums(self.rows[start], names, self.rows[name]) if start else None
                    if sums is None:
                        raise _no_sum(at)
                    found += zip(sums, [""] * (len(sums) - 1) + [name], strict=True)
                start, names = name, []
            if not found:
                raise _no_sum(at)
            self._steps[at] = found
        return self._steps[at]

    def _sums(self, x: Tensor, names: Sequence[str], end: Tensor) -> list[Step] | None:
        """How `end` is made of x and what `names` hold: their plain sum; the sum times one factor, with or without x;
        or one sum after the other, each with a norm over it. None where it is none of these."""
        if not names:  # two names for one place
            return [Step(())] if _close(x, end) else None
        total = sum((self.rows[name] for name in names[1:]), self.rows[names[0]])
        factor = _factor(total, end - x)
        for by in (1.0, factor):
            if _close(x + by * total, end):
                return [Step(tuple(names), by)]
        kept = _factor(x + total, end)
        if _close(kept * (x + total), end):
            return [Step(tuple(names), kept, kept=kept)]
        found = []
        for name in names:
            after: dict[str, Tensor] = {}
            for path, (given, made) in self.norms.items():
                seen, gives = self._laid(name, given), self._laid(name, made)
                if seen is not None and gives is not None and _close(seen, x + self.rows[name]):
                    after[path] = gives
            if not after:
                return None
            # Of several that read the same sum, the one that the stream goes on from.
            path = next((path for path, gives in after.items() if _close(gives, end)), next(iter(after)))
            x = after[path]
            found.append(Step((name,), 1.0, path))
        return found if _close(x, end) else None

    def _must_go_on(self, before: str, after: str) -> None:
        """AuditorError where a block does not begin with what the one before it ended with."""
        ended, begun = self.rows.get(before), self.rows.get(after)
        if ended is None or begun is None or ended.shape != begun.shape or not _close(begun, ended):
            raise AuditorError(
                f"The residual stream is changed between “{before}” and “{after}”.",
                "Choose an edge inside one block, or ablate the component instead.",
            )


def _no_sum(at: str) -> AuditorError:
    return AuditorError(
        f"“{at[:-1]}” does not add what its attention and MLP give to the residual stream as it is, times a factor or "
        "under a norm, so no edge through it can be told apart from the others.",
        "Ablate or patch the component instead.",
    )


def _factor(written: Tensor, gained: Tensor) -> float:
    """The number by which what is written has to be multiplied to be nearest to what the stream gains."""
    a, b = written.double().flatten(), gained.double().flatten()
    return float(a @ b / (a @ a).clamp(min=1e-30))


_known: weakref.WeakKeyDictionary[Model, Wiring] = weakref.WeakKeyDictionary()


def wiring_of(model: Model, inputs: Inputs) -> Wiring:
    """Found once a network, on the first positions of the first sample of `inputs`, or on the first with a picture."""
    if model not in _known:
        with model._lock:  # another thread's run must not be seen
            _known[model] = _found(model, inputs)
    return _known[model]


def _found(model: Model, inputs: Inputs) -> Wiring:
    reads: dict[str, Tensor] = {}
    writes: dict[str, Tensor] = {}
    handles = []

    def look(path: str) -> None:
        begun, ended = itertools.count(), itertools.count()

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None))
            call = next(begun)
            if isinstance(given, Tensor):
                reads[called(path, call)] = given

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            made = output[0] if isinstance(output, tuple) else output
            call = next(ended)
            if isinstance(made, Tensor):
                writes[called(path, call)] = made

        module = model.network.get_submodule(path)
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))

    mixing = model._adapter.mixing()
    places = set() if mixing is None else set(mixing.places)
    names = [
        name for name in model.hook_points if name in places or re.search(r"(^embed|\.embed|resid_\w+|_out)$", name)
    ]
    try:
        for path, module in model.network.named_modules():
            if path and not isinstance(module, nn.ModuleList):
                look(path)
        small = _small(model, inputs).to(model.device)
        run = model.run(small, record=names, logits=model.until is None)
    finally:
        for handle in handles:
            handle.remove()
    named_norms = {path for path, module in model.network.named_modules() if is_norm(module)}
    norms = [path for path in reads if path in writes and module_of(path) in named_norms]
    made_by = {writes[path].data_ptr(): path for path in norms}
    read_by = {reads[path].data_ptr(): path for path in norms}
    both = {path: (reads[path].clone(), writes[path].clone()) for path in norms}
    before = {path: made_by[x.data_ptr()] for path, x in reads.items() if x.data_ptr() in made_by}
    after = {path: read_by[x.data_ptr()] for path, x in writes.items() if x.data_ptr() in read_by}
    rows = {name: run.records[name].clone() for name in model.hook_points if name in run.records}
    widths = {x.shape[-1] for x in rows.values()}  # a tower may have another than the language model
    kept = {path: x.clone() for path, x in reads.items() if path in before or (x.ndim and x.shape[-1] in widths)}
    held = {name: (model.hook_points[name], whose(model, name, small)) for name in rows}
    if mixing is not None:
        _must_add_up(mixing, rows, {path: (x, writes[path]) for path, x in reads.items() if path in writes})
    return Wiring(before, after, rows, kept, both, held, mixing)


def _must_add_up(mixing: Mixing, rows: dict[str, Tensor], seen: Seen) -> None:
    """AuditorError where the last place of mixed streams is not the sum of what all that is written gives to it."""
    names = list(rows)
    place = [name for name in names if name in mixing.places][-1]
    sources = ("embed", *WRITES)
    written = [name for name in names[: names.index(place)] if not named(name)[0] and named(name)[2] in sources]
    given = [mixing.carried(rows[source], source, place, seen) for source in written]
    if not _close(sum(given[1:], given[0]), rows[place]):
        raise _no_sum(f"{place}.")


def _small(model: Model, inputs: Inputs) -> Inputs:
    """The first sample, or the first with a picture; a text alone is cut."""
    if inputs.pixels is not None or inputs.sound is not None:
        seen = next((sample for sample in inputs.samples if sample.image is not None), inputs.samples[0])
        return model._adapter.pictured(model._adapter.encode([seen], None))
    held = {part.name: getattr(inputs, part.name) for part in fields(inputs)}
    first: dict[str, Any] = {name: x[:1, :_POSITIONS] for name, x in held.items() if isinstance(x, Tensor)}
    target = None if inputs.target is None else _small(model, inputs.target)
    return replace(inputs, **first, samples=inputs.samples[:1], target=target)


def called(path: str, call: int) -> str:
    """The name of one call of a module: its path, and from the second call on which one it is."""
    return f"{path}@{call}" if call else path


def place_of(point: HookPoint) -> str:
    """The call of the module that a hook point is of."""
    return called(point.module, point.call or 0)


def module_of(place: str) -> str:
    return place.partition("@")[0]


def whose(model: Model, hook: str, inputs: Inputs) -> Tensor | None:
    """Where modules see the pictures of all samples in turn: which rows are whose (`to_axes`)."""
    laid = model._adapter.laid(model.hook_points[hook], inputs)
    return None if laid is None else laid[0]


def _resid(name: str, prefix: str) -> bool:
    return re.fullmatch(re.escape(prefix) + r"blocks\.\d+\.(cross_)?resid_(pre|mid|post)", name) is not None


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = 1e-4 if b.dtype == torch.float32 else 3e-2
    return float((a.float() - b.float()).abs().max()) <= tolerance * float(b.float().abs().max())


def named(name: str) -> tuple[str, int | None, str]:
    """What comes before the blocks in a name, the block's number if any, and the place there."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise AuditorError(f"“{name}” is no place of a network.", "Write it as blocks.5.mlp or final_norm.")
    return found["prefix"], None if found["number"] is None else int(found["number"]), found["part"]
