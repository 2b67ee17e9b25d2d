"""ReLU features under a decoder-norm-weighted L1 penalty (Conerly et al. 2024; Bricken et al. 2023), or one whose
exponent falls while training (p-annealing, Karvonen et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from auditor.sae.archs.architecture import Batch, Outcome, outcome_of_step
from auditor.sae.archs.l1 import L1, L1Config
from auditor.sae.kernels.blocks import spread_of
from auditor.sae.kernels.relu_step import ReluStep
from auditor.sae.parameters import Parameters
from auditor.sae.scaling import Scaling


@dataclass(frozen=True, kw_only=True)
class ReluConfig(L1Config):
    """`product`: how what fires is found on a CPU (`kernels.product`)."""

    product: str


class Relu(L1):
    """As `L1`, with decoder norms for weights: mean over rows of ‖x' - x‖² + λ Σ_i z_i^p ‖d_i‖.

    Weighting by ‖d_i‖ stops the penalty from being escaped by small z and large d; no constraint on the decoder is then
    needed.
    """

    name = "relu"
    config: ReluConfig
    config_class = ReluConfig

    def __init__(self, config: ReluConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        self._spread = spread_of(config.product, sample.x)
        self._step: ReluStep | None = None

    def by_hand(self, parameters: Parameters, batch: Batch) -> Outcome | None:
        p = parameters
        if self.device.type != "cpu":
            return None
        if self._step is None:
            self._step = ReluStep(batch.x.shape[1], p.d_sae, self._spread)
        power, following = self.power(batch.step), self.power(batch.step + 1)
        weight = self.penalty(batch.step) * float(self._strength)
        done = self._step.gradients(
            batch.x, p.encoder, p.decoder, p.b_enc, p.b_dec, weight, power, None if following == power else following
        )
        outcome = outcome_of_step(p, done)
        if following != power:
            outcome.sums = len(batch.x) * torch.stack([done.penalty, self._step.following])
        return outcome
