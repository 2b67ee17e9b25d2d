"""Loss and gradients of a TopK dictionary on one batch on a CPU, with only the encoder product dense."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.sae.kernels import product as products
from auditor.sae.kernels.select import nearly_top_k, top_k
from auditor.sae.kernels.sparse import Columns, decode, sampled

# Rows per encoder block: its scores stay in the processor's cache until the top k are out.
_BLOCK_ROWS = 1024
# An inexact product must find this share of the true top k, measured on a few rows now and then.
_LEAST_RECALL = 0.99
CHECK_EVERY, CHECK_ROWS = 100, 128


@dataclass
class Forward:
    """One batch through the dictionary: input less b_dec, the k active features, the residual x' - x."""

    centred: Tensor
    values: Tensor
    ids: Tensor
    residual: Tensor


class TopKStep:
    """Σ (x' - x)² / B and its gradients, for encoder and decoder rows [M, D].

    Features are chosen by `product`. An inexact product proposes a quarter more than k; these are scored again in
    float32, so activations and gradients are exact for the features chosen.
    """

    def __init__(self, d_in: int, d_sae: int, k: int, product: str, spread: Tensor) -> None:
        self.k, self.d_sae = k, d_sae
        self._spread = spread
        self._gradients = torch.empty(d_sae, d_in), torch.empty(d_sae, d_in)
        self.use(product)

    def use(self, product: str) -> None:
        """Find features with the product of this name from now on."""
        self.product = products.make(product, _BLOCK_ROWS, self.d_sae, self._spread)

    def select(self, centred: Tensor, encoder: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """(values before ReLU, ids) [B, k] of the chosen features."""
        self.product.prepare(encoder, bias)
        width = self.k if self.product.exact else min(self.d_sae, self.k + max(4, self.k // 4))
        blocks = torch.split(centred, _BLOCK_ROWS)
        if self.product.exact:
            parts = [top_k(self.product.scores(block), width) for block in blocks]
            return torch.cat([v for v, _ in parts]), torch.cat([i for _, i in parts])
        ids = torch.cat([nearly_top_k(self.product.scores(block), width) for block in blocks])
        values, places = (sampled(centred, encoder, ids) + bias[ids]).topk(self.k, dim=1, sorted=False)
        return values, ids.gather(1, places)

    def recall(self, centred: Tensor, encoder: Tensor, bias: Tensor) -> float:
        """Share of the true top k that `select` finds."""
        found = self.select(centred, encoder, bias)[1]
        true = torch.addmm(bias, centred, encoder.T).topk(self.k, dim=1, sorted=False)[1]
        hit = torch.zeros(len(centred), self.d_sae, dtype=torch.bool).scatter_(1, found, True).gather(1, true)
        return float(hit.float().mean())

    def check(self, centred: Tensor, encoder: Tensor, bias: Tensor) -> None:
        """Go over to float32 where these rows show that an inexact product misses too much."""
        if not self.product.exact and self.recall(centred, encoder, bias) < _LEAST_RECALL:
            self.use("float32")

    def forward(self, x: Tensor, encoder: Tensor, decoder: Tensor, b_enc: Tensor, b_dec: Tensor) -> Forward:
        """x [B, D] through the dictionary."""
        centred = x - b_dec
        values, ids = self.select(centred, encoder, b_enc)
        values = values.relu_()
        return Forward(centred, values, ids, decode(values, ids, decoder).sub_(centred))

    def backward(self, done: Forward, encoder: Tensor, decoder: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients to encoder, decoder, b_enc, b_dec; the first two live in buffers that the next step reuses."""
        gradient = done.residual * (2 / len(done.centred))
        to_values = sampled(gradient, decoder, done.ids).mul_(done.values > 0)
        columns = Columns.of(done.ids, self.d_sae)
        to_encoder = columns.product(to_values, done.centred, self._gradients[0])
        to_decoder = columns.product(done.values, gradient, self._gradients[1])
        to_bias = torch.zeros(self.d_sae).index_add_(0, done.ids.flatten(), to_values.flatten())
        return to_encoder, to_decoder, to_bias, gradient.sum(0) - to_bias @ encoder
