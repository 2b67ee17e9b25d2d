"""What a fused run changes: weights in float32, their bfloat16 copies for products, Adam's moments and its clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Steps between counting the dead features and using the count, so that no step waits for the device.
LAG = 4


@dataclass(frozen=True)
class Settings:
    """k active features; Adam's betas and eps; AuxK's weight, rows and silence in rows; factor on the input."""

    k: int
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    auxk_alpha: float = 0.0
    auxk_rows: int = 0
    dead_after: int = 0
    scale: float = 1.0

    @property
    def constants(self) -> tuple[float, float, float, float, float]:
        """β1, 1 - β1, β2, 1 - β2, eps, each rounded once."""
        (one, two), eps = self.betas, self.eps
        return one, 1 - one, two, 1 - two, eps


@dataclass
class Outcome:
    """Of one step, on the device: loss, Σ (x' - x)², active features per row, firings of each feature int32 [M],
    whether the loss was finite (if not, nothing changed), and how many features were dead before."""

    loss: Tensor
    squared_error: Tensor
    l0: Tensor
    counts: Tensor
    finite: Tensor
    dead: Tensor


@dataclass
class State:
    """encoder, decoder float32 [M, D], b_enc [M], b_dec [D] are the trainer's own tensors, changed in place.

    First moments of the matrices are bfloat16: they move by a tenth each step, far more than bfloat16's 2⁻⁹. Second
    moments decay by a thousandth, which bfloat16 would round away, so they are float32. `clock` float64 [3] holds the
    updates done and both betas to that power.
    """

    encoder: Tensor
    decoder: Tensor
    b_enc: Tensor
    b_dec: Tensor
    encoder_half: Tensor
    decoder_half: Tensor
    b_enc_half: Tensor
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    clock: Tensor

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor]) -> State:
        """Around `parameters` (by the names above), before the first step."""
        weights = {name: tensor.detach() for name, tensor in parameters.items()}
        if any(t.dtype != torch.float32 or not t.is_contiguous() for t in weights.values()):
            raise TypeError("the fused step takes contiguous float32 weights")
        device = weights["encoder"].device
        first, second = {}, {}
        for name, weight in weights.items():
            kind = torch.bfloat16 if weight.dim() == 2 else torch.float32
            first[name] = torch.zeros_like(weight, dtype=kind)
            second[name] = torch.zeros_like(weight)
        clock = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64, device=device)
        halves = {f"{name}_half": weights[name].bfloat16() for name in ("encoder", "decoder", "b_enc")}
        return cls(**weights, **halves, first=first, second=second, clock=clock)

    def take(self, moments: Mapping[str, Tensor]) -> None:
        """Go on from the `moments` that an earlier run gave, and the weights as they are now."""
        for name, tensor in self.moments().items():
            tensor.copy_(moments[name])
        self.refresh()

    def refresh(self) -> None:
        """Take over weights that were changed from outside."""
        self.encoder_half.copy_(self.encoder)
        self.decoder_half.copy_(self.decoder)
        self.b_enc_half.copy_(self.b_enc)

    def moments(self) -> dict[str, Tensor]:
        """Everything but the weights that a later run needs, not copied."""
        found = {"clock": self.clock}
        for name in self.first:
            found[f"{name}.exp_avg"], found[f"{name}.exp_avg_sq"] = self.first[name], self.second[name]
        return found
