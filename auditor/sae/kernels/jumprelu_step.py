"""Loss and gradients of a JumpReLU dictionary on one batch on a CPU, sparse where its codes are sparse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.sae.kernels.blocks import Blocks
from auditor.sae.kernels.ragged import sums
from auditor.sae.kernels.step import MOST_SPARSE, Buffers, Gradients, Step

_pass_above = torch.ops.aten.threshold_backward.grad_input


@dataclass(frozen=True)
class StepPenalty:
    """λ L0, or λ (L0 / target - 1)² with a `target` above 0; L0 the mean number of active features per row
    (Rajamanoharan et al. 2024, eq. 9 and appendix)."""

    weight: float
    target: float = 0.0

    def value(self, l0: Tensor) -> Tensor:
        """What the weight multiplies."""
        return (l0 / self.target - 1).square() if self.target else l0

    def slope(self, l0: float) -> float:
        """Its derivative to L0, times the weight."""
        return self.weight * (2 * (l0 / self.target - 1) / self.target if self.target else 1.0)


@dataclass(frozen=True)
class TanhPenalty:
    """λ_S Σ_i tanh(c z_i ‖d_i‖) + λ_P Σ_i ReLU(θ_i - pre_i) ‖d_i‖, mean over rows, with λ_S = `weight`, c = `scale`,
    λ_P = `pre_act`; its gradients reach all parameters (Conerly et al., Anthropic, January 2025)."""

    weight: float
    scale: float = 4.0
    pre_act: float = 3e-6


Penalty = StepPenalty | TanhPenalty


@dataclass
class _Sums:
    """Of one batch: gradients to encoder, decoder, biases that are yet without what depends on norms and thresholds;
    per feature [M]: entries active, entries in the window, Σ of gradients to z in it, Σ_b tanh(c z ‖d‖),
    Σ_b of its derivative to ‖d‖, Σ_b over active (θ - pre)."""

    gradients: Gradients
    counts: Tensor
    near: Tensor
    to_jump: Tensor
    tanh: Tensor
    to_norm: Tensor
    excess: Tensor
    residual: Tensor


class JumpReluStep:
    """1/B Σ_b ‖x'_b - x_b‖² + penalty, z = pre · H(pre - θ), pre = (x - b_dec) W_enc + b_enc, x' = z D + b_dec, and its
    gradients to encoder and decoder rows [M, D], b_enc, b_dec and θ [M].

    H has derivative 0 but towards thresholds, where straight-through estimators with the rectangle kernel K (1 within
    ± 1/2) of width ε stand in: ∂z/∂θ = -θ/ε K((pre - θ)/ε) and ∂H/∂θ = -1/ε K((pre - θ)/ε) (Rajamanoharan et al. 2024,
    eq. 11 and 12). tanh'(0) = 1 counts for features in the kernel that are not active.
    """

    def __init__(self, d_in: int, d_sae: int, bandwidth: float) -> None:
        self.bandwidth = bandwidth
        self._blocks, self._buffers = Blocks(d_sae), Buffers(d_in, d_sae)

    def gradients(
        self,
        x: Tensor, encoder: Tensor, decoder: Tensor, b_enc: Tensor, b_dec: Tensor, threshold: Tensor, penalty: Penalty,
    ) -> Step:
        """The step of x [B, D] with θ = `threshold` [M]; its gradients have a fifth, to θ (times θ where log θ is
        learnt)."""
        batch, centred, norm = len(x), x - b_dec, decoder.norm(dim=1)
        lowest = threshold - self.bandwidth / 2
        share = self._blocks.share(centred, encoder, b_enc, lowest)
        path = self._sparse if share < MOST_SPARSE else self._dense
        found = path(centred, encoder, decoder, b_enc, threshold, norm, penalty)
        to_threshold = found.to_jump * (-threshold / self.bandwidth)
        squared = found.residual.pow(2).sum()
        loss = squared / batch
        if isinstance(penalty, StepPenalty):
            l0 = found.counts.sum() / batch
            to_threshold -= found.near * (penalty.slope(float(l0)) / (batch * self.bandwidth))
            value = penalty.value(l0)
            loss = loss + penalty.weight * value
        else:
            value = found.tanh.sum() / batch
            loss = loss + penalty.weight * value
            loss = loss + self._tanh(found, centred, encoder, decoder, b_enc, threshold, norm, penalty, to_threshold)
        gradients = (*found.gradients, to_threshold)
        return Step(loss, squared, value, gradients, found.counts.long(), centred, found.residual)

    def _tanh(
        self, found: _Sums, centred: Tensor, encoder: Tensor, decoder: Tensor, bias: Tensor, threshold: Tensor,
        norm: Tensor, penalty: TanhPenalty, to_threshold: Tensor,
    ) -> Tensor:
        """Add the gradients through norms and the pre-activation loss; give that loss.

        That loss has a gradient at every entry that is not active. Over all entries it is a product of a column and a
        row; the sums over active entries have already taken out theirs.
        """
        batch, total = len(centred), centred.sum(0)
        below = batch * (threshold - bias) - encoder @ total - found.excess
        share = norm * (penalty.pre_act / batch)
        found.gradients.encoder.addr_(share, total, alpha=-1)
        found.gradients.b_enc.sub_(share, alpha=batch)
        found.gradients.b_dec.add_(share @ encoder, alpha=batch)
        to_threshold += share * (batch - found.counts)
        to_norm = found.to_norm * (penalty.weight / batch) + below * (penalty.pre_act / batch)
        found.gradients.decoder.addcmul_(decoder, (to_norm / norm.clamp_min(1e-12))[:, None])
        return penalty.pre_act * (below @ norm) / batch

    def _sparse(
        self, centred: Tensor, encoder: Tensor, decoder: Tensor, bias: Tensor, threshold: Tensor, norm: Tensor,
        penalty: Penalty,
    ) -> _Sums:
        batch, half = len(centred), self.bandwidth / 2
        entries = self._blocks.above(centred, encoder, bias, threshold - half)
        above = entries.values - entries.of_each(threshold)
        active, near = (above > 0).float(), (above < half).float()
        z = entries.values * active
        residual = entries.decode(z, decoder).sub_(centred)
        to_out = residual * (2 / batch)
        to_z = entries.sampled(to_out, decoder)
        none = torch.zeros(())
        tanh = to_norm = excess = none
        to_pre = to_z
        if isinstance(penalty, TanhPenalty):
            each = entries.of_each(norm)
            bent = (z * each).mul_(penalty.scale).tanh_()
            slope = (1 - bent * bent).mul_(penalty.scale)
            to_z.addcmul_(slope, each, value=penalty.weight / batch)
            to_pre = to_z.add(each, alpha=penalty.pre_act / batch)
            tanh, to_norm = sums(entries, bent), sums(entries, slope * z)
            excess = -sums(entries, above * active)
        to_jump = sums(entries, to_z * near)
        gradients, _ = self._buffers.sparse(entries, z, to_pre * active, to_out, centred, encoder)
        counts = sums(entries, active)
        return _Sums(gradients, counts, sums(entries, near), to_jump, tanh, to_norm, excess, residual)

    def _dense(
        self, centred: Tensor, encoder: Tensor, decoder: Tensor, bias: Tensor, threshold: Tensor, norm: Tensor,
        penalty: Penalty,
    ) -> _Sums:
        batch, half = len(centred), self.bandwidth / 2
        totals, residual = self._buffers.dense(), torch.empty_like(centred)
        counts, near, to_jump, tanh, to_norm, excess = (torch.zeros_like(bias) for _ in range(6))
        for rows, z in self._blocks.scores(centred, encoder, bias):
            above, to_z, other = (self._blocks.spare(place, len(z)) for place in range(3))
            torch.sub(z, threshold, out=above)
            _pass_above(z, above, 0, grad_input=z)
            to_out = torch.addmm(centred[rows], z, decoder, beta=-1, out=residual[rows]) * (2 / batch)
            torch.mm(to_out, decoder.T, out=to_z)
            if isinstance(penalty, TanhPenalty):
                tanh += torch.mul(z, norm * penalty.scale, out=other).tanh_().sum(0)
                other.square_().neg_().add_(1)
                to_z.addcmul_(other, norm * (penalty.weight * penalty.scale / batch))
                to_norm += other.mul_(z).mul_(penalty.scale).sum(0)
                excess -= torch.clamp_min(above, 0, out=other).sum(0)
            counts += torch.sign(above, out=other).clamp_min_(0).sum(0)
            within = torch.abs(above, out=other).neg_().add_(half)
            to_jump += _pass_above(to_z, within, 0, grad_input=self._blocks.spare(3, len(z))).sum(0)
            near += within.sign_().clamp_min_(0).sum(0)
            if isinstance(penalty, TanhPenalty):
                to_z += norm * (penalty.pre_act / batch)
            _pass_above(to_z, above, 0, grad_input=to_z)
            totals.add(z, to_z, to_out, centred[rows])
        return _Sums(totals.gradients(encoder), counts, near, to_jump, tanh, to_norm, excess, residual)
