"""Features chosen one after another, each the best for what the earlier ones left (MP-SAE, Costa et al. 2025; Mallat &
Zhang 1993)."""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae.archs.architecture import (
    Architecture,
    Batch,
    Outcome,
    outcome_of,
    unit_decoder_gradient,
    unit_decoder_rows,
)
from auditor.sae.clt import Dictionary
from auditor.sae.parameters import Parameters, leaves
from auditor.sae.sae import Sae
from auditor.sae.scaling import Scaling
from auditor.sae.train_config import TrainConfig


class MatchingPursuit(Architecture):
    """Mean over rows of ‖r_k‖², where r_0 = x - b_dec, z_t = max_i ReLU(<r_t, d_i>) and r_{t+1} = r_t - z_t d_i over k
    rounds (Costa et al. 2025, algorithm 1 and eq. 5); gradients run through all rounds, but for the choice itself.

    The encoder is tied: decoder rows, of unit norm, are what residuals are compared with, so `encoder` has no columns
    and `b_enc` learns nothing. A row stops early only where no feature has a positive product. A feature chosen twice
    counts as one active feature. A round costs one dense product, so a step takes about k times that of TopK.
    """

    continues = ("matching_pursuit",)

    def __init__(self, config: TrainConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        if config.k > config.d_sae:
            raise AuditorError(
                f"{config.k} active features were asked of a dictionary of {config.d_sae}.", "Choose a smaller k."
            )

    def begin(self, sample: Batch) -> Parameters:
        return self._tied({name: t.detach() for name, t in super().begin(sample).named().items()})

    def adopt(self, sae: Dictionary) -> Parameters:
        return self._tied(self.adopted(sae))

    def _tied(self, tensors: dict[str, Tensor]) -> Parameters:
        decoder = tensors["decoder"]
        return leaves(tensors | {"encoder": decoder[:, :0], "b_enc": torch.zeros(len(decoder))}, self.device)

    def gradients(self, parameters: Parameters, batch: Batch) -> Outcome:
        outcome = super().gradients(parameters, batch)
        for tied in (parameters.encoder, parameters.b_enc):
            tied.grad = torch.zeros_like(tied)
        return outcome

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        p = parameters
        left = batch.x - p.b_dec
        active = torch.zeros(len(left), p.d_sae, dtype=torch.bool, device=self.device)
        for _ in range(self.config.k):
            with torch.no_grad(), torch.autocast(left.device.type, torch.bfloat16, enabled=left.is_cuda):
                chosen = (left @ p.decoder.T).argmax(1)
            direction = p.decoder[chosen]
            z = torch.linalg.vecdot(left, direction).relu()
            left = left - z[:, None] * direction
            # A sum, not an assignment, since a round without a positive product must not silence an earlier one.
            active.scatter_(1, chosen[:, None], active.gather(1, chosen[:, None]) | (z.detach() > 0)[:, None])
        squared = left.pow(2).sum()
        return outcome_of(squared / len(batch.x), squared, active)

    def before_update(self, parameters: Parameters) -> None:
        unit_decoder_gradient(parameters)

    def after_update(self, parameters: Parameters) -> None:
        unit_decoder_rows(parameters)

    def finish(self, parameters: Parameters) -> Sae:
        decoder = parameters.decoder.detach().cpu().float().clone()
        b_dec = parameters.b_dec.detach().cpu().float() / self.scaling.output
        bias = torch.zeros(len(decoder))
        return Sae(
            "matching_pursuit", decoder.T.contiguous(), decoder, bias, b_dec, k=self.config.k, **self.scaling.facts()
        )
