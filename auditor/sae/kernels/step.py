"""What a training step gives, and the four gradients that all dictionaries share, from sparse and from dense codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from auditor.sae.kernels.ragged import Ragged, columns_of, sums


class Gradients(NamedTuple):
    """Of encoder [M, D], decoder [M, D], b_enc [M], b_dec [D]; the first two lie in buffers that the next step uses."""

    encoder: Tensor
    decoder: Tensor
    b_enc: Tensor
    b_dec: Tensor


@dataclass
class Step:
    """Of one batch: the loss; Σ (x' - x)² over all entries; the penalty before its weight, mean over rows; gradients;
    in how many rows each feature fired, int64 [M]; x - b_dec and x' - x [B, D]."""

    loss: Tensor
    squared: Tensor
    penalty: Tensor
    gradients: tuple[Tensor, ...]
    counts: Tensor
    centred: Tensor
    residual: Tensor


def squared(residual: Tensor) -> Tensor:
    """Σ of the squares."""
    return torch.dot(residual.view(-1), residual.view(-1))


class Buffers:
    """Memory for the two large gradients, kept from step to step."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        self.encoder, self.decoder = torch.empty(d_sae, d_in), torch.empty(d_sae, d_in)

    def sparse(
        self, entries: Ragged, values: Tensor, to_pre: Tensor, residual: Tensor, centred: Tensor, encoder: Tensor
    ) -> tuple[Gradients, Tensor]:
        """From activations `values` [n] and gradients `to_pre` [n] to pre-activations at `entries`, and `residual`
        [B, D], 2/B of which is the gradient to what is decoded; and how many entries each feature has, int64 [M]."""
        columns, scale = columns_of(entries), 2 / len(residual)
        to_encoder = columns.product(to_pre, centred, self.encoder)
        to_decoder = columns.product(values * scale, residual, self.decoder)
        to_bias = sums(entries, to_pre)
        to_centre = residual.sum(0) * scale - to_bias @ encoder
        return Gradients(to_encoder, to_decoder, to_bias, to_centre), columns.starts.diff().long()

    def dense(self) -> DenseSums:
        """Sums over blocks of rows, from zero."""
        return DenseSums(self.encoder.zero_(), self.decoder.zero_(), torch.zeros(len(self.encoder)))


class DenseSums:
    """The same gradients where codes are dense, added up over blocks of rows."""

    def __init__(self, encoder: Tensor, decoder: Tensor, bias: Tensor) -> None:
        self._encoder, self._decoder, self._bias = encoder, decoder, bias
        self._out: Tensor | float = 0.0

    def add(self, z: Tensor, to_pre: Tensor, to_out: Tensor, centred: Tensor) -> None:
        """A block of activations [R, M], gradients to pre-activations [R, M] and outputs [R, D], and inputs [R, D]."""
        self._encoder.addmm_(to_pre.T, centred)
        self._decoder.addmm_(z.T, to_out)
        self._bias += to_pre.sum(0)
        self._out = self._out + to_out.sum(0)

    def gradients(self, encoder: Tensor) -> Gradients:
        return Gradients(self._encoder, self._decoder, self._bias, self._out - self._bias @ encoder)
