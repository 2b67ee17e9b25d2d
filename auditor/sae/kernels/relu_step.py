"""Loss and gradients of a ReLU dictionary on one batch on a CPU, sparse where its codes are sparse."""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.sae.kernels.blocks import Blocks
from auditor.sae.kernels.ragged import Ragged, sums
from auditor.sae.kernels.step import Buffers, Gradients, Step, squared


class ReluStep:
    """1/B Σ_b ‖x'_b - x_b‖² + λ P with P = 1/B Σ_b Σ_i z_bi^p ‖d_i‖, z = ReLU((x - b_dec) W_enc + b_enc),
    x' = z D + b_dec, and its gradients, for encoder and decoder rows [M, D].

    p = 1 is the decoder-norm-weighted L1 of Conerly et al. 2024; p below 1, lowered while training, the p-annealing of
    Karvonen et al. 2024 (eq. 3) with the same weights. Where z = 0 the penalty's gradient is 0.
    """

    def __init__(self, d_in: int, d_sae: int, spread: Tensor | None = None) -> None:
        # P of the last batch with the exponent `following`.
        self.following = torch.zeros(())
        self._blocks, self._buffers = Blocks(d_sae, spread), Buffers(d_in, d_sae)

    def gradients(
        self, x: Tensor, encoder: Tensor, decoder: Tensor, b_enc: Tensor, b_dec: Tensor,
        l1: float, p: float = 1.0, following: float | None = None,
    ) -> Step:
        """The step of x [B, D] with the penalty's weight λ = `l1`.

        Before p changes, P with the exponent `following` too is wanted: it is then in the attribute of that name.
        """
        centred, norm = x - b_dec, decoder.norm(dim=1)
        powers = (p,) if following is None else (p, following)
        active = self._blocks.sparse(centred, encoder, b_enc, 0.0)
        if active is not None:
            found = self._sparse(active, centred, encoder, decoder, norm, l1, powers)
        else:
            found = self._dense(centred, encoder, decoder, b_enc, norm, l1, powers)
        gradients, raised, counts, residual = found
        gradients.decoder.addcmul_(decoder, (raised[0] / norm.clamp_min(1e-12))[:, None], value=l1 / len(x))
        missed, penalty = squared(residual), raised[0] @ norm / len(x)
        self.following = raised[-1] @ norm / len(x)
        return Step(missed / len(x) + l1 * penalty, missed, penalty, gradients, counts, centred, residual)

    def _sparse(
        self, active: Ragged, centred: Tensor, encoder: Tensor, decoder: Tensor, norm: Tensor, l1: float,
        powers: tuple[float, ...],
    ) -> tuple[Gradients, list[Tensor], Tensor, Tensor]:
        """Gradients but for the decoder norms', Σ_b z^p [M] for each p of `powers`, counts [M], residual [B, D]."""
        p = powers[0]
        z = active.values
        residual = active.decode(z, decoder).sub_(centred)
        slope = active.of_each(norm * (l1 * p / len(centred)))
        if p != 1:
            slope *= z.pow(p - 1)
        to_pre = slope.add_(active.sampled(residual, decoder), alpha=2 / len(centred))
        gradients, counts = self._buffers.sparse(active, z, to_pre, residual, centred, encoder)
        return gradients, [sums(active, _raised(z, q)) for q in powers], counts, residual

    def _dense(
        self, centred: Tensor, encoder: Tensor, decoder: Tensor, bias: Tensor, norm: Tensor, l1: float,
        powers: tuple[float, ...],
    ) -> tuple[Gradients, list[Tensor], Tensor, Tensor]:
        p = powers[0]
        totals, residual, slope = self._buffers.dense(), torch.empty_like(centred), norm * (l1 * p / len(centred))
        raised, counts = [torch.zeros_like(bias) for _ in powers], torch.zeros_like(bias)
        for rows, block in self._blocks.scores(centred, encoder, bias):
            z = block.relu_()
            to_out = torch.addmm(centred[rows], z, decoder, beta=-1, out=residual[rows]) * (2 / len(centred))
            to_pre = self._blocks.spare(0, len(z))
            if p == 1:
                torch.addmm(slope, to_out, decoder.T, out=to_pre)
            else:
                torch.mm(to_out, decoder.T, out=to_pre).addcmul_(z.pow(p - 1), slope)
            # A choice, not a product, so that the infinite slope of z^p at 0 does no harm.
            torch.ops.aten.threshold_backward.grad_input(to_pre, z, 0, grad_input=to_pre)
            totals.add(z, to_pre, to_out, centred[rows])
            for total, power in zip(raised, powers, strict=True):
                total += _raised(z, power).sum(0)
            counts += z.sign_().sum(0)
        return totals.gradients(encoder), raised, counts.long(), residual


def _raised(z: Tensor, power: float) -> Tensor:
    return z if power == 1 else z.pow(power)
