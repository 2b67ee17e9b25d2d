"""Loss and gradients of a JumpReLU dictionary on one batch on a CPU, sparse where its codes are sparse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.sae.kernels.blocks import Blocks
from auditor.sae.kernels.ragged import Ragged, sums
from auditor.sae.kernels.step import Buffers, Gradients, Step, squared

_pass_above = torch.ops.aten.threshold_backward.grad_input


@dataclass(frozen=True)
class StepPenalty:
    """λ L0, or λ (L0 / target - 1)² with a `target` above 0; L0 is the mean number of active features per row
    (Rajamanoharan et al. 2024, “Jumping Ahead”, eq. 9 and appendix)."""

    weight: float
    target: float = 0.0

    def value(self, l0: Tensor) -> Tensor:
        """What the weight multiplies."""
        return (l0 / self.target - 1).square() if self.target else l0

    def slope(self, l0: Tensor) -> float:
        """The penalty's derivative to L0."""
        return self.weight * (2 * (float(l0) / self.target - 1) / self.target if self.target else 1.0)


@dataclass(frozen=True)
class TanhPenalty:
    """λ Σ_i tanh(c z_i ‖d_i‖), mean over rows, with λ = `weight` and c = `scale` (Conerly et al., Circuits Updates
    January 2025)."""

    weight: float
    scale: float = 4.0


Penalty = StepPenalty | TanhPenalty


@dataclass
class _Batch:
    """What both paths read; `pull` [M] is the reluctance's gradient to a pre-activation, its sign turned."""

    centred: Tensor
    encoder: Tensor
    decoder: Tensor
    bias: Tensor
    threshold: Tensor
    norm: Tensor
    penalty: Penalty
    through: bool
    pull: Tensor | None


@dataclass
class _Sums:
    """What both paths give: gradients without the reluctance's at inactive entries and without those of norms;
    per feature [M] the entries active, those near the threshold, Σ over these of gradients to z, Σ_b tanh(c z ‖d‖),
    Σ_b of its derivative to ‖d‖, Σ over active entries of π - θ; the residual [B, D]."""

    gradients: Gradients
    counts: Tensor
    near: Tensor
    to_jump: Tensor
    tanh: Tensor
    to_norm: Tensor
    excess: Tensor
    residual: Tensor


