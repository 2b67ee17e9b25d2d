"""ReLU features under a decoder-norm-weighted L1 penalty (Conerly et al. 2024; Bricken et al. 2023), or one whose
exponent falls while training (p-annealing, Karvonen et al. 2024)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from auditor.sae.archs.architecture import Architecture, Batch, Outcome, outcome_of, outcome_of_step
from auditor.sae.kernels.blocks import spread_of, starting_bias
from auditor.sae.kernels.relu_step import ReluStep
from auditor.sae.parameters import Parameters
from auditor.sae.scaling import Scaling
from auditor.sae.train_config import TrainConfig

# Conerly et al. raise the penalty linearly over the first 5 % of training, so that features do not die at once.
_PENALTY_WARMUP = 0.05
# Share of the steps after which p begins to fall, and after which it stays; it falls in so many stages.
_FALL, _STAGES = (0.1, 0.8), 10
# Norms that Conerly et al. start rows at, and clip the whole gradient to; the share of rows in which each feature fires
# at the start, and rows that this is found from.
_START_NORM, _MOST_GRADIENT, _START_SHARE, _START_ROWS = 0.1, 1.0, 0.025, 2048


class Relu(Architecture):
    """Mean over rows of ‖x' - x‖² + λ Σ_i z_i^p ‖d_i‖, with z = ReLU((x - b_dec) W_enc + b_enc).

    Weighting by decoder norms ‖d_i‖ stops the penalty from being escaped by small z and large d; no constraint on the
    decoder is then needed. p is 1 unless `p_end` is smaller: then it falls to that in ten stages, and at each λ is
    multiplied by Σ z^p / Σ z^p' of the last batch before it, so that the penalty stays as strong (Karvonen et al. 2024,
    section 3.2 and eq. 4).

    As in Conerly et al., encoder and decoder start as one matrix with rows of norm 0.1, and gradients are clipped to
    norm 1: with unit rows, activations start so large that the penalty shrinks the decoder before it has learned.
    Biases start such that each feature fires in a fortieth of the rows (Conerly et al. 2025).
    """

    continues = ("relu",)
    # Whether the penalty's weights are the decoder's norms, as the sparse step takes them.
    sparse: ClassVar[bool] = True

    def __init__(self, config: TrainConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        self._strength = torch.ones((), device=device)
        # Of the pieces of one batch, at the last step of a stage: Σ z^p ‖d‖ with this stage's p and the next's.
        self._sums: list[Tensor] = []
        self._spread = spread_of(config.product, sample.x)
        self._step: ReluStep | None = None

    def begin(self, sample: Batch) -> Parameters:
        parameters = super().begin(sample)
        with torch.no_grad():
            parameters.decoder *= _START_NORM
            parameters.encoder.copy_(parameters.decoder)
            encoder, b_dec = parameters.encoder.cpu(), parameters.b_dec.cpu()
            parameters.b_enc.copy_(starting_bias(sample.x[:_START_ROWS], encoder, b_dec, _START_SHARE))
        return parameters

    def before_update(self, parameters: Parameters) -> None:
        torch.nn.utils.clip_grad_norm_(list(parameters.named().values()), _MOST_GRADIENT)

    def by_hand(self, parameters: Parameters, batch: Batch) -> Outcome | None:
        p = parameters
        if self.device.type != "cpu" or not self.sparse:
            return None
        if self._step is None:
            self._step = ReluStep(batch.x.shape[1], p.d_sae, self._spread)
        power, following = self.power(batch.step), self.power(batch.step + 1)
        weight = self.penalty(batch.step) * float(self._strength)
        done = self._step.gradients(
            batch.x, p.encoder, p.decoder, p.b_enc, p.b_dec, weight, power, None if following == power else following
        )
        if following != power:
            self._sums.append(len(batch.x) * torch.stack([done.penalty, self._step.following]))
        return outcome_of_step(p, done)

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        p = parameters
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            z = torch.addmm(p.b_enc, batch.x - p.b_dec, p.encoder.T).relu()
            residual = z @ p.decoder + p.b_dec - batch.target
        squared = residual.float().pow(2).sum()
        weights, power = self.weights(p.decoder), self.power(batch.step)
        penalty = (_raised(z.float(), power) @ weights).mean()
        if (following := self.power(batch.step + 1)) != power:
            with torch.no_grad():
                self._sums.append(
                    torch.stack([(_raised(z.float(), each) @ weights).sum() for each in (power, following)])
                )
        return outcome_of(
            squared / len(batch.x) + self.penalty(batch.step) * self._strength * penalty, squared, z.detach() > 0
        )

    def weights(self, decoder: Tensor) -> Tensor:
        """What each feature's activation is multiplied by in the penalty, [d_sae]."""
        norm: Tensor = decoder.norm(dim=1)
        return norm

    def penalty(self, step: int) -> float:
        """λ at `step`, but for what p-annealing makes of it."""
        rise = max(1.0, _PENALTY_WARMUP * self.config.steps)
        return self.config.l1 * min(1.0, (step + 1) / rise)

    def power(self, step: int) -> float:
        """p at `step`."""
        start, stop = (share * self.config.steps for share in _FALL)
        done = min(1.0, max(0.0, (step - start) / max(1.0, stop - start)))
        return 1.0 - (1.0 - self.config.p_end) * int(done * _STAGES) / _STAGES

    def observe(self, parameters: Parameters, batch: Batch, outcome: Outcome) -> None:
        if self._sums:
            before, after = torch.stack(self._sums).sum(0)
            self._strength = self._strength * torch.where(after > 0, before / after, 1.0)
            self._sums.clear()

    def state(self) -> dict[str, Any]:
        return {"strength": float(self._strength)}

    def restore(self, state: dict[str, Any]) -> None:
        self._strength = torch.tensor(state["strength"], device=self.device)


def _raised(z: Tensor, power: float) -> Tensor:
    return z if power == 1 else z.pow(power)
