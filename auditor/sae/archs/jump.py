"""The jump that lets thresholds learn: JumpReLU and the count of active features, with the gradients that a smoothed
jump would have (Rajamanoharan et al. 2024, “Jumping Ahead”, eq. 10 to 12)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from auditor.sae.archs.architecture import folded, growth
from auditor.sae.parameters import Parameters
from auditor.sae.scaling import Scaling


class Jump(torch.autograd.Function):
    """z = π H(π - θ) for pre-activations π [B, M] and log θ [M]; with K the rectangle of width ε around 0,

    dz/dθ = -(θ / ε) K((π - θ) / ε), and dz/dπ = H(π - θ), to which `through` adds (θ / ε) K, so that all weights learn
    what moves across the threshold (Conerly et al. 2025), not the threshold alone.
    """

    @staticmethod
    def forward(ctx: Any, pre: Tensor, log_threshold: Tensor, bandwidth: float, through: bool) -> Tensor:
        threshold = log_threshold.exp()
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth, ctx.through = bandwidth, through
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        pre, threshold = ctx.saved_tensors
        (gradient,) = gradients
        at_jump = gradient * _near(pre, threshold, ctx.bandwidth) * threshold
        to_pre = gradient * (pre > threshold)
        return (to_pre + at_jump if ctx.through else to_pre), -at_jump.sum(0) * threshold, None, None


class Active(torch.autograd.Function):
    """Σ_i H(π_i - θ_i) for each row, [B]; dH/dθ = -K / ε, and `through` gives the opposite to π."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, log_threshold: Tensor, bandwidth: float, through: bool) -> Tensor:
        threshold = log_threshold.exp()
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth, ctx.through = bandwidth, through
        return (pre > threshold).sum(1).to(threshold.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        pre, threshold = ctx.saved_tensors
        at_jump = gradients[0][:, None] * _near(pre, threshold, ctx.bandwidth)
        return (at_jump if ctx.through else None), -at_jump.sum(0) * threshold, None, None


def _near(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return ((pre - threshold).abs() < bandwidth / 2) / bandwidth


def reluctance(pre: Tensor, threshold: Tensor, weights: Tensor, dead: Tensor) -> Tensor:
    """Mean over rows of Σ_i ReLU(θ_i - π_i) w_i over the features that are `dead`, [d_sae] each: pulls them up until
    they fire (Conerly et al. 2025)."""
    return ((threshold - pre).relu() @ (weights * dead)).mean()


def spread(sample: Tensor, centre: Tensor) -> float:
    """A typical activation: root mean square of rows [n, d] less `centre` along a direction."""
    return float((sample - centre).pow(2).mean().sqrt())


def jumping(p: Parameters, scaling: Scaling) -> dict[str, Any]:
    """W_enc … b_dec and threshold, as fields of a `Sae` of kind jumprelu."""
    threshold = p.more["log_threshold"].detach().exp().cpu() * growth(p, scaling)
    return {**folded(p, scaling), "threshold": threshold}
