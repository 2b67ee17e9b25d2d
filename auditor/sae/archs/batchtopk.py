"""BatchTopK features: k active ones per row on average over the batch, so that hard rows may have more (Bussmann et al.
2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae.archs.architecture import (
    Architecture,
    Batch,
    Outcome,
    checked_k,
    folded,
    growth,
    outcome_of,
    outcome_of_step,
)
from auditor.sae.archs.auxk import AuxKConfig, add_auxk, auxk
from auditor.sae.clt import Dictionary
from auditor.sae.kernels.batchtopk_step import BatchTopKStep
from auditor.sae.kernels.blocks import spread_of
from auditor.sae.parameters import Parameters, leaves
from auditor.sae.sae import Sae
from auditor.sae.scaling import Scaling

# Pre-activations held at a time while the threshold is found.
_HELD = 1 << 21


@dataclass(frozen=True, kw_only=True)
class BatchTopKConfig(AuxKConfig):
    """`k`: features active on a row, on average over the batch; `product`: how the active ones are found on a CPU
    (`kernels.product`)."""

    k: int
    product: str


class BatchTopK(Architecture):
    """Mean over rows of ‖x' - x‖² + AuxK, with only the B k largest of the batch's ReLU pre-activations active
    (Bussmann et al. 2024, eq. 4 and 5). Decoder rows have unit norm.

    The finished dictionary encodes each row by itself, as JumpReLU with one threshold for all features: the smallest
    activation kept when k per row are chosen among `sample`. (Eq. 7 takes the mean of this over training's batches,
    whose weights were others.) Micro-batches choose within each piece: where memory is short, among fewer rows.
    """

    name = "batchtopk"
    config: BatchTopKConfig
    config_class: ClassVar[type[BatchTopKConfig]] = BatchTopKConfig
    continues = ("jumprelu",)
    unit_rows = True
    # Counts of features that must reconstruct on their own, where there are any.
    widths: Sequence[int] = ()

    def __init__(self, config: BatchTopKConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        self.k = self.active = checked_k(config.k, config.d_sae)
        self._sample = sample.x
        self._spread = spread_of(config.product, sample.x)
        self._step: BatchTopKStep | None = None

    def adopt(self, sae: Dictionary) -> Parameters:
        tensors = self.adopted(sae)
        threshold = tensors.pop("threshold")
        if bool((threshold - threshold.mean()).abs().max() > 1e-3 * threshold.mean()):
            raise AuditorError(
                "The dictionary to start from has a threshold for each feature, and BatchTopK has one for all.",
                "Train it on as JumpReLU.",
            )
        return leaves(tensors, self.device)

    def by_hand(self, parameters: Parameters, batch: Batch) -> Outcome | None:
        p = parameters
        if self.device.type != "cpu":
            return None
        if self._step is None:
            self._step = BatchTopKStep(batch.x.shape[1], p.d_sae, self.k, self.widths, self._spread)
        done = self._step.gradients(batch.x, p.encoder, p.decoder, p.b_enc, p.b_dec)
        outcome = outcome_of_step(p, done)
        outcome.loss = done.loss + add_auxk(self.config, p, batch, done.centred, done.residual)
        return outcome

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        p = parameters
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            centred = batch.x - p.b_dec
            z = self.kept(torch.addmm(p.b_enc, centred, p.encoder.T))
            missed, residual = self.missed(p, z, batch.target)
        loss = missed / len(batch.x) + auxk(self.config, p, batch, centred, residual)
        return outcome_of(loss, residual.detach().pow(2).sum(), z.detach() > 0)

    def kept(self, pre: Tensor) -> Tensor:
        """Activations [B, d_sae] that pre-activations give."""
        values, places = pre.flatten().topk(len(pre) * self.k, sorted=False)
        return torch.zeros_like(pre).flatten().scatter(0, places, values.relu()).view_as(pre)

    def missed(self, p: Parameters, z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The summed squared error that is to fall, and x' - x [B, d_in]."""
        residual = z @ p.decoder + p.b_dec - target
        return residual.pow(2).sum(), residual

    def finish(self, parameters: Parameters) -> Sae:
        threshold = least_kept(self._sample, parameters, self.k)
        return Sae(
            "jumprelu", **folded(parameters, self.scaling), threshold=threshold * growth(parameters, self.scaling)
        )


@torch.no_grad()
def least_kept(x: Tensor, p: Parameters, k: int) -> float:
    """What the k len(x) largest pre-activations of the rows x [n, d_in] alone exceed; 0 where fewer are positive."""
    wanted, best = k * len(x), torch.empty(0, device=p.encoder.device)
    for rows in torch.split(x, max(1, _HELD // p.d_sae)):
        pre = torch.addmm(p.b_enc, rows.to(p.encoder.device) - p.b_dec, p.encoder.T).flatten()
        least = best.min() if len(best) > wanted else 0.0
        best = torch.cat([best, pre[pre > least]])
        best = best.topk(min(len(best), wanted + 1), sorted=False).values
    if len(best) <= wanted:
        return 0.0
    # Halfway to the next one, so that rounding in folded weights lets neither of them over.
    return float(best.topk(2, largest=False).values.clamp_min(0).mean())
