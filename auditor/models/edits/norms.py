"""Norms as linear maps: with its denominator held fixed, a norm's output is a sum over what its input is a sum of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from auditor.base.errors import AuditorError


@dataclass(frozen=True)
class NormShape:
    """norm(x) = scale(x) · gain · centre(x) + bias, scale one number a row, centre(x) = x or x less its mean.

    `gain` and `bias` [width], float32, measured on the module itself, so that a family may write its norm as it likes.
    """

    gain: Tensor
    bias: Tensor
    centred: bool

    def linear(self, x: Tensor) -> Tensor:
        """gain · centre(x), float32, shape of x."""
        wide = x.float()
        return self.gain * (wide - wide.mean(-1, keepdim=True) if self.centred else wide)

    def scale(self, x: Tensor, y: Tensor) -> Tensor:
        """The factor [..., 1] with which the norm made `y` of `x`, least squares over the channels; 0 of a zero row."""
        line = self.linear(x)
        length = (line * line).sum(-1, keepdim=True)
        found: Tensor = ((y.float() - self.bias) * line).sum(-1, keepdim=True) / length.clamp(min=1e-30)
        return found

    def share(self, part: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """What `part` of x adds to y = norm(x) through the denominator that x has; shares of all parts and the bias
        add up to y."""
        return (self.linear(part) * self.scale(x, y)).to(y.dtype)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a layer norm or RMS norm by its class's name; batch norms are linear as they are."""
    name = type(module).__name__.lower()
    return "norm" in name and "batch" not in name and not list(module.children())


def shape_of(module: nn.Module, width: int, device: torch.device, dtype: torch.dtype) -> NormShape:
    """Measured by three calls. AuditorError where the module is no such norm."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, width, generator=generator).to(device, dtype)
    one = torch.ones(1, width, device=device, dtype=dtype)
    # Its own forward: hooks of a run that goes on must not see these rows.
    call: Any = module.forward
    alternating = torch.where(torch.arange(width, device=device) % 2 == 0, 1.0, -1.0).to(dtype)
    refusal = AuditorError(
        f"A {type(module).__name__} cannot be taken apart into the shares of what it norms.",
        "Choose an edge, or blocks, without it.",
    )
    with torch.no_grad():
        try:
            made, nothing, flat, turned = (call(x).float() for x in (rows, 0 * one, one, alternating[None]))
        except (RuntimeError, TypeError, ValueError, IndexError):  # it takes other axes, or a gate
            raise refusal from None
        gain = (turned[0] - nothing[0]) * alternating.float()
        centred = float((flat - nothing).abs().max()) <= 1e-2 * float(gain.abs().max())
        shape = NormShape(gain, nothing[0], centred)
        again = shape.linear(rows) * shape.scale(rows, made) + shape.bias
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    if float((again - made).abs().max()) > tolerance * float(made.abs().max()):
        raise refusal
    return shape
