"""How the components of a network hang together: which norm each reads through, found in one small run."""

from __future__ import annotations

import re
import weakref
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from auditor.base.errors import AuditorError
from auditor.models.edits.norms import is_norm

if TYPE_CHECKING:
    from auditor.models.inputs import Inputs
    from auditor.models.model import Model

_NAME = re.compile(r"(?P<prefix>.*?)(?:blocks\.(?P<number>\d+)\.)?(?P<part>[a-z_]+)")
_POSITIONS = 8
WRITES = ("attn_out", "cross_attn_out", "mixer_out", "mlp_out")
"""What blocks add to the residual stream."""


@dataclass(frozen=True)
class Wiring:
    """`before`: module → the norm whose output it reads; `after`: module → the norm that reads its output; `rows`: what
    hook points of the residual stream and of what is written to it held; `read`: first input of each module."""

    before: dict[str, str]
    after: dict[str, str]
    rows: dict[str, Tensor]
    read: dict[str, Tensor]

    def stream(self, x: Tensor, prefix: str) -> str | None:
        """The hook point of the residual stream that holds x, the last one where several do."""
        held = [name for name, rows in self.rows.items() if _resid(name, prefix) and _equal(rows, x)]
        return held[-1] if held else None

    def must_add_up(self, prefix: str, first: int, last: int) -> None:
        """AuditorError where the residual stream of blocks `first` to `last` is not the sum of what is written."""
        for number in range(first, last + 1):
            at = f"{prefix}blocks.{number}."
            parts = [self.rows[at + name] for name in ("resid_pre", *WRITES, "resid_post") if at + name in self.rows]
            following = self.rows.get(f"{prefix}blocks.{number + 1}.resid_pre")
            if not _close(sum(parts[1:-1], parts[0]), parts[-1]):
                raise AuditorError(
                    f"Block {number} does not add what its attention and MLP give to the residual stream as it is, so "
                    "no edge through it can be told apart from the others.",
                    "Ablate or patch the component instead.",
                )
            if following is not None and number < last and not _close(following, parts[-1]):
                raise AuditorError(
                    f"The residual stream is changed between blocks {number} and {number + 1}.",
                    "Choose an edge inside one block, or ablate the component instead.",
                )


_known: weakref.WeakKeyDictionary[Model, Wiring] = weakref.WeakKeyDictionary()


def wiring_of(model: Model, inputs: Inputs) -> Wiring:
    """Found once a network, on the first positions of the first sample of `inputs`."""
    if model not in _known:
        with model._lock:  # another thread's run must not be seen
            _known[model] = _found(model, inputs)
    return _known[model]


def _found(model: Model, inputs: Inputs) -> Wiring:
    reads: dict[str, Tensor] = {}
    writes: dict[str, Tensor] = {}
    handles = []

    def look(path: str) -> None:
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None))
            if isinstance(given, Tensor):
                reads.setdefault(path, given)

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            made = output[0] if isinstance(output, tuple) else output
            if isinstance(made, Tensor):
                writes.setdefault(path, made)

        module = model.network.get_submodule(path)
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))

    names = [name for name in model.hook_points if re.search(r"(^embed|\.embed|resid_\w+|_out)$", name)]
    try:
        for path, module in model.network.named_modules():
            if path and not isinstance(module, nn.ModuleList):
                look(path)
        run = model.run(_small(inputs), record=names, logits="final_norm" in model.hook_points)
    finally:
        for handle in handles:
            handle.remove()
    norms = {path for path, module in model.network.named_modules() if is_norm(module)}
    made_by = {writes[path].data_ptr(): path for path in norms if path in writes}
    read_by = {reads[path].data_ptr(): path for path in norms if path in reads}
    before = {path: made_by[x.data_ptr()] for path, x in reads.items() if x.data_ptr() in made_by}
    after = {path: read_by[x.data_ptr()] for path, x in writes.items() if x.data_ptr() in read_by}
    rows = {name: run.records[name].clone() for name in model.hook_points if name in run.records}
    kept = {path: x.clone() for path, x in reads.items() if path in before or x.shape[-1] == model.d_model}
    return Wiring(before, after, rows, kept)


def _small(inputs: Inputs) -> Inputs:
    """The first sample, cut where it is text only."""
    held = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    first: dict[str, Any] = {name: x[:1] for name, x in held.items() if isinstance(x, Tensor)}
    if inputs.pixels is None and inputs.sound is None:
        first = {name: x[:, :_POSITIONS] for name, x in first.items()}
    target = None if inputs.target is None else _small(inputs.target)
    return replace(inputs, **first, samples=inputs.samples[:1], target=target)


def _resid(name: str, prefix: str) -> bool:
    return re.fullmatch(re.escape(prefix) + r"blocks\.\d+\.resid_(pre|mid|post)", name) is not None


def _equal(rows: Tensor, x: Tensor) -> bool:
    """Some modules get the positions of all samples one after the other."""
    return rows.numel() == x.numel() and torch.equal(rows, x.view(rows.shape))


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = 1e-4 if b.dtype == torch.float32 else 3e-2
    return float((a.float() - b.float()).abs().max()) <= tolerance * float(b.float().abs().max())


def named(name: str) -> tuple[str, int | None, str]:
    """What comes before the blocks in a name, the block's number if any, and the place there."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise AuditorError(f"“{name}” is no place of a network.", "Write it as blocks.5.mlp or final_norm.")
    return found["prefix"], None if found["number"] is None else int(found["number"]), found["part"]
