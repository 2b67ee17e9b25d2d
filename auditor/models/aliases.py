"""Other names of hook points: TransformerLens' names, and the paths of a network's own modules.

`blocks.3.hook_resid_post`, `blocks.3.attn.hook_z` and `ln_final.hook_normalized` mean what they mean there; what a norm
gives is taken after its own factors, which TransformerLens by default folds into what reads the norm. A path of a
module (`model.layers.3.mlp`) means its output, `….input` what it is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from auditor.base.patterns import is_pattern, matches
from auditor.models.edits.norms import is_norm
from auditor.models.hook_points import HookPoint

_IN_BLOCK = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_q": "q",
    "attn.hook_k": "k",
    "attn.hook_v": "v",
    "attn.hook_z": "z",
    "attn.hook_pattern": "pattern",
    "mlp.hook_pre": "mlp_pre",
    "mlp.hook_pre_linear": "mlp_linear",
    "mlp.hook_post": "mlp_hidden",
    "hook_cross_attn_out": "cross_attn_out",
    "cross_attn.hook_q": "cross_q",
    "cross_attn.hook_k": "cross_k",
    "cross_attn.hook_v": "cross_v",
    "cross_attn.hook_z": "cross_z",
    "cross_attn.hook_pattern": "cross_pattern",
}
# What it calls the places of a decoder's block with two attentions: after the first, and after the second.
_IN_DECODER = {"hook_resid_mid": "cross_resid_pre", "hook_resid_mid_cross": "resid_mid"}
# What it calls the places after the norms of networks that have each norm after its sum (BERT).
_NORMED_AFTER = {"hook_normalized_resid_mid": "resid_mid", "hook_normalized_resid_post": "resid_post"}
# What families call the norm before a block's attention.
_FIRST_NORMS = (
    "input_layernorm", "ln_1", "norm1", "layer_norm1", "layernorm_before", "self_attn_layer_norm", "layer_norm",
)  # fmt: skip
_OF_SUMS = ("hook_resid_mid", "hook_resid_post")


class HookPoints(Mapping[str, HookPoint]):
    """A model's hook points by name, in the order of the forward pass.

    Listed are the canonical names alone. Looked up, a point is also found by the other names of this module; `own`
    gives a hook point for the path of a module that is none of the listed ones, or None. `normed_after`: the norms of
    this network stand after each sum.
    """

    def __init__(
        self,
        points: Mapping[str, HookPoint],
        network: nn.Module,
        own: Callable[[str], HookPoint | None],
        *,
        normed_after: bool = False,
    ) -> None:
        self._points, self._network, self._own = dict(points), network, own
        self._normed_after = normed_after
        self._found: dict[str, HookPoint | None] = {}
        self._at = _by_place(points.values())

    def __getitem__(self, name: str) -> HookPoint:
        if (listed := self._points.get(name)) is not None:
            return listed
        if name not in self._found:
            self._found[name] = self._by_other_name(name)
        found = self._found[name]
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._points)

    def __len__(self) -> int:
        return len(self._points)

    def _by_other_name(self, name: str) -> HookPoint | None:
        for canonical in _canonical(name, self._normed_after):
            if canonical in self._points:
                return self._points[canonical]
        if (norm := re.fullmatch(r"blocks\.(\d+)\.ln([12])\.hook_normalized", name)) is not None:
            return self._norm(int(norm[1]), int(norm[2]))
        if name == "hook_embed":
            path = _embedding(self._network)
            return self._by_path(path) if path else None
        return self._by_path(name)

    def _norm(self, block: int, which: int) -> HookPoint | None:
        """What the norm before a block's attention (1) or MLP (2) gives."""
        middle, first = self._points.get(f"blocks.{block}.resid_mid"), self._points.get(f"blocks.{block}.resid_pre")
        if which == 2:
            # Where each norm stands behind its part (OLMo 2), the MLP itself is what reads the sum.
            reads = middle is not None and middle.tensor == "input" and self._is_norm(middle.module)
            return self._by_path(middle.module) if middle is not None and reads else None
        paths = [] if first is None or self._normed_after else [f"{first.module}.{name}" for name in _FIRST_NORMS]
        return next((found for path in paths if (found := self._by_path(path)) is not None), None)

    def _is_norm(self, path: str) -> bool:
        return is_norm(self._network.get_submodule(path))

    def _by_path(self, name: str) -> HookPoint | None:
        for path in (name, f"{getattr(self._network, 'base_model_prefix', '')}.{name}"):
            if (listed := self._at.get(path)) is not None:
                return listed
            if (own := self._own(path)) is not None:
                return own
        return None


def spread_out(names: Sequence[str], points: Mapping[str, HookPoint]) -> list[str]:
    """`names`, with the hook points that one stands for (`auditor.base.patterns`) in its place, in the network's order:
    of those that are listed, else of other names with a block's number in them. One that stands for none stays."""
    found = list[str]()
    for name in names:
        several = [listed for listed in points if matches(name, listed)] if is_pattern(name) else []
        found += several or (_by_number(name, points) if is_pattern(name) else []) or [name]
    return list(dict.fromkeys(found))


def _by_number(pattern: str, points: Mapping[str, HookPoint]) -> list[str]:
    parts = pattern.split(".")
    at = [place for place, part in enumerate(parts) if is_pattern(part)]
    if len(at) != 1:
        return []
    numbers = sorted({int(part) for name in points for part in name.split(".") if part.isdecimal()})
    named = [".".join([*parts[: at[0]], str(number), *parts[at[0] + 1 :]]) for number in numbers]
    return [points[name].name for name in named if matches(pattern, name) and name in points]


class Records(dict[str, Tensor]):
    """Recorded tensors by the names of their hook points; looked up, also by other names of those."""

    def __init__(self, points: HookPoints, recorded: Mapping[str, Tensor]) -> None:
        super().__init__(recorded)
        self._points = points

    def __missing__(self, name: str) -> Tensor:
        point = self._points.get(name)
        if point is None or point.name == name:
            raise KeyError(name)
        return self[point.name]


def _canonical(name: str, normed_after: bool) -> Sequence[str]:
    """Names that a TransformerLens name can have here; those of a picture's blocks last."""
    if name == "ln_final.hook_normalized":
        return ("final_norm", "decoder.final_norm", "vision.final_norm")
    match = re.fullmatch(r"(blocks|encoder|decoder)\.(\d+)\.(.+)", name)
    if match is None:
        return ()
    side, number, rest = match.groups()
    if normed_after and rest in _OF_SUMS:
        return ()
    last = (_IN_DECODER.get(rest) if side == "decoder" else None) or _IN_BLOCK.get(rest)
    last = last or (_NORMED_AFTER.get(rest) if normed_after else None)
    if last is None:
        return ()
    at = f"blocks.{number}.{last}"
    return (at, f"vision.{at}") if side == "blocks" else (f"{side}.{at}",)


def _by_place(points: Iterable[HookPoint]) -> dict[str, HookPoint]:
    """Hook points that are a module's whole first output or input, by its path; the input has ``.input`` after it."""
    found: dict[str, HookPoint] = {}
    for point in points:
        if point.tensor in ("output", "input") and point.part is None and point.call is None:
            found.setdefault(point.module + (".input" if point.tensor == "input" else ""), point)
    return found


def _embedding(network: nn.Module) -> str:
    """The path of the module that turns token numbers into vectors, "" where there is none."""
    read = getattr(network, "get_input_embeddings", None)
    try:
        module = read() if read is not None else None
    except (AttributeError, NotImplementedError):
        return ""
    return next((path for path, held in network.named_modules() if held is module), "")
