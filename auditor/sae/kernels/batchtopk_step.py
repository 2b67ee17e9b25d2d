"""Loss and gradients of BatchTopK and Matryoshka dictionaries on one batch on a CPU, with only the encoder dense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from auditor.sae.kernels.blocks import Blocks
from auditor.sae.kernels.ragged import Ragged, columns_of, sums
from auditor.sae.kernels.sparse import Columns
from auditor.sae.kernels.step import Buffers, Gradients, Step, squared

# Candidates beyond the B·k wanted, as a share of these: enough that a batch unlike the last one still has B·k.
_SURPLUS = 0.25
_SAMPLE_ROWS = 256


class BatchTopKStep:
    """1/B Σ_b ‖x'_b - x_b‖² with the B·k largest positive pre-activations of the batch active (Bussmann et al. 2024,
    eq. 4), and its gradients, for encoder and decoder rows [M, D]. Ties are broken arbitrarily.

    With `prefixes` m_1 < … < m_G = M (Matryoshka, Bussmann et al. 2025) the loss is 1/(G B) Σ_g Σ_b ‖x'_g,b - x_b‖²,
    where x'_g is decoded from the first m_g features only. An auxiliary loss for dead features can be had from the
    `centred` and `residual` that `gradients` gives.
    """

    def __init__(
        self, d_in: int, d_sae: int, k: int, prefixes: Sequence[int] = (), spread: Tensor | None = None
    ) -> None:
        self.k = k
        self.prefixes = np.asarray(prefixes or (d_sae,), dtype=np.int32)
        self._blocks, self._buffers = Blocks(d_sae, spread), Buffers(d_in, d_sae)
        self._bound: float | None = None

    def gradients(self, x: Tensor, encoder: Tensor, decoder: Tensor, b_enc: Tensor, b_dec: Tensor) -> Step:
        """The step of x [B, D]; its penalty is 0."""
        centred = x - b_dec
        active = self.select(centred, encoder, b_enc)
        if len(self.prefixes) > 1:
            return self._nested(active, centred, encoder, decoder)
        residual = active.decode(active.values, decoder).sub_(centred)
        to_pre = active.sampled(residual, decoder).mul_(2 / len(x))
        gradients, counts = self._buffers.sparse(active, active.values, to_pre, residual, centred, encoder)
        missed, zero = squared(residual), torch.zeros(())
        return Step(missed / len(x), missed, zero, gradients, counts, centred, residual)

    def select(self, centred: Tensor, encoder: Tensor, bias: Tensor) -> Ragged:
        """The B·k largest positive pre-activations of centred [B, D], exactly; all positive ones where there are
        fewer."""
        wanted = self.k * len(centred)
        for bound in self._bounds(centred, encoder, bias):
            found = self._blocks.above(centred, encoder, bias, bound, self.k / len(bias) if bound else 1.0)
            if len(found.ids) >= wanted:
                break
        self._bound = None
        if len(found.ids) <= wanted:
            return found
        values, surplus = found.values.numpy(), len(found.ids) - wanted
        least = np.partition(values, surplus)[surplus]
        keep = values >= least
        keep[np.flatnonzero(values == least)[: np.count_nonzero(keep) - wanted]] = False
        if 0.02 * wanted < surplus < wanted:
            # The next batch is much like this one, and entries are about evenly dense so close to the least one.
            self._bound = max(0.0, float(least - (least - bound) * _SURPLUS * wanted / surplus))
        return found.kept(torch.from_numpy(keep))

    def _bounds(self, centred: Tensor, encoder: Tensor, bias: Tensor) -> Iterator[float]:
        """Bounds to look for candidates above, each lower than the one before, the last of which is always enough."""
        if self._bound is not None:
            yield self._bound
        few = torch.addmm(bias, centred[:: max(1, len(centred) // _SAMPLE_ROWS)], encoder.T)
        for surplus in (_SURPLUS, 10 * _SURPLUS):
            place = few.numel() - round((1 + surplus) * self.k * len(few))
            if place > 0:
                yield max(0.0, float(np.partition(few.numpy().reshape(-1), place)[place]))
        yield 0.0

    def _nested(self, active: Ragged, centred: Tensor, encoder: Tensor, decoder: Tensor) -> Step:
        batch, groups = len(centred), len(self.prefixes)
        # Each row becomes one row per group of features, so that the same sparse products do for all groups at once.
        group = torch.from_numpy(np.searchsorted(self.prefixes, active.ids.numpy(), side="right").astype(np.int32))
        starts = torch.zeros(batch * groups + 1, dtype=torch.int32)
        torch.cumsum(torch.bincount(active.rows * groups + group, minlength=batch * groups), 0, out=starts[1:])
        split = Ragged(active.values, active.ids, starts, active.width)
        out = split.decode(split.values, decoder).view(batch, groups, -1)
        out[:, 0] -= centred
        for g in range(1, groups):
            out[:, g] += out[:, g - 1]
        residual, loss = out[:, -1].clone(), squared(out) / (batch * groups)
        # A feature of group g adds to x'_g and to all that follow.
        to_out = out.mul_(2 / (batch * groups))
        for g in reversed(range(groups - 1)):
            to_out[:, g] += to_out[:, g + 1]
        flat = to_out.view(batch * groups, -1)
        to_pre = split.sampled(flat, decoder)
        columns = columns_of(split)
        to_decoder = columns.product(split.values, flat, self._buffers.decoder)
        rows = torch.div(columns.rows, groups, rounding_mode="floor")
        whole = Columns(columns.starts, rows, columns.order, (active.width, batch))
        to_encoder = whole.product(to_pre, centred, self._buffers.encoder)
        to_bias = sums(active, to_pre)
        gradients = Gradients(to_encoder, to_decoder, to_bias, to_out[:, 0].sum(0) - to_bias @ encoder)
        counts = columns.starts.diff().long()
        return Step(loss, squared(residual), torch.zeros(()), gradients, counts, centred, residual)
