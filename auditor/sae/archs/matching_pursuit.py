"""Features chosen one after another, each the best for what the earlier ones left (MP-SAE, Costa et al. 2025; Mallat &
Zhang 1993)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.sae.archs.architecture import (
    ArchConfig,
    Architecture,
    Batch,
    Outcome,
    checked_k,
    outcome_of,
)
from auditor.sae.clt import Dictionary
from auditor.sae.parameters import Parameters, leaves
from auditor.sae.sae import Sae
from auditor.sae.scaling import Scaling


@dataclass(frozen=True, kw_only=True)
class MatchingPursuitConfig(ArchConfig):
    """`k`: rounds, and so the most features active on a row."""

    k: int


class MatchingPursuit(Architecture):
    """Mean over rows of ‖r_k‖², where r_0 = x - b_dec, z_t = max_i ReLU(<r_t, d_i>) and r_{t+1} = r_t - z_t d_i over k
    rounds (Costa et al. 2025, algorithm 1 and eq. 5); gradients run through all rounds, but for the choice itself.

    The encoder is tied: decoder rows, of unit norm, are what residuals are compared with, so `encoder` has no columns
    and `b_enc` learns nothing. A row stops early only where no feature has a positive product. A feature chosen twice
    counts as one active feature. A round costs one dense product, so a step takes about k times that of TopK.
    """

    name = "matching_pursuit"
    config: MatchingPursuitConfig
    config_class = MatchingPursuitConfig
    continues = ("matching_pursuit",)
    unit_rows = True

    def __init__(self, config: MatchingPursuitConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        self.k = self.active = checked_k(config.k, config.d_sae)

    def begin(self, sample: Batch) -> Parameters:
        return self._tied({name: t.detach() for name, t in super().begin(sample).named().items()})

    def adopt(self, sae: Dictionary) -> Parameters:
        return self._tied(self.adopted(sae))

    def _tied(self, tensors: dict[str, Tensor]) -> Parameters:
        decoder = tensors["decoder"]
        return leaves(tensors | {"encoder": decoder[:, :0], "b_enc": torch.zeros(len(decoder))}, self.device)

    def by_hand(self, parameters: Parameters, batch: Batch) -> Outcome:
        """Round by round back: r_t follows from r_{t+1}, so that no more is kept than what was chosen and how much."""
        p, size = parameters, len(batch.x)
        left = batch.x - p.b_dec
        rounds: list[tuple[Tensor, Tensor]] = []
        for _ in range(self.k):
            chosen = self._best(left, p.decoder)
            direction = p.decoder[chosen]
            z = torch.linalg.vecdot(left, direction).relu()
            left = left.addcmul_(z[:, None], direction, value=-1)
            rounds.append((chosen, z))
        squared = left.pow(2).sum()
        to_left, to_decoder = left * (2 / size), torch.zeros_like(p.decoder)
        for chosen, z in reversed(rounds):
            direction = p.decoder[chosen]
            left = left.addcmul_(z[:, None], direction)
            to_z = torch.linalg.vecdot(to_left, direction).neg_() * (z > 0)
            to_decoder.index_add_(0, chosen, to_z[:, None] * left - z[:, None] * to_left)
            to_left = to_left.addcmul_(to_z[:, None], direction)
        p.decoder.grad, p.b_dec.grad = to_decoder, -to_left.sum(0)
        p.encoder.grad, p.b_enc.grad = torch.zeros_like(p.encoder), torch.zeros_like(p.b_enc)
        ids, fired = torch.stack([chosen for chosen, _ in rounds], 1), torch.stack([z > 0 for _, z in rounds], 1)
        again = ((ids[:, :, None] == ids[:, None, :]) & fired[:, None, :]).tril(-1).any(2)
        first = fired & ~again
        counts = torch.zeros(p.d_sae, dtype=torch.int64, device=self.device)
        counts.index_add_(0, ids.flatten(), first.flatten().long())
        return Outcome(squared / size, squared, first.sum() / size, counts)

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        p = parameters
        left = batch.x - p.b_dec
        active = torch.zeros(len(left), p.d_sae, dtype=torch.bool, device=self.device)
        for _ in range(self.k):
            chosen = self._best(left, p.decoder)
            direction = p.decoder[chosen]
            z = torch.linalg.vecdot(left, direction).relu()
            left = left - z[:, None] * direction
            # A sum, not an assignment, since a round without a positive product must not silence an earlier one.
            active.scatter_(1, chosen[:, None], active.gather(1, chosen[:, None]) | (z.detach() > 0)[:, None])
        squared = left.pow(2).sum()
        outcome = outcome_of(squared / len(batch.x), squared, active)
        # Neither takes part, but whoever asks for gradients of all finds zeros.
        outcome.loss = outcome.loss + 0 * (p.encoder.sum() + p.b_enc.sum())
        return outcome

    def _best(self, left: Tensor, decoder: Tensor) -> Tensor:
        """Which feature [B] has the largest product with each row."""
        with torch.no_grad(), torch.autocast(left.device.type, torch.bfloat16, enabled=left.is_cuda):
            return (left @ decoder.T).argmax(1)

    def finish(self, parameters: Parameters) -> Sae:
        decoder = parameters.decoder.detach().cpu().float().clone()
        b_dec = parameters.b_dec.detach().cpu().float() / self.scaling.output
        bias = torch.zeros(len(decoder))
        return Sae(
            "matching_pursuit", decoder.T.contiguous(), decoder, bias, b_dec, k=self.k, **self.scaling.facts()
        )
