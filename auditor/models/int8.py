"""Weights kept as 8-bit numbers: one scale for each output channel, turned back for the time of one layer.

w ≈ scale · q with q = round(w / scale) in [−127, 127] and scale = max|w| / 127 over the inputs of a channel (symmetric
absmax, Dettmers et al. 2022, eq. 1, without outlier columns: activations keep their own format). Kept so are the
matrices of linear layers and of experts inside blocks; embeddings, norms, routers and the head are not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_wanted: ContextVar[bool] = ContextVar("weights are kept in 8 bits", default=False)
_ROUTERS = ("gate", "router", "classifier")


@contextlib.contextmanager
def weights_in_int8() -> Iterator[None]:
    """Networks that are loaded inside the block keep their blocks' matrices in 8 bits."""
    token = _wanted.set(True)
    try:
        yield
    finally:
        _wanted.reset(token)


def in_int8(network: nn.Module) -> list[tuple[str, str]]:
    """(path of the module, name of the parameter) of what is kept in 8 bits; nothing outside `weights_in_int8`."""
    if not _wanted.get():
        return []
    from transformers.pytorch_utils import Conv1D

    found = []
    for path, module in network.named_modules():
        parts = path.split(".")
        if not any(part.isdigit() for part in parts):
            continue
        if isinstance(module, (nn.Linear, Conv1D)) and parts[-1] not in _ROUTERS:
            found.append((path, "weight"))
        elif parts[-1].endswith("experts"):
            found += [(path, name) for name, held in module.named_parameters(recurse=False) if held.ndim == 3]
    return found


def hold_in_int8(module: nn.Module, name: str) -> None:
    """Keep the parameter `name` of `module` in 8 bits; read, it is a tensor of its own format as before."""
    from transformers.pytorch_utils import Conv1D

    held: Any = getattr(module, name)
    held.requires_grad_(False)
    inputs = 0 if isinstance(module, Conv1D) else -2 if getattr(module, "is_transposed", False) else -1
    small = _Int8(held.dtype, inputs)
    parametrize.register_parametrization(module, name, small, unsafe=True)
    if held.ndim == 3:
        # Experts are read one by one in a run: all are turned back once, and let go after the layer.
        module.register_forward_pre_hook(lambda *_: small.keep(True))
        module.register_forward_hook(lambda *_: small.keep(False), always_call=True)


class _Int8(nn.Module):
    """`inputs` is the axis over which a scale is shared."""

    def __init__(self, dtype: torch.dtype, inputs: int) -> None:
        super().__init__()
        self.dtype, self.inputs = dtype, inputs
        self._keeping, self._kept = False, list[Tensor]()

    def keep(self, on: bool) -> None:
        """Whether what is turned back is held for the next reading."""
        self._keeping = on
        self._kept.clear()

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = weight.abs().amax(self.inputs, keepdim=True).float().clamp_min(torch.finfo(torch.float32).tiny) / 127
        return (weight / scale).round().clamp(-127, 127).to(torch.int8), scale

    def forward(self, numbers: Tensor, scale: Tensor) -> Tensor:
        if self._kept:
            return self._kept[0]
        weight = numbers.to(self.dtype).mul_(scale.to(self.dtype))
        if self._keeping:
            self._kept.append(weight)
        return weight


def holds_int8(network: nn.Module) -> bool:
    """Whether any of its weights are kept in 8 bits."""
    return any(isinstance(module, _Int8) for module in network.modules())
