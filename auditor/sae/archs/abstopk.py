"""AbsTopK: features with two sides, the k largest by magnitude with their signs (Zhu et al. 2025, arXiv 2510.00404)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae import conventions
from auditor.sae.archs.architecture import Batch, folded
from auditor.sae.archs.auxk import auxiliary
from auditor.sae.archs.chosen import Chosen, ChosenConfig
from auditor.sae.clt import Dictionary
from auditor.sae.kernels.select import top_k
from auditor.sae.parameters import Parameters
from auditor.sae.sae import Sae


class AbsTopKConfig(ChosenConfig):
    """`k`: features active on each row, on either side."""


class AbsTopK(Chosen):
    """Mean over rows of ‖x' - x‖² + AuxK, where z keeps the k entries of (x - b_dec) W_enc + b_enc that are largest by
    magnitude, with their signs: the proximal step of an ℓ0 constraint without one on signs (Zhu et al. 2025). Dead
    features revive by magnitude, too.

    `d_sae` counts features with two sides. The finished dictionary says the same with twice as many of one side each:
    i and i + d_sae are the sides of one, at most one of which is active, so that the k largest are the same.
    """

    name = "abstopk"
    config_class = AbsTopKConfig
    continues = ("topk",)

    def choose(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        _, ids = top_k(pre.abs(), self.k)
        return pre.gather(1, ids), ids

    def revival(self, p: Parameters, batch: Batch, centred: Tensor, residual: Tensor) -> Tensor:
        if not self.config.auxk_alpha:
            return torch.zeros((), device=batch.x.device)
        rows = slice(0, self.config.auxk_rows)
        tensors = (p.encoder, p.decoder, p.b_enc)
        if not batch.x.is_cuda:
            who = batch.dead.nonzero().squeeze(1)
            if not len(who):
                return torch.zeros(())
            tensors = (p.encoder[who], p.decoder[who], p.b_enc[who])
        encoder, decoder, bias = (torch.cat([tensor, -tensor]) for tensor in tensors)
        missing, dead = -residual[rows].detach(), None
        if batch.x.is_cuda:  # to ask which are dead would make the step wait for the device
            dead = torch.cat([batch.dead, batch.dead])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=batch.x.is_cuda):
            loss = auxiliary(self.config.auxk_alpha, centred[rows], missing, encoder, decoder, bias, dead)
        return loss if dead is None else loss * batch.dead.any()

    def add_revival(self, p: Parameters, batch: Batch, centred: Tensor, residual: Tensor) -> Tensor:
        with torch.enable_grad():
            loss = self.revival(p, batch, batch.x - p.b_dec, residual)
        if loss.requires_grad:
            four = p.named().values()
            for tensor, gradient in zip(four, torch.autograd.grad(loss, [*four]), strict=True):
                assert tensor.grad is not None
                tensor.grad += gradient
        return loss.detach()

    def adopted(self, sae: Dictionary) -> dict[str, Tensor]:
        if isinstance(sae, Sae) and sae.arch in self.continues:
            half = conventions.one_side({name: sae.tensors()[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")})
            if half is None:
                raise AuditorError(
                    "The dictionary to start from is not one of features with two sides.", "Train it on as TopK."
                )
            sides: dict[str, Any] = {**half}
            sae = replace(sae, **sides, k=min(self.k, len(half["b_enc"])))
        return super().adopted(sae)

    def finish(self, parameters: Parameters) -> Sae:
        fields = folded(parameters, self.scaling)
        return Sae("topk", **(fields | conventions.signed(fields)), k=self.k)
