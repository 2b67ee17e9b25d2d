"""The fused step's arithmetic in plain torch, rounding where the kernels round: what they are tested against, and what
runs where Triton is missing."""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.sae.kernels.cuda.state import Outcome, Settings, State


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest positive entries of scores bfloat16 [R, M]: values, and ids int64 rising, both [R, k].

    Ties go to the lower id. Places left over, where fewer than k are positive, get value 0 and id M.
    """
    rows, width = scores.shape
    key = scores.view(torch.int16).to(torch.int64)
    key = key.masked_fill((key < 0) | (key > 0x7F80), 0)
    column = torch.arange(width, device=scores.device)
    best = ((key << 32) + (width - column)).topk(min(k, width), dim=1)[0]
    ids = torch.where(best >> 32 > 0, width - (best & 0xFFFFFFFF), width).sort(dim=1)[0]
    ids = torch.cat([ids, ids.new_full((rows, k - ids.shape[1]), width)], 1)
    values = scores.gather(1, ids.clamp_max(width - 1)).masked_fill(ids == width, 0)
    return values, ids


@torch.no_grad()
def reference_step(state: State, settings: Settings, x: Tensor, lr: float, silent: Tensor, room: int) -> Outcome:
    """One step on x [B, D] with learning rate `lr`; `silent` int64 [M] counts rows since each feature fired.

    The loss is the mean over rows of ‖x' - x‖² + α ‖e' - e‖² (Gao et al. 2024, section 2.3 and A.2), with up to `room`
    dead features.
    """
    k, rows, alpha = settings.k, len(x), settings.auxk_alpha
    scaled = x.float() * settings.scale
    centred = (scaled - state.b_dec).bfloat16()
    scores = torch.addmm(state.b_enc_half, centred, state.encoder_half.T)
    half, ids = largest(scores, k)
    values, there = half.float(), ids < len(state.b_enc)
    ids = ids.clamp_max(len(state.b_enc) - 1)  # where nothing was found the value is 0
    decoder, inputs = state.decoder_half.float(), centred.float()
    residual = state.b_dec - scaled
    for j in range(k):
        residual += values[:, j, None] * decoder[ids[:, j]]
    squared = residual.square().sum()
    gradient = (residual * (2 / rows)).bfloat16().float()
    to_encoder, to_decoder = torch.zeros_like(state.encoder), torch.zeros_like(state.decoder)
    to_b_enc = torch.zeros_like(state.b_enc)
    for j in range(k):
        to_value = (gradient * decoder[ids[:, j]]).sum(1) * there[:, j]
        to_encoder.index_add_(0, ids[:, j], to_value[:, None] * inputs)
        to_decoder.index_add_(0, ids[:, j], values[:, j, None] * gradient)
        to_b_enc.index_add_(0, ids[:, j], to_value)
    counts = torch.zeros(len(state.b_enc), dtype=torch.int32, device=x.device)
    counts.index_add_(0, ids.flatten(), there.flatten().to(torch.int32))
    loss, dead = squared / rows, silent > settings.dead_after
    who = dead.nonzero().squeeze(1)[:room] if alpha else silent.new_empty(0)
    if len(who):
        some = slice(0, settings.auxk_rows)
        extra, *grads = _auxiliary(state, who, centred[some], -residual[some], alpha)
        loss = loss + extra
        for total, part in zip((to_encoder, to_decoder, to_b_enc), grads, strict=True):
            total.index_add_(0, who, part.float())
    finite = torch.isfinite(loss)
    if bool(finite):
        to_b_dec = gradient.sum(0) - to_b_enc @ state.encoder_half.float()
        gradients = {"encoder": to_encoder, "decoder": to_decoder, "b_enc": to_b_enc, "b_dec": to_b_dec}
        _update(state, settings, gradients, lr)
        silent += rows
        silent.masked_fill_(counts > 0, 0)
    return Outcome(loss, squared, there.sum() / rows, counts, finite, dead.sum())


def _auxiliary(state: State, who: Tensor, centred: Tensor, missing: Tensor, alpha: float) -> tuple[Tensor, ...]:
    """AuxK's loss and its gradients to the encoder rows, decoder rows and b_enc of the dead features `who`."""
    rows, d = missing.shape
    encoder, decoder = state.encoder_half[who], state.decoder_half[who]
    scores = torch.addmm(state.b_enc_half[who], centred, encoder.T)
    values, ids = largest(scores, max(1, d // 2))
    z = scores.new_zeros(rows, len(who) + 1).scatter_(1, ids, values)[:, :-1]
    off = (z @ decoder).float() - missing
    gradient = (off * (2 * alpha / rows)).bfloat16()
    to_z = (gradient @ decoder.T) * (z > 0)
    return alpha * off.square().sum() / rows, to_z.T @ centred, z.T @ gradient, to_z.float().sum(0)


def _update(state: State, settings: Settings, gradients: dict[str, Tensor], lr: float) -> None:
    """Adam (Kingma & Ba 2015) in place, decoder rows kept at unit norm."""
    one, less_one, two, less_two, eps = settings.constants
    clock = state.clock
    clock.copy_(clock * clock.new_tensor([1, *settings.betas]) + clock.new_tensor([1, 0, 0]))
    rate, root = (lr / (1 - clock[1])).float(), (1 / (1 - clock[2]).sqrt()).float()
    decoder, gradient = state.decoder, gradients["decoder"]
    gradient -= decoder * (gradient * decoder).sum(1, keepdim=True)
    weights = {"encoder": state.encoder, "decoder": decoder, "b_enc": state.b_enc, "b_dec": state.b_dec}
    for name, gradient in gradients.items():
        first = state.first[name].float() * one + gradient * less_one
        state.second[name].mul_(two).add_(gradient * gradient * less_two)
        weights[name] -= rate * first / (state.second[name].sqrt() * root + eps)
        state.first[name].copy_(first)
    decoder /= decoder.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
    state.refresh()
