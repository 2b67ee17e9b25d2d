"""Loss and gradients of a gated dictionary on one batch on a CPU, sparse where its codes are sparse."""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.sae.kernels.blocks import Blocks
from auditor.sae.kernels.ragged import Ragged, sums
from auditor.sae.kernels.step import Buffers, Gradients, Step, squared

_pass_above = torch.ops.aten.threshold_backward.grad_input


class GatedStep:
    """1/B Σ_b [‖x'(z_b) - x_b‖² + λ Σ_i ReLU(π_bi) + ‖x'(ReLU(π_b)) - x_b‖²], the last with x' held fixed, and its
    gradients to encoder and decoder rows [M, D], b_enc, b_dec, r and b_mag [M] (Rajamanoharan et al. 2024, “Improving
    Dictionary Learning with Gated Sparse Autoencoders”, eq. 8).

    With s = (x - b_dec) W_enc: π = s + b_enc, z = 1[π > 0] ReLU(s e^r + b_mag), x'(z) = z D + b_dec. A feature counts
    as active where z > 0; the penalty is that on π.
    """

    def __init__(self, d_in: int, d_sae: int, spread: Tensor | None = None) -> None:
        self._blocks, self._buffers = Blocks(d_sae, spread), Buffers(d_in, d_sae)

    def gradients(
        self, x: Tensor, encoder: Tensor, decoder: Tensor, b_enc: Tensor, b_dec: Tensor, r_mag: Tensor, b_mag: Tensor,
        l1: float,
    ) -> Step:
        """The step of x [B, D] with λ = `l1`; gradients five and six are to r and b_mag."""
        centred, stretch = x - b_dec, r_mag.exp()
        open_ = self._blocks.sparse(centred, encoder, b_enc, 0.0)
        if open_ is not None:
            sums_ = self._sparse(open_, centred, encoder, decoder, b_enc, stretch, b_mag, l1)
        else:
            sums_ = self._dense(centred, encoder, decoder, b_enc, stretch, b_mag, l1)
        found, to_gate, to_mag, along, counts, gate, residual, frozen = sums_
        missed, penalty = squared(residual), gate / len(x)
        loss = (missed + frozen) / len(x) + l1 * penalty
        # s = π - b_enc, so that Σ of gradients times s follows from that of gradients times π.
        gradients = (*found._replace(b_enc=to_gate), stretch * (along - b_enc * to_mag), to_mag)
        return Step(loss, missed, penalty, gradients, counts.long(), centred, residual)

    def _sparse(
        self, open_: Ragged, centred: Tensor, encoder: Tensor, decoder: Tensor, bias: Tensor, stretch: Tensor,
        b_mag: Tensor, l1: float,
    ) -> tuple[Gradients, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Gradients but for b_enc's, which is Σ to s; per feature Σ of gradients to π, to magnitudes, and of these
        times π, and counts; Σ ReLU(π); residual [B, D]; Σ of the frozen decoder's squared error."""
        gate, slope = open_.values, open_.of_each(stretch)
        z = (gate * slope).add_(open_.of_each(b_mag - bias * stretch)).relu_()
        residual = open_.decode(z, decoder).sub_(centred)
        through_gate = open_.decode(gate, decoder).sub_(centred)
        scale = 2 / len(centred)
        to_gate = open_.sampled(through_gate, decoder).mul_(scale).add_(l1 / len(centred))
        to_mag = open_.sampled(residual, decoder).mul_(scale).mul_(z > 0)
        gradients, _ = self._buffers.sparse(open_, z, to_mag * slope + to_gate, residual, centred, encoder)
        each = (sums(open_, values) for values in (to_gate, to_mag, to_mag * gate, (z > 0).float()))
        to_gates, to_mags, along, counts = each
        return gradients, to_gates, to_mags, along, counts, gate.sum(), residual, squared(through_gate)

    def _dense(
        self, centred: Tensor, encoder: Tensor, decoder: Tensor, bias: Tensor, stretch: Tensor, b_mag: Tensor, l1: float
    ) -> tuple[Gradients, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        size, totals, residual = len(centred), self._buffers.dense(), torch.empty_like(centred)
        to_gates, to_mags, along, counts = (torch.zeros_like(bias) for _ in range(4))
        opened, frozen = torch.zeros(()), torch.zeros(())
        for rows, gate in self._blocks.scores(centred, encoder, bias):
            z, to_gate, to_mag, other = (self._blocks.spare(place, len(gate)) for place in range(4))
            gate.relu_()
            torch.mul(gate, stretch, out=z).add_(b_mag - bias * stretch).relu_()
            _pass_above(z, gate, 0, grad_input=z)
            to_out = torch.addmm(centred[rows], z, decoder, beta=-1, out=residual[rows]) * (2 / size)
            through_gate = torch.addmm(centred[rows], gate, decoder, beta=-1)
            frozen += squared(through_gate)
            torch.mm(through_gate.mul_(2 / size), decoder.T, out=to_gate).add_(l1 / size)
            _pass_above(to_gate, gate, 0, grad_input=to_gate)
            _pass_above(torch.mm(to_out, decoder.T, out=to_mag), z, 0, grad_input=to_mag)
            to_gates += to_gate.sum(0)
            to_mags += to_mag.sum(0)
            along += torch.mul(to_mag, gate, out=other).sum(0)
            opened += gate.sum()
            totals.add(z, to_gate.addcmul_(to_mag, stretch), to_out, centred[rows])
            counts += z.sign_().sum(0)
        return totals.gradients(encoder), to_gates, to_mags, along, counts, opened, residual, frozen
