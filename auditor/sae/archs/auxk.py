"""AuxK, the loss that revives dead features (Gao et al. 2024, section A.2): they reconstruct what the others miss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.sae.archs.architecture import ArchConfig, Batch
from auditor.sae.parameters import Parameters


@dataclass(frozen=True, kw_only=True)
class AuxKConfig(ArchConfig):
    """`auxk_alpha`: weight of this loss, 0 for none; `auxk_rows`: rows of each batch that it looks at."""

    auxk_alpha: float
    auxk_rows: int


def auxiliary(
    alpha: float, centred: Tensor, missing: Tensor, encoder: Tensor, decoder: Tensor, bias: Tensor,
    dead: Tensor | None = None,
) -> Tensor:
    """α mean over rows of ‖e' - e‖², e' [n, d_out] the reconstruction of e = `missing` by the d_in/2 most active
    features; of all those given, or of those marked in `dead` [m]."""
    pre = torch.addmm(bias, centred, encoder.T)
    if dead is not None:
        pre = pre.masked_fill(~dead, -torch.inf)
    values, ids = pre.topk(min(centred.shape[1] // 2 or 1, len(encoder)), dim=1, sorted=False)
    z = torch.zeros_like(pre).scatter(1, ids, values.relu())
    return alpha * (z @ decoder - missing).float().pow(2).sum() / len(centred)


def auxk(config: AuxKConfig, p: Parameters, batch: Batch, centred: Tensor, residual: Tensor) -> Tensor:
    """The loss as autograd sees it, on the first `auxk_rows` of `centred` [B, d_in] and `residual` x' - x [B, d_out];
    0 where no feature is dead."""
    rows = slice(0, config.auxk_rows)
    missing = -residual[rows].detach()
    if not config.auxk_alpha:
        return torch.zeros((), device=batch.x.device)
    if batch.x.is_cuda:
        # Dense over all features: to ask which are dead would make the step wait for the device.
        with torch.autocast("cuda", torch.bfloat16):
            loss = auxiliary(config.auxk_alpha, centred[rows], missing, p.encoder, p.decoder, p.b_enc, batch.dead)
        return loss * batch.dead.any()
    who = batch.dead.nonzero().squeeze(1)
    if not len(who):
        return torch.zeros(())
    return auxiliary(config.auxk_alpha, centred[rows], missing, p.encoder[who], p.decoder[who], p.b_enc[who])


def add_auxk(config: AuxKConfig, p: Parameters, batch: Batch, centred: Tensor, residual: Tensor) -> Tensor:
    """Add the gradients of `auxk` to `.grad` of encoder, decoder and b_enc, touching dead features only; and to b_dec's
    where `centred` is less b_dec, which is where batch and target are one. Give the loss."""
    who = batch.dead.nonzero().squeeze(1)
    if not config.auxk_alpha or not len(who):
        return torch.zeros(())
    rows = slice(0, config.auxk_rows)
    tensors = (p.encoder, p.decoder, p.b_enc)
    with torch.enable_grad():
        leaves = [t.detach()[who].requires_grad_() for t in tensors]
        read = centred[rows].detach().requires_grad_()
        loss = auxiliary(config.auxk_alpha, read, -residual[rows], *leaves)
        *grads, to_centred = torch.autograd.grad(loss, [*leaves, read])
    for tensor, gradient in zip(tensors, grads, strict=True):
        assert tensor.grad is not None
        tensor.grad.index_add_(0, who, gradient)
    if batch.target is batch.x:
        assert p.b_dec.grad is not None
        p.b_dec.grad -= to_centred.sum(0)
    return loss.detach()
