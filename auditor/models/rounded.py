"""Weights kept as 8- or 4-bit numbers, turned back for the time of one layer; activations keep their own format.

int8: w ≈ scale · q with q = round(w / scale) in [−127, 127] and scale = max|w| / 127 over the inputs of a channel
(symmetric absmax, Dettmers et al. 2022, eq. 1, without outlier columns). int4: of every 32 inputs of a channel,
w ≈ low + scale · q with q in [0, 15] between their least and their greatest (block-wise, as Dettmers and Zettlemoyer
2023, section 3, with evenly spaced numbers): 4 bits each and 1 for scale and least, which are bfloat16.

Kept so are the matrices of linear layers and of experts inside blocks; embeddings, norms, routers and the head are not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

ROUNDED = ("int8", "int4")
"""Names of the formats."""
GROUP = 32
_wanted: ContextVar[str] = ContextVar("weights are kept in", default="")
_ROUTERS = ("gate", "router", "classifier")


@contextlib.contextmanager
def weights_rounded(dtype: str) -> Iterator[None]:
    """Networks that are loaded inside the block keep their blocks' matrices in int8 or int4; in any other format as
    they are."""
    token = _wanted.set(dtype if dtype in ROUNDED else "")
    try:
        yield
    finally:
        _wanted.reset(token)


def to_round(network: nn.Module) -> list[tuple[str, str]]:
    """(path of the module, name of the parameter) of what is kept in few bits; nothing outside `weights_rounded`."""
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


def hold_rounded(module: nn.Module, name: str) -> None:
    """Keep the parameter `name` of `module` in few bits; read, it is a tensor of its own format as before."""
    from transformers.pytorch_utils import Conv1D

    held: Any = getattr(module, name)
    held.requires_grad_(False)
    inputs = 0 if isinstance(module, Conv1D) else -2 if getattr(module, "is_transposed", False) else -1
    small = (_Int4 if _wanted.get() == "int4" else _Int8)(held.dtype, inputs, held.shape[inputs])
    parametrize.register_parametrization(module, name, small, unsafe=True)
    if held.ndim == 3:
        # Experts are read one by one in a run: all are turned back once, and let go after the layer.
        module.register_forward_pre_hook(lambda *_: small.keep(True))
        module.register_forward_hook(lambda *_: small.keep(False), always_call=True)


def holds_rounded(network: nn.Module) -> bool:
    """Whether any of its weights are kept in few bits."""
    return any(isinstance(module, _Rounded) for module in network.modules())


class _Rounded(nn.Module):
    """`inputs` is the axis of a layer's `count` inputs."""

    def __init__(self, dtype: torch.dtype, inputs: int, count: int) -> None:
        super().__init__()
        self.dtype, self.inputs, self.count = dtype, inputs, count
        self._keeping, self._kept = False, list[Tensor]()

    def keep(self, on: bool) -> None:
        """Whether what is turned back is held for the next reading."""
        self._keeping = on
        self._kept.clear()

    def forward(self, *held: Tensor) -> Tensor:
        if self._kept:
            return self._kept[0]
        weight = self.turned_back(*held)
        if self._keeping:
            self._kept.append(weight)
        return weight

    def turned_back(self, *held: Tensor) -> Tensor:
        raise NotImplementedError


class _Int8(_Rounded):
    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = weight.abs().amax(self.inputs, keepdim=True).float().clamp_min(torch.finfo(torch.float32).tiny) / 127
        return (weight / scale).round().clamp(-127, 127).to(torch.int8), scale

    def turned_back(self, *held: Tensor) -> Tensor:
        numbers, scale = held
        return numbers.to(self.dtype).mul_(scale.to(self.dtype))


class _Int4(_Rounded):
    """Two numbers a byte, inputs last and filled up to whole groups with the last of them."""

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        last = weight.movedim(self.inputs, -1).float()
        missing = -self.count % GROUP
        if missing:
            last = torch.cat([last, last[..., -1:].expand(*last.shape[:-1], missing)], dim=-1)
        groups = last.reshape(*last.shape[:-1], -1, GROUP)
        low = groups.amin(-1, keepdim=True).bfloat16()
        scale = ((groups.amax(-1, keepdim=True) - low.float()) / 15).bfloat16()
        steps = (groups - low.float()) / scale.float().clamp_min(torch.finfo(torch.float32).tiny)
        numbers = steps.round().clamp(0, 15).to(torch.uint8).flatten(-2)
        return numbers[..., ::2] | (numbers[..., 1::2] << 4), scale, low

    def turned_back(self, *held: Tensor) -> Tensor:
        packed, scale, low = held
        numbers = torch.stack([packed & 15, packed >> 4], dim=-1).reshape(*packed.shape[:-1], -1, GROUP)
        wide: Tensor = numbers.to(self.dtype).mul_(scale.to(self.dtype)).add_(low.to(self.dtype))
        return wide.flatten(-2)[..., : self.count].movedim(-1, self.inputs).contiguous()
