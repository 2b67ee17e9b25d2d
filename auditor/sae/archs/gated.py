"""Gated features: one path says which fire, another how strongly (Rajamanoharan et al. 2024, “Improving Dictionary
Learning with Gated Sparse Autoencoders”)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from auditor.sae.archs.architecture import (
    ArchConfig,
    Architecture,
    Batch,
    Outcome,
    folded,
    growth,
    outcome_of,
    outcome_of_step,
)
from auditor.sae.archs.l1 import risen
from auditor.sae.clt import Dictionary
from auditor.sae.kernels.blocks import spread_of, starting_bias
from auditor.sae.kernels.gated_step import GatedStep
from auditor.sae.parameters import Parameters, leaves
from auditor.sae.sae import Sae
from auditor.sae.scaling import Scaling

_START, _SAMPLE_ROWS = 1 / 32, 1024


@dataclass(frozen=True, kw_only=True)
class GatedConfig(ArchConfig):
    """`l1`: weight λ of the L1 of the gates; `steps`: of the whole training, over whose first part it rises; `product`:
    how what fires is found on a CPU (`kernels.product`)."""

    l1: float
    steps: int
    product: str


class Gated(Architecture):
    """Mean over rows of ‖x'(z) - x‖² + λ Σ_i ReLU(π_i) + ‖x'(ReLU(π)) - x‖², the last with the decoder held fixed
    (Rajamanoharan et al. 2024, eq. 8).

    The gate is π = (x - b_dec) W_gate + b_gate, and z = 1[π > 0] ReLU((x - b_dec) W_gate e^r + b_mag) (eq. 5 to 7).
    `encoder` and `b_enc` are the gate's; `r_mag` and `b_mag` [d_sae] are learned beside them. Decoder rows have unit
    norm.

    Since both paths share W_gate, π > 0 exactly where the magnitude's pre-activation exceeds b_mag - e^r b_gate: the
    finished dictionary is a JumpReLU with that threshold, or 0 where it is negative (appendix H).
    """

    name = "gated"
    config: GatedConfig
    config_class = GatedConfig
    continues = ("jumprelu", "relu")
    unit_rows = True

    def __init__(self, config: GatedConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        self._spread = spread_of(config.product, sample.x)
        self._step: GatedStep | None = None

    def begin(self, sample: Batch) -> Parameters:
        started = super().begin(sample)
        few, encoder, b_dec = sample.x[:_SAMPLE_ROWS], started.encoder.detach().cpu(), started.b_dec.detach().cpu()
        bias = starting_bias(few, encoder, b_dec, _START)
        named = {name: tensor.detach() for name, tensor in started.named().items()}
        return leaves(named | {"b_enc": bias, "r_mag": torch.zeros_like(bias), "b_mag": bias}, self.device)

    def adopt(self, sae: Dictionary) -> Parameters:
        tensors = self.adopted(sae)
        threshold = tensors.pop("threshold", torch.zeros(sae.d_sae))
        bias = tensors["b_enc"]
        more = {"b_enc": bias - threshold, "r_mag": torch.zeros_like(bias), "b_mag": bias}
        return leaves(tensors | more, self.device)

    def by_hand(self, parameters: Parameters, batch: Batch) -> Outcome | None:
        p = parameters
        if self.device.type != "cpu":
            return None
        if self._step is None:
            self._step = GatedStep(batch.x.shape[1], p.d_sae, self._spread)
        r_mag, b_mag = p.more["r_mag"], p.more["b_mag"]
        penalty = self.penalty(batch.step)
        done = self._step.gradients(batch.x, p.encoder, p.decoder, p.b_enc, p.b_dec, r_mag, b_mag, penalty)
        return outcome_of_step(p, done)

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        p = parameters
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            shared = (batch.x - p.b_dec) @ p.encoder.T
            gate = (shared + p.b_enc).relu()
            z = (shared * p.more["r_mag"].exp() + p.more["b_mag"]).relu() * (gate.detach() > 0)
            residual = z @ p.decoder + p.b_dec - batch.target
            through_gate = gate @ p.decoder.detach() + p.b_dec.detach() - batch.target
        squared = residual.pow(2).sum()
        penalty = self.penalty(batch.step) * gate.float().sum()
        loss = (squared + through_gate.pow(2).sum() + penalty) / len(batch.x)
        return outcome_of(loss, squared, z.detach() > 0)

    def penalty(self, step: int) -> float:
        """λ at `step`."""
        return risen(self.config.l1, step, self.config.steps)

    def finish(self, parameters: Parameters) -> Sae:
        stretch, b_gate, b_mag = (
            t.detach().cpu() for t in (parameters.more["r_mag"].exp(), parameters.b_enc, parameters.more["b_mag"])
        )
        fields = folded(parameters, self.scaling)
        norm = growth(parameters, self.scaling)
        fields |= {"W_enc": fields["W_enc"] * stretch, "b_enc": b_mag * norm}
        return Sae("jumprelu", **fields, threshold=(b_mag - stretch * b_gate).clamp_min(0) * norm)
