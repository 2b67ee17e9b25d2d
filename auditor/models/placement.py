"""Where a network's weights lie: all on one device, or its last blocks in main memory, each brought over for its run.

Outside a GPU's memory a block costs the time of copying it at every run, and nothing else: the values are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from auditor.base.errors import AuditorError

_LEAST_FREE = 2 << 30
_FREE_SHARE = 0.15


@dataclass(frozen=True)
class Placement:
    """A plan: `brought` are paths of the blocks that stay in main memory, of `blocks` in all; sizes in bytes."""

    device: torch.device
    blocks: int
    brought: tuple[str, ...]
    bytes_held: int
    bytes_brought: int

    def __str__(self) -> str:
        if not self.brought:
            return f"all on {self.device}"
        held = self.blocks - len(self.brought)
        return (
            f"{held} of {self.blocks} blocks on {self.device} ({self.bytes_held / 1e9:.1f} GB), "
            f"{len(self.brought)} in main memory ({self.bytes_brought / 1e9:.1f} GB), brought over one by one"
        )


def free_bytes(device: torch.device) -> int | None:
    """What weights may take of a GPU's free memory, room for activations left; None where there is no such bound."""
    if device.type != "cuda":
        return None
    free, whole = torch.cuda.mem_get_info(device)
    return int(max(0, free - max(_LEAST_FREE, _FREE_SHARE * whole)))


def plan(network: nn.Module, device: torch.device, most: int | None) -> Placement:
    """Which blocks of `network` are held on `device` where its weights may take `most` bytes there (None: any number).

    Everything but blocks is held, then blocks from the first on, with room left for one that is brought over.
    AuditorError if not even what is no block fits beside the largest one.
    """
    blocks = blocks_of(network)
    whole = _bytes(network)
    if most is None or whole <= most:
        return Placement(device, len(blocks), (), whole, 0)
    sizes = {path: _bytes(network.get_submodule(path)) for path in blocks}
    largest = max(sizes.values(), default=0)
    held = whole - sum(sizes.values())
    if not blocks or held + largest > most:
        raise AuditorError(
            f"The network needs at least {(held + largest) / 1e9:.1f} GB on {device}, and {most / 1e9:.1f} GB are free "
            "for it.",
            "Choose the device cpu, or a smaller number format, such as int8.",
        )
    paths = list(sizes)
    while paths and held + sizes[paths[0]] + largest <= most:
        held += sizes[paths.pop(0)]
    return Placement(device, len(blocks), tuple(paths), held, sum(sizes[path] for path in paths))


def place(network: nn.Module, placement: Placement) -> list[Brought]:
    """Move what is held to the device, and have the other blocks brought there for each of their runs."""
    if not placement.brought:
        network.to(placement.device)
        return []
    within = tuple(f"{path}." for path in placement.brought)
    outside = {
        id(tensor)
        for path, module in network.named_modules()
        if not f"{path}.".startswith(within)
        for table in (module._parameters, module._buffers)
        for tensor in table.values()
    }
    brought = [Brought(network.get_submodule(path), placement.device, outside) for path in placement.brought]
    at_home = {id(tensor) for block in brought for tensor in block.tensors()}
    network._apply(  # type: ignore[no-untyped-call]
        lambda tensor: tensor if id(tensor) in at_home else tensor.to(placement.device)
    )
    for block in brought:
        block.watch()
    return brought


def blocks_of(network: nn.Module) -> list[str]:
    """Paths of the members of all lists of modules that are in no other list, in order; but of lists of one."""
    found: list[str] = []
    for path, module in network.named_modules():
        inside = any(path.startswith(f"{block}.") for block in found)
        if isinstance(module, nn.ModuleList) and len(module) > 1 and not inside and "parametrizations" not in path:
            found += [f"{path}.{number}" if path else str(number) for number in range(len(module))]
    return found


class Brought:
    """A block whose tensors are in main memory, and on the device while it runs; not those that others share, `held`
    by id. `runs` counts how often it came."""

    def __init__(self, block: nn.Module, device: torch.device, held: set[int]) -> None:
        self.block, self.device, self.runs = block, device, 0
        self._places: list[tuple[dict[str, Any], str]] = []
        self._at_home: list[Tensor] = []
        for module in block.modules():
            for table in (module._parameters, module._buffers):
                self._places += [
                    (table, name) for name, own in table.items() if own is not None and id(own) not in held
                ]

    def tensors(self) -> Iterator[Tensor]:
        return (table[name] for table, name in self._places)

    def watch(self) -> None:
        if self.device.type == "cuda":
            # Page-locked memory is read by the GPU itself, twice as fast.
            for tensor in self.tensors():
                tensor.data = tensor.data.pin_memory()
        self.block.register_forward_pre_hook(self._bring)
        self.block.register_forward_hook(self._leave, always_call=True)

    def _bring(self, *_: Any) -> None:
        self.runs += 1
        # What is there now, which an edit of a weight may have put there.
        self._at_home = list(self.tensors())
        for (table, name), home in zip(self._places, self._at_home, strict=True):
            # A tensor of its own, which a gradient graph may keep: the one at home never changes its device.
            there = home.detach().to(self.device, non_blocking=True, copy=True)
            table[name] = nn.Parameter(there, requires_grad=False) if isinstance(home, nn.Parameter) else there

    def _leave(self, *_: Any) -> None:
        for (table, name), home in zip(self._places, self._at_home, strict=True):
            table[name] = home
        self._at_home = []


def _bytes(module: nn.Module) -> int:
    seen: dict[int, int] = {}
    tables: tuple[Callable[[], Iterator[Tensor]], ...] = (module.parameters, module.buffers)
    for table in tables:
        for tensor in table():
            seen[id(tensor)] = tensor.numel() * tensor.element_size()
    return sum(seen.values())
