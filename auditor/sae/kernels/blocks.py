"""Pre-activations of a batch in blocks of rows that stay in the processor's cache until what matters of them is out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from auditor.sae.kernels.product import Float32, Int8, resolve
from auditor.sae.kernels.ragged import Array, Ragged

# A block has at most so many rows, and fewer where they are so wide that its scores would not stay in the cache.
_BLOCK_ROWS, _BLOCK_ENTRIES = 1024, 1 << 22
_SHARE_ROWS = 64
# Up to this share of active entries a sparse step is the faster one: its products take about twelve times as long for
# each multiplication as dense ones (measured for 512 → 4096 with 4096 rows).
_MOST_SPARSE = 1 / 12
# An entry is sought down to this many standard deviations of the rounding error below its bound: it is missed with a
# probability under 1e-7 where it just exceeds the bound, and with less above.
_MARGIN = 6.0
# Up to this share of active entries the inexact product and scoring again are faster than the exact product: for 512 →
# 4096 a step with 31 active takes 85 ms instead of 97, one with 100 the same. They are given up where so many times as
# many are found; fewer would make it depend on the bound that BatchTopK has from its last batch, and a resumed run has
# none.
_MOST_SOUGHT, _MOST_FOUND = 1 / 64, 8


def spread_of(product: str, sample: Tensor) -> Tensor | None:
    """The `spread` of data like `sample` [n, D], where the setting `product` means 8-bit products, else None."""
    return (sample - sample.mean(0)).abs().amax(0) if resolve(product) == "int8" else None


class Blocks:
    """The encoder product into buffers that are kept: fresh memory of their size costs a third of it in page faults.

    With `spread` [D], the largest |x - b_dec| of each dimension, entries are sought with 8-bit products and those found
    scored again in float32; worth it where processors have these in hardware.
    """

    def __init__(self, d_sae: int, spread: Tensor | None = None) -> None:
        self.d_sae, self.rows = d_sae, min(_BLOCK_ROWS, max(64, _BLOCK_ENTRIES // d_sae))
        self.product = Float32(self.rows, d_sae)
        self.finder = None if spread is None else Int8(self.rows, d_sae, spread)
        self._mask = np.empty((self.rows, d_sae), dtype=np.bool_)
        self._spares: list[Tensor] = []

    def scores(self, centred: Tensor, encoder: Tensor, bias: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """(rows, pre-activations float32 [R, M]) of centred [B, D], each valid until the next."""
        self.product.prepare(encoder, bias)
        for at in range(0, len(centred), self.rows):
            rows = slice(at, at + self.rows)
            yield rows, self.product.scores(centred[rows])

    def sparse(self, centred: Tensor, encoder: Tensor, bias: Tensor, bound: float | Tensor) -> Ragged | None:
        """All entries with a pre-activation above `bound`, one number or one for each feature [M]; None where they are
        so many that a dense step is faster."""
        few = centred[:: max(1, len(centred) // _SHARE_ROWS)]
        share = float((torch.addmm(bias, few, encoder.T) > bound).float().mean())
        return self.above(centred, encoder, bias, bound, share) if share < _MOST_SPARSE else None

    def above(self, centred: Tensor, encoder: Tensor, bias: Tensor, bound: float | Tensor, share: float) -> Ragged:
        """All entries above `bound`; about a `share` of all is expected there."""
        found = self._found(centred, encoder, bias, bound, share) if share < _MOST_SOUGHT else None
        if found is not None:
            return found
        plain = bound.numpy() if isinstance(bound, Tensor) else np.float32(bound)
        parts = [self._above(block, plain) for _, block in self.scores(centred, encoder, bias)]
        return Ragged.of(parts, self.d_sae)

    def _found(
        self, centred: Tensor, encoder: Tensor, bias: Tensor, bound: float | Tensor, share: float
    ) -> Ragged | None:
        """As `above`, by way of inexact products; None where these cannot tell enough entries apart."""
        if self.finder is None:
            return None
        self.finder.prepare(encoder, bias - bound)
        least = (-_MARGIN * self.finder.error(centred)).numpy()
        parts, most = [], _MOST_FOUND * share * self.d_sae
        for block in torch.split(centred, self.rows):
            parts.append(self._above(self.finder.scores(block), least))
            if len(parts[-1][1]) > most * len(block):
                return None
        found = Ragged.of(parts, self.d_sae)
        found.values = found.sampled(centred, encoder).add_(found.of_each(bias))
        return found.kept(found.values > (found.of_each(bound) if isinstance(bound, Tensor) else bound))

    def _above(self, block: Tensor, bound: Array | np.float32) -> tuple[Array, Array, Array]:
        scores, mask = block.numpy(), self._mask[: len(block)]
        # numpy compares in half of torch's time, and finds the true ones of a flat mask in half of it again.
        np.greater(scores, bound, out=mask)
        flat = np.flatnonzero(mask)
        first = np.arange(0, scores.size + 1, self.d_sae)
        counts = np.diff(np.searchsorted(flat, first))
        ids = (flat - np.repeat(first[:-1], counts)).astype(np.int32)
        return scores.reshape(-1)[flat], ids, counts

    def spare(self, place: int, rows: int) -> Tensor:
        """Another buffer [rows, M] for what is made of one block; `place` 0, 1, …"""
        while len(self._spares) <= place:
            self._spares.append(torch.empty(self.rows, self.d_sae))
        return self._spares[place][:rows]


def starting_bias(
    sample: Tensor, encoder: Tensor, b_dec: Tensor, share: float, threshold: float | Tensor = 0.0
) -> Tensor:
    """b_enc [M] with which each feature's pre-activation exceeds `threshold` in a `share` of the sample's rows [n, D].

    Conerly et al., "Dictionary learning optimization techniques" (Anthropic, January 2025), initialise so: codes are
    sparse from the first step, and no feature is dead or always active. At least one row of the sample is above.
    """
    centred = sample - b_dec
    above = min(max(round(share * len(sample)), 1), len(sample) - 1)
    quantiles = [
        # Halfway between the last one that is to fire and the first that is not, so that rounding changes neither.
        np.partition((rows @ centred.T).numpy(), (-above - 1, -above), axis=1)[:, [-above - 1, -above]].mean(1)
        for rows in torch.split(encoder.detach(), _BLOCK_ROWS)
    ]
    return threshold - torch.from_numpy(np.concatenate(quantiles))
