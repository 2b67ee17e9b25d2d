"""ReLU features under a decoder-norm-weighted L1 penalty (Conerly et al. 2024; Bricken et al. 2023)."""

from __future__ import annotations

import torch

from auditor.sae.archs.architecture import Architecture, Batch, Outcome
from auditor.sae.parameters import Parameters

# Conerly et al. raise the penalty linearly over the first 5 % of training, so that features do not die at once.
_PENALTY_WARMUP = 0.05


class Relu(Architecture):
    """Mean over rows of ‖x' - x‖² + λ Σ_i z_i ‖d_i‖, with z = ReLU((x - b_dec) W_enc + b_enc).

    Weighting by decoder norms ‖d_i‖ stops the penalty from being escaped by small z and large d; no constraint on the
    decoder is then needed.
    """

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        p = parameters
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            z = torch.addmm(p.b_enc, batch.x - p.b_dec, p.encoder.T).relu()
            residual = z @ p.decoder + p.b_dec - batch.target
        squared = residual.float().pow(2).sum()
        penalty = (z.float() @ p.decoder.norm(dim=1)).mean()
        active = z.detach() > 0
        return Outcome(
            squared / len(batch.x) + self.penalty(batch.step) * penalty,
            squared.detach(), active.sum() / len(batch.x), active.sum(0),
        )

    def penalty(self, step: int) -> float:
        """λ at `step`."""
        rise = max(1.0, _PENALTY_WARMUP * self.config.steps)
        return self.config.l1 * min(1.0, (step + 1) / rise)
