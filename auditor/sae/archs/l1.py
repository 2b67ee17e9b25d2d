"""A decoder-norm-weighted L1 penalty (Conerly et al. 2024; Bricken et al. 2023), or one whose exponent falls while
training (p-annealing, Karvonen et al. 2024): what ReLU autoencoders and crosscoders share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from auditor.sae.archs.architecture import ArchConfig, Architecture, Batch, Outcome, outcome_of
from auditor.sae.kernels.blocks import starting_bias
from auditor.sae.parameters import Parameters, start
from auditor.sae.scaling import Scaling

# Conerly et al. raise the penalty linearly over the first 5 % of training, so that features do not die at once.
_PENALTY_WARMUP = 0.05
# Share of the steps after which p begins to fall, and after which it stays; it falls in so many stages.
_FALL, _STAGES = (0.1, 0.8), 10
# Norms that Conerly et al. start rows at, and clip the whole gradient to; the share of rows in which each feature fires
# at the start, and rows that this is found from.
_START_NORM, _MOST_GRADIENT, _START_SHARE, _START_ROWS = 0.1, 1.0, 0.025, 2048


@dataclass(frozen=True, kw_only=True)
class L1Config(ArchConfig):
    """`l1`: weight λ of the penalty; `p_end`: exponent that it ends with, 1 for plain L1; `steps`: of the whole
    training, in which λ rises and the exponent falls."""

    l1: float
    p_end: float
    steps: int


class L1(Architecture):
    """Mean over rows of ‖x' - x‖² + λ Σ_i z_i^p w_i, with z = ReLU((x - b_dec) W_enc + b_enc) and `weights` w.

    p is 1 unless `p_end` is smaller: then it falls to that in ten stages, and at each λ is multiplied by
    Σ z^p / Σ z^p' of the last batch before it, so that the penalty stays as strong (Karvonen et al. 2024, section 3.2
    and eq. 4).

    As in Conerly et al., encoder and decoder start as one matrix with rows of norm 0.1, and gradients are clipped to
    norm 1: with unit rows, activations start so large that the penalty shrinks the decoder before it has learned.
    Biases start such that each feature fires in a fortieth of the rows (Conerly et al. 2025).
    """

    config: L1Config
    continues = ("relu",)

    def __init__(self, config: L1Config, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        self._strength = torch.ones((), device=device)

    def begin(self, sample: Batch) -> Parameters:
        parameters = start(sample.x, self.config.d_sae, self.config.seed, self.device)
        with torch.no_grad():
            parameters.decoder *= _START_NORM
            parameters.encoder.copy_(parameters.decoder)
            encoder, b_dec = parameters.encoder.cpu(), parameters.b_dec.cpu()
            parameters.b_enc.copy_(starting_bias(sample.x[:_START_ROWS], encoder, b_dec, _START_SHARE))
        return parameters

    def before_update(self, parameters: Parameters) -> None:
        torch.nn.utils.clip_grad_norm_(list(parameters.named().values()), _MOST_GRADIENT)

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        p = parameters
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            z = torch.addmm(p.b_enc, batch.x - p.b_dec, p.encoder.T).relu()
            residual = z @ p.decoder + p.b_dec - batch.target
        squared = residual.float().pow(2).sum()
        weights, power = self.weights(p.decoder), self.power(batch.step)
        penalty = (_raised(z.float(), power) @ weights).mean()
        outcome = outcome_of(
            squared / len(batch.x) + self.penalty(batch.step) * self._strength * penalty, squared, z.detach() > 0
        )
        if (following := self.power(batch.step + 1)) != power:
            with torch.no_grad():
                outcome.sums = torch.stack([(_raised(z.float(), each) @ weights).sum() for each in (power, following)])
        return outcome

    def weights(self, decoder: Tensor) -> Tensor:
        """What each feature's activation is multiplied by in the penalty, [d_sae]."""
        norm: Tensor = decoder.norm(dim=1)
        return norm

    def penalty(self, step: int) -> float:
        """λ at `step`, but for what p-annealing makes of it."""
        return risen(self.config.l1, step, self.config.steps)

    def power(self, step: int) -> float:
        """p at `step`."""
        start, stop = (share * self.config.steps for share in _FALL)
        done = min(1.0, max(0.0, (step - start) / max(1.0, stop - start)))
        return 1.0 - (1.0 - self.config.p_end) * int(done * _STAGES) / _STAGES

    def observe(self, parameters: Parameters, batch: Batch, outcome: Outcome) -> None:
        if outcome.sums is not None:  # Σ z^p ‖d‖ with this stage's p and the next's
            before, after = outcome.sums
            self._strength = self._strength * torch.where(after > 0, before / after, 1.0)

    def state(self) -> dict[str, Any]:
        return {"strength": float(self._strength)}

    def restore(self, state: dict[str, Any]) -> None:
        self._strength = torch.tensor(state["strength"], device=self.device)


def _raised(z: Tensor, power: float) -> Tensor:
    return z if power == 1 else z.pow(power)


def risen(weight: float, step: int, steps: int) -> float:
    """A penalty's `weight` at `step` of `steps`."""
    return weight * min(1.0, (step + 1) / max(1.0, _PENALTY_WARMUP * steps))
