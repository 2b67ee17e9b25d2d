"""Pre-activations of a batch in blocks of rows that stay in the processor's cache until what matters of them is out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from auditor.sae.kernels.product import Float32
from auditor.sae.kernels.ragged import Array, Ragged

_BLOCK_ROWS = 1024
_SHARE_ROWS = 64


class Blocks:
    """The encoder product into buffers that are kept: fresh memory of their size costs a third of it in page faults."""

    def __init__(self, d_sae: int) -> None:
        self.d_sae = d_sae
        self.product = Float32(_BLOCK_ROWS, d_sae)
        self._mask = np.empty((_BLOCK_ROWS, d_sae), dtype=np.bool_)
        self._spares: list[Tensor] = []

    def scores(self, centred: Tensor, encoder: Tensor, bias: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """(rows, pre-activations float32 [R, M]) of centred [B, D], each valid until the next."""
        self.product.prepare(encoder, bias)
        for at in range(0, len(centred), _BLOCK_ROWS):
            rows = slice(at, at + _BLOCK_ROWS)
            yield rows, self.product.scores(centred[rows])

    def above(self, centred: Tensor, encoder: Tensor, bias: Tensor, bound: float | Tensor) -> Ragged:
        """All entries with a pre-activation above `bound`, one number or one for each feature [M]."""
        plain = bound.numpy() if isinstance(bound, Tensor) else np.float32(bound)
        parts = [self._above(block, plain) for _, block in self.scores(centred, encoder, bias)]
        return Ragged.of(parts, self.d_sae)

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
            self._spares.append(torch.empty(_BLOCK_ROWS, self.d_sae))
        return self._spares[place][:rows]

    def share(self, centred: Tensor, encoder: Tensor, bias: Tensor, bound: float | Tensor) -> float:
        """About which share of entries lies above `bound`, from a few rows of the batch."""
        few = centred[:: max(1, len(centred) // _SHARE_ROWS)]
        return float((torch.addmm(bias, few, encoder.T) > bound).float().mean())


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
