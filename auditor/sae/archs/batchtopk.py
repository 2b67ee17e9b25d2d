"""BatchTopK features: k active ones per row on average over the batch, so that hard rows may have more (Bussmann et al.
2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae.archs.architecture import (
    Architecture,
    Batch,
    Outcome,
    folded,
    growth,
    outcome_of,
    outcome_of_step,
    unit_decoder_gradient,
    unit_decoder_rows,
)
from auditor.sae.archs.auxk import add_auxk, auxk
from auditor.sae.clt import Dictionary
from auditor.sae.kernels.batchtopk_step import BatchTopKStep
from auditor.sae.kernels.blocks import spread_of
from auditor.sae.parameters import Parameters, leaves
from auditor.sae.sae import Sae
from auditor.sae.scaling import Scaling
from auditor.sae.train_config import TrainConfig

# Batches whose smallest kept activation still counts in the threshold.
_MEMORY = 20
_SAMPLE_ROWS = 1024


class BatchTopK(Architecture):
    """Mean over rows of ‖x' - x‖² + AuxK, with only the B k largest of the batch's ReLU pre-activations active
    (Bussmann et al. 2024, eq. 4 and 5). Decoder rows have unit norm.

    The finished dictionary encodes each row by itself, as JumpReLU with one threshold for all features: the mean over
    recent batches of the smallest activation kept (eq. 7). Micro-batches choose within each piece, so where memory is
    short the choice is over fewer rows.
    """

    continues = ("jumprelu",)
    # Counts of features that must reconstruct on their own, where there are any.
    widths: Sequence[int] = ()

    def __init__(self, config: TrainConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        if config.k > config.d_sae:
            raise AuditorError(
                f"{config.k} active features were asked of a dictionary of {config.d_sae}.", "Choose a smaller k."
            )
        self.k = config.k
        self._sample = sample.x[:_SAMPLE_ROWS]
        self._threshold, self._seen = torch.zeros((), device=device), 0
        # The smallest kept activation of each piece of the batch under way.
        self._least: list[Tensor] = []
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
        self._threshold, self._seen = threshold.mean().to(self.device), _MEMORY
        return leaves(tensors, self.device)

    def by_hand(self, parameters: Parameters, batch: Batch) -> Outcome | None:
        p = parameters
        if self.device.type != "cpu":
            return None
        if self._step is None:
            self._step = BatchTopKStep(batch.x.shape[1], p.d_sae, self.k, self.widths, self._spread)
        done = self._step.gradients(batch.x, p.encoder, p.decoder, p.b_enc, p.b_dec)
        self._least.append(torch.tensor(self._step.least or torch.inf))
        outcome = outcome_of_step(p, done)
        outcome.loss = done.loss + add_auxk(self.config, p, batch, done.centred, done.residual)
        return outcome

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        p = parameters
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            centred = batch.x - p.b_dec
            z, least = self.kept(torch.addmm(p.b_enc, centred, p.encoder.T))
            missed, residual = self.missed(p, z, batch.target)
        self._least.append(least)
        loss = missed / len(batch.x) + auxk(self.config, p, batch, centred, residual)
        return outcome_of(loss, residual.detach().pow(2).sum(), z.detach() > 0)

    def kept(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        """Activations [B, d_sae] that pre-activations give, and the smallest that is not 0 (infinity if all are)."""
        values, places = pre.flatten().topk(len(pre) * self.k, sorted=False)
        values = values.relu()
        z = torch.zeros_like(pre).flatten().scatter(0, places, values).view_as(pre)
        return z, torch.where(values.detach() > 0, values.detach(), torch.inf).amin().float()

    def missed(self, p: Parameters, z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The summed squared error that is to fall, and x' - x [B, d_in]."""
        residual = z @ p.decoder + p.b_dec - target
        return residual.pow(2).sum(), residual

    def before_update(self, parameters: Parameters) -> None:
        unit_decoder_gradient(parameters)

    def after_update(self, parameters: Parameters) -> None:
        unit_decoder_rows(parameters)

    def observe(self, parameters: Parameters, batch: Batch, outcome: Outcome) -> None:
        least = torch.stack(self._least).mean()
        self._least.clear()
        weight = max(1 / (self._seen + 1), 1 / _MEMORY)
        moved = torch.lerp(self._threshold, least, weight)
        self._threshold = torch.where(torch.isfinite(least), moved, self._threshold)
        self._seen += 1

    def state(self) -> dict[str, Any]:
        return {"threshold": float(self._threshold), "seen": self._seen}

    def restore(self, state: dict[str, Any]) -> None:
        self._threshold = torch.tensor(state["threshold"], device=self.device)
        self._seen = state["seen"]

    @torch.no_grad()
    def finish(self, parameters: Parameters) -> Sae:
        p, threshold = parameters, self._threshold
        if not self._seen:
            threshold = self.kept(torch.addmm(p.b_enc, self._sample.to(self.device) - p.b_dec, p.encoder.T))[1]
        return Sae("jumprelu", **folded(p, self.scaling), threshold=threshold.cpu() * growth(p, self.scaling))
