"""Hook points of a network's own modules, found by looking at one small run: widths are what came out, not a guess."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from auditor.data.image import ImageRef
from auditor.data.sample import Sample
from auditor.models.hook_points import MAP, TOKENS, HookPoint, Stream

SAMPLES = 2
_TEXT = "The quick brown fox jumps over the lazy dog."
# A map whose channels are last already.
PLANE = ("batch", "row", "column", "channel")
# In evaluation these hand on what they are given.
_IDLE = (nn.Dropout, nn.Identity)


@dataclass
class Seen:
    """What one tensor of one module was: `shape` at its first call, its `order` among all seen, and `calls` so far."""

    path: str
    tensor: Literal["output", "input"]
    shape: tuple[int, ...]
    order: int
    calls: int = 1


def observe(network: nn.Module, forward: Callable[[], object]) -> dict[tuple[str, str], Seen]:
    """First outputs and first inputs of all modules in one call of `forward`, where they are tensors of floating-point
    numbers, by path and ``output`` or ``input``."""
    seen: dict[tuple[str, str], Seen] = {}

    def note(path: str, tensor: Literal["output", "input"], value: Any) -> None:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return
        if (before := seen.get((path, tensor))) is not None:
            before.calls += 1
            return
        seen[path, tensor] = Seen(path, tensor, tuple(value.shape), len(seen))

    def before(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            first = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None))
            note(path, "input", first)

        return hook

    def after(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            note(path, "output", output[0] if isinstance(output, tuple) and output else output)

        return hook

    handles: list[Any] = []
    try:
        for path, module in network.named_modules():
            if path and not isinstance(module, _IDLE):
                handles.append(module.register_forward_pre_hook(before(path), with_kwargs=True))
                handles.append(module.register_forward_hook(after(path)))
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def point_of(seen: Seen, name: str, positions: int, modalities: frozenset[str]) -> HookPoint | None:
    """The hook point of a tensor that was seen in a run of `SAMPLES` samples of `positions` positions each.

    None where its rows are neither the positions of the text nor those of a picture, or where its module is called
    more than once a run.
    """
    if seen.calls != 1:
        return None
    axes: tuple[str, ...] = TOKENS
    stream, width = _stream(seen.shape, positions, modalities), seen.shape[-1]
    if stream is None:
        if len(seen.shape) != 4 or seen.shape[0] != SAMPLES or "image" not in modalities:
            return None
        _, second, third, fourth = seen.shape
        if third == fourth:
            axes, width = MAP, second
        elif second == third:
            axes = PLANE
        else:
            return None
        stream = "vision"
    return HookPoint(name, width, axes, seen.path, seen.order, seen.tensor, stream)


def _stream(shape: Sequence[int], positions: int, modalities: frozenset[str]) -> Stream | None:
    if "text" in modalities and positions and tuple(shape[:-1]) in ((SAMPLES, positions), (SAMPLES * positions,)):
        return "text"
    return "vision" if "image" in modalities and len(shape) == 3 and shape[0] == SAMPLES else None


def small_samples(modalities: frozenset[str]) -> list[Sample]:
    """What a model is tried with: one text, one grey picture, or both, twice."""
    picture = ImageRef.of(np.full((32, 32, 3), 128, np.uint8)) if "image" in modalities else None
    text = _TEXT if "text" in modalities else None
    return [Sample(id=f"small {number}", text=text, image=picture) for number in range(SAMPLES)]
