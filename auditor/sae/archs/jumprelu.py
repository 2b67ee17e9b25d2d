"""JumpReLU features: a learned threshold for each, under a penalty on how many are active (Rajamanoharan et al. 2024,
“Jumping Ahead”) or on a saturating function of how strongly (Conerly et al. 2025, Circuits Updates January)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.sae.archs.architecture import (
    ArchConfig,
    Architecture,
    Batch,
    Outcome,
    outcome_of,
    outcome_of_step,
)
from auditor.sae.archs.jump import Active, Jump, jumping, reluctance, spread
from auditor.sae.clt import Dictionary
from auditor.sae.kernels.blocks import spread_of, starting_bias
from auditor.sae.kernels.jumprelu_step import JumpReluStep, StepPenalty, TanhPenalty
from auditor.sae.parameters import Parameters, leaves
from auditor.sae.sae import Sae
from auditor.sae.scaling import Scaling

# Conerly et al.: slope of the tanh, weight of what pulls dead features up.
_SLOPE, _REVIVE = 4.0, 3e-6
# Their penalty rises over the whole training, Rajamanoharan et al.'s over a small part of it.
_RISE = {"step": 0.05, "tanh": 1.0}
# Thresholds at the start in units of a typical activation, high where they learn slowly; each feature is active in this
# share of rows then, or so that the target is met (`starting_bias`).
_START, _ACTIVE = {"step": 0.5, "tanh": 0.1}, 1 / 32
# The lowest threshold to start from, in units of a typical activation.
_LEAST = 1e-4
# By how much every log θ moves in a step for each e-fold that L0 is away from its target.
_NUDGE = 0.05
_SAMPLE_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class JumpReluConfig(ArchConfig):
    """`l1`: weight λ of the penalty on active features; `target_l0`: active features to aim at instead, 0 for none;
    `jump_loss`: whose loss, “step” or “tanh”; `bandwidth`: width of the kernel that lets thresholds learn, in units of
    a typical activation; `steps`: of the whole training, over which λ rises; `product`: how what fires is found on a
    CPU (`kernels.product`)."""

    l1: float
    target_l0: float
    jump_loss: str
    bandwidth: float
    steps: int
    product: str


class JumpRelu(Architecture):
    """Mean over rows of ‖x' - x‖² + S + λ_P Σ_dead ReLU(θ_i - π_i) ‖d_i‖, with pre-activations π = (x - b_dec) W_enc +
    b_enc and z = π H(π - θ). log θ [d_sae] is learned; the jump's gradients are those of `jump`, ε = `bandwidth` times
    the spread of the data along a direction.

    `step`: S = λ Σ_i H(π_i - θ_i), the count of active features (Rajamanoharan et al. 2024, eq. 9), of which only θ
    learns; decoder rows have unit norm. `tanh`: S = λ Σ_i tanh(c z_i ‖d_i‖), and the jump's gradients reach all weights
    (Conerly et al. 2025).

    With a `target_l0` T both have S = λ E (L0 / T - 1)², with the batch's mean count L0 and the data's variance E
    (Lieberum et al. 2024 and Rajamanoharan et al. 2024, appendix): λ = 3 suits all data. Since thresholds learn only
    from what lies near them, which is little where codes are clear, all of them move with log(L0 / T) besides.
    Micro-batches bring each piece's L0 to T instead of the batch's.
    """

    name = "jumprelu"
    config: JumpReluConfig
    config_class = JumpReluConfig
    continues = ("jumprelu", "relu")

    def __init__(self, config: JumpReluConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        self._tanh = config.jump_loss == "tanh"
        self.unit_rows = not self._tanh
        centred = sample.x - sample.x.mean(0)
        self._typical = spread(sample.x, sample.x.mean(0))
        self._variance = float(centred.pow(2).sum(1).mean())
        self._bandwidth = config.bandwidth * self._typical
        self._spread = spread_of(config.product, sample.x)
        self._step: JumpReluStep | None = None
        self.active = max(1, round(config.target_l0 or _ACTIVE * config.d_sae))

    def begin(self, sample: Batch) -> Parameters:
        started = super().begin(sample)
        share = (self.config.target_l0 or _ACTIVE * self.config.d_sae) / self.config.d_sae
        start = _START["tanh" if self._tanh and not self.config.target_l0 else "step"] * self._typical
        few, encoder, b_dec = sample.x[:_SAMPLE_ROWS], started.encoder.detach().cpu(), started.b_dec.detach().cpu()
        bias = starting_bias(few, encoder, b_dec, min(1.0, share), start)
        named = {name: tensor.detach() for name, tensor in started.named().items()}
        log_threshold = torch.full_like(bias, start).log()
        return leaves(named | {"b_enc": bias, "log_threshold": log_threshold}, self.device)

    def adopt(self, sae: Dictionary) -> Parameters:
        tensors = self.adopted(sae)
        threshold = tensors.pop("threshold", torch.zeros(sae.d_sae))
        tensors["log_threshold"] = threshold.clamp_min(_LEAST * self._typical).log()
        return leaves(tensors, self.device)

    def by_hand(self, parameters: Parameters, batch: Batch) -> Outcome | None:
        p = parameters
        if self.device.type != "cpu":
            return None
        if self._step is None:
            self._step = JumpReluStep(batch.x.shape[1], p.d_sae, self._bandwidth, self._spread)
        threshold, target, weight = p.more["log_threshold"].exp(), self.config.target_l0, self.penalty(batch.step)
        penalty = StepPenalty(weight * (self._variance if target else 1.0), target)
        done = self._step.gradients(
            batch.x, p.encoder, p.decoder, p.b_enc, p.b_dec, threshold,
            TanhPenalty(weight, _SLOPE) if self._tanh and not target else penalty, self._tanh,
            _REVIVE * batch.dead if bool(batch.dead.any()) else None,
        )
        *others, to_threshold = done.gradients
        done.gradients = (*others, to_threshold * threshold)
        return outcome_of_step(p, done)

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        p, log_threshold = parameters, parameters.more["log_threshold"]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            pre = torch.addmm(p.b_enc, batch.x - p.b_dec, p.encoder.T).float()
            z = Jump.apply(pre, log_threshold, self._bandwidth, self._tanh)  # type: ignore[no-untyped-call]
            residual = z @ p.decoder + p.b_dec - batch.target
        squared, norm = residual.pow(2).sum(), p.decoder.norm(dim=1)
        loss = squared / len(batch.x) + self.penalty(batch.step) * self._sparsity(pre, z, log_threshold, norm)
        loss = loss + _REVIVE * reluctance(pre, log_threshold.exp(), norm, batch.dead)
        return outcome_of(loss, squared, z.detach() > 0)

    def _sparsity(self, pre: Tensor, z: Tensor, log_threshold: Tensor, norm: Tensor) -> Tensor:
        if self._tanh and not self.config.target_l0:
            return torch.tanh(_SLOPE * z * norm).sum(1).mean()
        l0: Tensor = Active.apply(pre, log_threshold, self._bandwidth, self._tanh).mean()  # type: ignore[no-untyped-call]
        return self._variance * (l0 / self.config.target_l0 - 1).pow(2) if self.config.target_l0 else l0

    def penalty(self, step: int) -> float:
        """λ at `step`."""
        share = 0.0 if self.config.target_l0 else _RISE[self.config.jump_loss]
        return self.config.l1 * min(1.0, (step + 1) / max(1.0, share * self.config.steps))

    def observe(self, parameters: Parameters, batch: Batch, outcome: Outcome) -> None:
        if self.config.target_l0:
            with torch.no_grad():
                away = (outcome.l0 / self.config.target_l0).clamp(0.5, 2.0).log()
                parameters.more["log_threshold"] += _NUDGE * away

    def finish(self, parameters: Parameters) -> Sae:
        return Sae("jumprelu", **jumping(parameters, self.scaling))
