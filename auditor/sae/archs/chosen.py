"""What AbsTopK and GroupMax share: an autoencoder of k features a row that differs from TopK in how it chooses them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.sae.archs.architecture import Architecture, Batch, Outcome, checked_k, outcome_of
from auditor.sae.archs.auxk import AuxKConfig, add_auxk, auxk
from auditor.sae.kernels.sparse import Columns, decode, sampled
from auditor.sae.parameters import Parameters
from auditor.sae.scaling import Scaling

# Rows whose pre-activations are held at a time.
_BLOCK_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class ChosenConfig(AuxKConfig):
    """`k`: features active on each row."""

    k: int


class Chosen(Architecture):
    """Mean over rows of ‖x' - x‖² + AuxK, x' = Σ_j z_j d_j + b_dec over the features that `choose` takes. Decoder rows
    have unit norm. On a CPU only the encoder product is dense.
    """

    config: ChosenConfig
    unit_rows = True

    def __init__(self, config: ChosenConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        self.k = self.active = checked_k(config.k, config.d_sae)

    def choose(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        """(activations, ids int64) [B, k] of pre-activations [B, d_sae]; an activation of 0 is silent."""
        raise TypeError(f"{type(self).__name__} chooses nothing")

    def revival(self, p: Parameters, batch: Batch, centred: Tensor, residual: Tensor) -> Tensor:
        """AuxK as autograd sees it."""
        return auxk(self.config, p, batch, centred, residual)

    def add_revival(self, p: Parameters, batch: Batch, centred: Tensor, residual: Tensor) -> Tensor:
        """Add the gradients of AuxK to those that are there, and give the loss."""
        return add_auxk(self.config, p, batch, centred, residual)

    def by_hand(self, parameters: Parameters, batch: Batch) -> Outcome | None:
        p = parameters
        if self.device.type != "cpu":
            return None
        centred = batch.x - p.b_dec
        parts = [self.choose(torch.addmm(p.b_enc, rows, p.encoder.T)) for rows in torch.split(centred, _BLOCK_ROWS)]
        values, ids = torch.cat([v for v, _ in parts]), torch.cat([i for _, i in parts])
        residual = decode(values, ids, p.decoder) - centred
        gradient = residual * (2 / len(centred))
        active = values != 0
        to_values = sampled(gradient, p.decoder, ids).mul_(active)
        columns = Columns.of(ids, p.d_sae)
        p.encoder.grad = columns.product(to_values, centred, torch.empty_like(p.encoder))
        p.decoder.grad = columns.product(values, gradient, torch.empty_like(p.decoder))
        p.b_enc.grad = torch.zeros(p.d_sae).index_add_(0, ids.flatten(), to_values.flatten())
        p.b_dec.grad = gradient.sum(0) - p.b_enc.grad @ p.encoder
        squared = residual.pow(2).sum()
        loss = squared / len(centred) + self.add_revival(p, batch, centred, residual)
        counts = torch.bincount(ids[active], minlength=p.d_sae)
        return Outcome(loss, squared, active.sum() / len(centred), counts)

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        p = parameters
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            centred = batch.x - p.b_dec
            pre = torch.addmm(p.b_enc, centred, p.encoder.T)
            values, ids = self.choose(pre)
            z = torch.zeros_like(pre).scatter(1, ids, values)
            residual = z @ p.decoder + p.b_dec - batch.x
        squared = residual.float().pow(2).sum()
        loss = squared / len(batch.x) + self.revival(p, batch, centred, residual)
        return outcome_of(loss, squared, z.detach() != 0)
