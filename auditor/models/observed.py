"""Hook points of a network's own modules, found by looking at one small run: widths are what came out, not a guess."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from auditor.data.image import ImageRef
from auditor.data.sample import Sample
from auditor.models.hook_points import MAP, TOKENS, HookPoint, Stream
from auditor.models.sheets import Grid

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


def point_of(
    seen: Seen, name: str, positions: int, modalities: frozenset[str], pictures: int = SAMPLES
) -> HookPoint | None:
    """The hook point of a tensor that was seen in a run of `SAMPLES` samples of `positions` positions each, which had
    so many `pictures`, or parts of some, in all.

    None where its rows are neither the positions of the text nor those of a picture, or where its module is called
    more than once a run.
    """
    if seen.calls != 1:
        return None
    axes: tuple[str, ...] = TOKENS
    stream, width = _stream(seen.shape, positions, modalities, pictures), seen.shape[-1]
    turned = stream is None and "text" in modalities and tuple(seen.shape[:-1]) == (positions, SAMPLES)
    if turned:
        stream = "text"
    if stream is None:
        if len(seen.shape) != 4 or seen.shape[0] != pictures or "image" not in modalities:
            return None
        _, second, third, fourth = seen.shape
        if third == fourth:
            axes, width = MAP, second
        elif second == third:
            axes = PLANE
        else:
            return None
        stream = "vision"
    return HookPoint(name, width, axes, seen.path, seen.order, seen.tensor, stream, turned=turned)


def _stream(shape: Sequence[int], positions: int, modalities: frozenset[str], pictures: int) -> Stream | None:
    if "text" in modalities and positions and tuple(shape[:-1]) in ((SAMPLES, positions), (SAMPLES * positions,)):
        return "text"
    return "vision" if "image" in modalities and len(shape) == 3 and shape[0] == pictures else None


@dataclass(frozen=True)
class Patches:
    """Which of a picture's rows are patches: all but `leading` before them (a class token) and `trailing` after them
    (detection tokens); `grid`: rows and columns of the patches, None where there are none (one pooled row)."""

    leading: int
    trailing: int
    grid: Grid | None


def patches(
    network: nn.Module,
    paths: Mapping[int, str],
    forward: Callable[[Tensor], object],
    pixels: Tensor,
    told: Grid | None,
    maps: Collection[Grid] = (),
) -> dict[int, Patches]:
    """Where a picture's patches stand, by how many rows there are; numbers of rows are left out where it is not known.

    `paths` holds for each number of rows the shallowest module that gives so many [B, rows, width]. A class token is
    the same for all pictures until attention mixes it with them: the first row there that another first pixel changes
    is the first patch, and the last one that another last pixel changes the last. Where all rows change, they are
    patches if they have the grid of one of the network's `maps`, or a half, a quarter, … of one that was found. `told`
    is the grid that the config names.
    """
    plain = _outputs(network, paths, forward, pixels)
    ends: list[dict[int, list[int]]] = []
    for at in (0, -1):
        other = pixels.clone()
        other[:, :, at, at] += 1.0
        new = _outputs(network, paths, forward, other)
        ends.append({rows: torch.nonzero((new[rows] != plain[rows])[0].any(-1))[:, 0].tolist() for rows in plain})
    found: dict[int, Patches] = {}
    for rows in plain:
        first, last = (end[rows] for end in ends)
        if rows == 1:
            found[1] = Patches(1, 0, None)
        elif first and len(first) < rows and len(last) < rows:
            stop = last[-1] + 1 if last else first[0] + math.prod(told or (rows, rows))
            grid = _grid(stop - first[0], told, pixels)
            if grid is not None and stop <= rows:
                found[rows] = Patches(first[0], rows - stop, grid)
    known = {one.grid for one in found.values() if one.grid is not None} | set(maps)
    for rows in sorted(set(plain) - set(found), reverse=True):
        smaller = (_halved(grid, times) for times in range(6) for grid in known)
        grid = next((one for one in smaller if math.prod(one) == rows), None)
        if grid is not None:
            found[rows] = Patches(0, 0, grid)
    return found


def _halved(grid: Grid, times: int) -> Grid:
    """After `times` joinings of two by two cells."""
    return -(-grid[0] // 2**times), -(-grid[1] // 2**times)


def _grid(count: int, told: Grid | None, pixels: Tensor) -> Grid | None:
    """Rows and columns of so many patches; None where they do not fit the picture."""
    if told is not None and math.prod(told) == count:
        return told
    side = math.isqrt(max(count, 0))
    return (side, side) if side and side * side == count and pixels.shape[-1] == pixels.shape[-2] else None


def _outputs(
    network: nn.Module, paths: Mapping[int, str], forward: Callable[[Tensor], object], pixels: Tensor
) -> dict[int, Tensor]:
    """What the modules at `paths` give, by number of rows."""
    held: dict[int, Tensor] = {}

    def keep(rows: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            held[rows] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [network.get_submodule(path).register_forward_hook(keep(rows)) for rows, path in paths.items()]
    try:
        with torch.no_grad():
            forward(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return held


def small_samples(modalities: frozenset[str]) -> list[Sample]:
    """What a model is tried with: one text, one grey picture, or both, twice."""
    picture = ImageRef.of(np.full((32, 32, 3), 128, np.uint8)) if "image" in modalities else None
    text = _TEXT if "text" in modalities else None
    return [Sample(id=f"small {number}", text=text, image=picture) for number in range(SAMPLES)]