class JumpReluStep:
    """1/B Σ_b ‖x'_b - x_b‖² + penalty + R and its gradients to encoder and decoder rows [M, D], b_enc, b_dec and θ [M],
    with π = (x - b_dec) W_enc + b_enc, z = π H(π - θ), x' = z D + b_dec.

    Thresholds learn by straight-through estimators: with K the rectangle of height 1 on |π - θ| < ε/2, ε = `bandwidth`,
    dz/dθ = -θ/ε K and dH/dθ = -1/ε K (Rajamanoharan et al. 2024, eq. 11 and 12). `through` gives the opposite of both
    to π, beside dz/dπ = H, so that all weights learn what moves across the threshold (Conerly et al. 2025).

    R = 1/B Σ_b Σ_i r_i ReLU(θ_i - π_bi) ‖d_i‖ pulls silent features up; r = `reluctance` [M] is λ_P for all (Conerly et
    al. 2025), or for dead ones only. Its gradient is not 0 almost everywhere, but over all entries it is a product of a
    column and a row, and only its part at active entries has to be taken out again.
    """

    def __init__(self, d_in: int, d_sae: int, bandwidth: float, spread: Tensor | None = None) -> None:
        self.bandwidth = bandwidth
        self._blocks, self._buffers = Blocks(d_sae, spread), Buffers(d_in, d_sae)

    def gradients(
        self, x: Tensor, encoder: Tensor, decoder: Tensor, b_enc: Tensor, b_dec: Tensor, threshold: Tensor,
        penalty: Penalty, through: bool = False, reluctance: Tensor | None = None,
    ) -> Step:
        """The step of x [B, D] with θ = `threshold`; a fifth gradient is to θ (times θ where log θ is learnt)."""
        size, norm = len(x), decoder.norm(dim=1)
        pull = None if reluctance is None else norm * reluctance / size
        batch = _Batch(x - b_dec, encoder, decoder, b_enc, threshold, norm, penalty, through, pull)
        entries = self._blocks.sparse(batch.centred, encoder, b_enc, threshold - self.bandwidth / 2)
        found = self._dense(batch) if entries is None else self._sparse(batch, entries)
        missed = squared(found.residual)
        to_threshold = found.to_jump * (-threshold / self.bandwidth)
        to_norm = torch.zeros_like(norm)
        if isinstance(penalty, StepPenalty):
            l0 = found.counts.sum() / size
            value = penalty.value(l0)
            to_threshold -= found.near * (penalty.slope(l0) / (size * self.bandwidth))
        else:
            value = found.tanh.sum() / size
            to_norm += found.to_norm * (penalty.weight / size)
        loss = missed / size + penalty.weight * value
        if reluctance is not None and pull is not None:
            below = self._reluctance(batch, found, pull, to_threshold) * reluctance / size
            loss, to_norm = loss + below @ norm, to_norm + below
        found.gradients.decoder.addcmul_(decoder, (to_norm / norm.clamp_min(1e-12))[:, None])
        gradients = (*found.gradients, to_threshold)
        return Step(loss, missed, value, gradients, found.counts.long(), batch.centred, found.residual)

    def _reluctance(self, batch: _Batch, found: _Sums, pull: Tensor, to_threshold: Tensor) -> Tensor:
        """Add R's gradients at all entries; give Σ_b ReLU(θ - π) [M]."""
        size, total = len(batch.centred), batch.centred.sum(0)
        found.gradients.encoder.addr_(pull, total, alpha=-1)
        found.gradients.b_enc.sub_(pull, alpha=size)
        found.gradients.b_dec.add_(pull @ batch.encoder, alpha=size)
        to_threshold += pull * (size - found.counts)
        return size * (batch.threshold - batch.bias) - batch.encoder @ total + found.excess

    def _sparse(self, b: _Batch, entries: Ragged) -> _Sums:
        size, half = len(b.centred), self.bandwidth / 2
        threshold = entries.of_each(b.threshold)
        above = entries.values - threshold
        active, near = (above > 0).float(), (above < half).float()
        z = entries.values * active
        residual = entries.decode(z, b.decoder).sub_(b.centred)
        to_z = entries.sampled(residual, b.decoder).mul_(2 / size)
        tanh = to_norm = excess = torch.zeros(())
        if isinstance(b.penalty, TanhPenalty):
            norm = entries.of_each(b.norm)
            bent = (z * norm).mul_(b.penalty.scale).tanh_()
            slope = (1 - bent * bent).mul_(b.penalty.scale)
            to_z.addcmul_(slope, norm, value=b.penalty.weight / size)
            tanh, to_norm = sums(entries, bent), sums(entries, slope.mul_(z))
        at_jump, counts = to_z * near, sums(entries, active)
        to_jump = sums(entries, at_jump)
        to_pre = to_z.mul_(active)
        if b.through:
            to_pre.addcmul_(at_jump, threshold, value=1 / self.bandwidth)
            if isinstance(b.penalty, StepPenalty):
                to_pre.add_(near, alpha=b.penalty.slope(counts.sum() / size) / (size * self.bandwidth))
        if b.pull is not None:
            to_pre.addcmul_(active, entries.of_each(b.pull))
            excess = sums(entries, above.mul_(active))
        gradients, _ = self._buffers.sparse(entries, z, to_pre, residual, b.centred, b.encoder)
        return _Sums(gradients, counts, sums(entries, near), to_jump, tanh, to_norm, excess, residual)

    def _dense(self, b: _Batch) -> _Sums:
        size, half, width = len(b.centred), self.bandwidth / 2, self.bandwidth
        totals, residual = self._buffers.dense(), torch.empty_like(b.centred)
        counts, near, to_jump, tanh, to_norm, excess = (torch.zeros_like(b.bias) for _ in range(6))
        slope = b.penalty.slope(self._l0(b)) if b.through and isinstance(b.penalty, StepPenalty) else 0.0
        for rows, z in self._blocks.scores(b.centred, b.encoder, b.bias):
            above, to_z, other, at_jump = (self._blocks.spare(place, len(z)) for place in range(4))
            torch.sub(z, b.threshold, out=above)
            _pass_above(z, above, 0, grad_input=z)
            to_out = torch.addmm(b.centred[rows], z, b.decoder, beta=-1, out=residual[rows]) * (2 / size)
            torch.mm(to_out, b.decoder.T, out=to_z)
            if isinstance(b.penalty, TanhPenalty):
                tanh += torch.mul(z, b.norm * b.penalty.scale, out=other).tanh_().sum(0)
                other.square_().neg_().add_(1)
                to_z.addcmul_(other, b.norm * (b.penalty.weight * b.penalty.scale / size))
                to_norm += other.mul_(z).mul_(b.penalty.scale).sum(0)
            counts += torch.sign(above, out=other).clamp_min_(0).sum(0)
            within = torch.abs(above, out=other).neg_().add_(half)
            _pass_above(to_z, within, 0, grad_input=at_jump)
            to_jump += at_jump.sum(0)
            near += within.sign_().clamp_min_(0).sum(0)
            if b.pull is not None:
                to_z += b.pull
            _pass_above(to_z, above, 0, grad_input=to_z)
            if b.pull is not None:
                excess += above.clamp_min_(0).sum(0)
            if b.through:
                to_z.addcmul_(at_jump, b.threshold, value=1 / width).add_(within, alpha=slope / (size * width))
            totals.add(z, to_z, to_out, b.centred[rows])
        return _Sums(totals.gradients(b.encoder), counts, near, to_jump, tanh, to_norm, excess, residual)

    def _l0(self, b: _Batch) -> Tensor:
        blocks = self._blocks.scores(b.centred, b.encoder, b.bias)
        return torch.stack([(z > b.threshold).sum() for _, z in blocks]).sum() / len(b.centred)
