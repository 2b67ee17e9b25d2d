"""A network opened only as far as a hook point: what runs after it has no weights, and ends a run that comes to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from auditor.models.aliases import spread_out
from auditor.models.hook_points import HookPoint
from auditor.models.hooks import Reached


def behind(network: nn.Module, points: Mapping[str, HookPoint], deepest: str) -> list[nn.Module]:
    """The modules of `network` that run only after the hook point `deepest`: members of lists of modules (blocks, and
    stages of them) all of whose hook points are deeper, and a head that shares its weights with nothing."""
    depth, found = points[deepest].depth, list[nn.Module]()
    for path, module in network.named_modules():
        for name, member in module.named_children() if isinstance(module, nn.ModuleList) else ():
            at = f"{path}.{name}." if path else f"{name}."
            inside = [point.depth for point in points.values() if f"{point.module}.".startswith(at)]
            if inside and min(inside) > depth:
                found.append(member)
    head = _head(network)
    return found if head is None else [*found, head]


def deepest_of(points: Mapping[str, HookPoint], hooks: Sequence[str]) -> str | None:
    """The deepest of `hooks` (none: `middle`); None where one of them is not among `points`."""
    names = spread_out(hooks, points) or [name for name in [middle(points)] if name is not None]
    if not names or any(name not in points for name in names):
        return None
    return max((points[name].name for name in names), key=lambda name: points[name].depth)


def middle(points: Mapping[str, HookPoint]) -> str | None:
    """The residual stream after the middle block, of the text where there is one; None without a residual stream."""
    posts = [name for name in points if name.endswith(".resid_post")]
    text = [name for name in posts if points[name].stream == "text"]
    return (text or posts)[len(text or posts) // 2] if posts else None


def empty(modules: Collection[nn.Module]) -> None:
    """Take the weights of `modules` away; a run that comes to one of them ends there (`auditor.models.hooks.Reached`).
    What else is told of them stays: networks read it on the way."""
    for module in modules:
        for inner in module.modules():
            for name, own in inner._parameters.items():
                if own is not None:
                    inner._parameters[name] = nn.Parameter(torch.empty(0, dtype=own.dtype), requires_grad=False)
        module.register_forward_pre_hook(_end)


def _end(*_: Any) -> None:
    raise Reached


def _head(network: nn.Module) -> nn.Module | None:
    """What makes logits of the last hidden states, if its weights are its own."""
    read: Any = getattr(network, "get_output_embeddings", None)
    head: nn.Module | None = None if read is None else read()
    path = next((path for path, module in network.named_modules() if module is head), None)
    shared: Mapping[str, str] = getattr(network, "all_tied_weights_keys", None) or {}
    if head is None or any(name.startswith(f"{path}.") for name in (*shared, *shared.values())):
        return None
    return head
