"""Gradients of one feature from its own pairs, then Adam and the unit norm, in one pass: no dense gradient exists.

A program meets a feature's pairs (row b, activation z_b) in tiles and adds up, with G = 2 (x' - x) / B, the gradients
    decoder  Σ z_b G_b      encoder  Σ ζ_b (x_b - b_dec)      b_enc  Σ ζ_b      where ζ_b = G_b · decoder row;
decoder rows come first and leave ζ for the encoder's. A feature that fires in most rows would keep one program busy
long after all others. So the sorted pairs are cut at fixed places, and pieces inside one feature are summed before.
"""

# mypy: ignore-errors

from __future__ import annotations

import torch
from torch import Tensor

from auditor.sae.kernels.cuda.adam import adam
from auditor.sae.kernels.cuda.language import blocks, jit, padded, tl
from auditor.sae.kernels.cuda.state import State


@jit
def _add_pairs(
    total, to_bias, start, end, gap_at, gap, rows, weights, matrix, direction, to_values, at, inside, d,
    DECODER: tl.constexpr, TILE: tl.constexpr,
):
    """Add the pairs start..end to a feature's gradients; those from gap_at on lie `gap` further on."""
    for first in range(start, end, TILE):
        pair = first + tl.arange(0, TILE)
        here = pair < end
        pair += tl.where(pair >= gap_at, gap, 0)
        weight = tl.load(weights + pair, here, 0).to(tl.float32)
        row = tl.load(rows + pair, here, 0).to(tl.int64)
        tile = tl.load(matrix + row[:, None] * d + at[None, :], here[:, None] & inside[None, :], 0).to(tl.float32)
        total += tl.sum(tile * weight[:, None], 0)
        if DECODER:
            tl.store(to_values + pair, tl.sum(tile * direction[None, :], 1), here)
        else:
            to_bias += tl.sum(weight, 0)
    return total, to_bias


@jit
def _sum_pieces(
    keys, rows, weights, matrix, decoder_half, to_values, piece_sums, piece_bias, d, d_sae,
    DECODER: tl.constexpr, PIECE: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):
    piece = tl.program_id(0)
    feature = tl.load(keys + piece * PIECE).to(tl.int64)
    if (feature < d_sae) & (tl.load(keys + piece * PIECE + PIECE - 1).to(tl.int64) == feature):
        at = tl.arange(0, WIDTH)
        inside = at < d
        direction = tl.load(decoder_half + feature * d + at, inside, 0).to(tl.float32)
        total, to_bias = _add_pairs(
            tl.zeros([WIDTH], tl.float32), tl.full((), 0.0, tl.float32), piece * PIECE, piece * PIECE + PIECE, 0, 0,
            rows, weights, matrix, direction, to_values, at, inside, d, DECODER, TILE,
        )
        tl.store(piece_sums + piece.to(tl.int64) * d + at, total, inside)
        tl.store(piece_bias + piece, to_bias)


@jit
def _feature_gradient(
    starts, feature, real, rows, weights, matrix, direction, to_values, piece_sums, piece_bias, at, inside, d,
    DECODER: tl.constexpr, PIECE: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):
    begin, end = tl.load(starts + feature, real, 0), tl.load(starts + feature + 1, real, 0)
    piece_begin, piece_end = (begin + PIECE - 1) // PIECE, end // PIECE
    whole = piece_end > piece_begin
    gap = tl.where(whole, (piece_end - piece_begin) * PIECE, 0)
    gap_at = tl.where(whole, piece_begin * PIECE, end)
    total, to_bias = _add_pairs(
        tl.zeros([WIDTH], tl.float32), tl.full((), 0.0, tl.float32), begin, end - gap, gap_at, gap, rows, weights,
        matrix, direction, to_values, at, inside, d, DECODER, TILE,
    )
    for first in range(piece_begin, piece_end, TILE):
        piece = first + tl.arange(0, TILE)
        here = piece < piece_end
        place = piece[:, None].to(tl.int64) * d + at[None, :]
        total += tl.sum(tl.load(piece_sums + place, here[:, None] & inside[None, :], 0), 0)
        to_bias += tl.sum(tl.load(piece_bias + piece, here, 0), 0)
    return total, to_bias, end - begin


@jit
def _update_decoder(
    starts, rows, values, gradient, to_values, piece_sums, piece_bias, decoder, decoder_half, first, second, slots,
    aux, silent, counts, rates, finite, beta1, less1, beta2, less2, eps, batch, d, d_sae,
    AUX: tl.constexpr, PIECE: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):
    feature, at = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    inside, place = at < d, feature * d + at
    good = tl.load(finite) != 0
    weight = tl.load(decoder + place, inside, 0)
    m, v = tl.load(first + place, inside, 0), tl.load(second + place, inside, 0)
    direction = weight.to(tl.bfloat16).to(tl.float32)  # the row that the reconstruction used
    total, _, count = _feature_gradient(
        starts, feature, feature < d_sae, rows, values, gradient, direction, to_values, piece_sums, piece_bias, at,
        inside, d, True, PIECE, TILE, WIDTH,
    )
    if AUX:
        slot = tl.load(slots + feature).to(tl.int64)
        total += tl.load(aux + slot * d + at, inside & (slot >= 0), 0).to(tl.float32)
    # A gradient along a unit row only changes the norm, which is restored, but would disturb the second moment.
    total -= weight * tl.sum(total * weight, 0)
    change, m, v = adam(
        total, m.to(tl.float32), v, tl.load(rates), tl.load(rates + 1), beta1, less1, beta2, less2, eps
    )
    weight -= change
    weight /= tl.maximum(tl.sqrt(tl.sum(weight * weight, 0)), 1e-12)
    write = inside & good
    tl.store(decoder + place, weight, write)
    tl.store(decoder_half + place, weight.to(tl.bfloat16), write)
    tl.store(first + place, m.to(tl.bfloat16), write)
    tl.store(second + place, v, write)
    tl.store(counts + feature, count)
    tl.store(silent + feature, tl.where(count > 0, 0, tl.load(silent + feature) + batch), good)


@jit
def _update_encoder(
    starts, rows, to_values, centred, piece_sums, piece_bias, encoder, encoder_half, first, second,
    b_enc, b_enc_half, first_bias, second_bias, slots, aux, aux_bias, through_bias, rates, finite,
    beta1, less1, beta2, less2, eps, d, d_sae,
    AUX: tl.constexpr, FEATURES: tl.constexpr, PIECE: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):
    at = tl.arange(0, WIDTH)
    inside = at < d
    good = tl.load(finite) != 0
    rate, root = tl.load(rates), tl.load(rates + 1)
    to_b_dec = tl.zeros([WIDTH], tl.float32)
    for i in range(FEATURES):
        feature = (tl.program_id(0) * FEATURES + i).to(tl.int64)
        real = feature < d_sae
        mask, place = inside & real, feature * d + at
        weight = tl.load(encoder + place, mask, 0)
        m, v = tl.load(first + place, mask, 0), tl.load(second + place, mask, 0)
        total, to_bias, _ = _feature_gradient(
            starts, feature, real, rows, to_values, centred, weight, to_values, piece_sums, piece_bias, at, inside, d,
            False, PIECE, TILE, WIDTH,
        )
        if AUX:
            slot = tl.load(slots + feature, real, -1).to(tl.int64)
            total += tl.load(aux + slot * d + at, inside & (slot >= 0), 0).to(tl.float32)
            to_bias += tl.load(aux_bias + slot, slot >= 0, 0)
        to_b_dec += to_bias * weight.to(tl.bfloat16).to(tl.float32)
        change, m, v = adam(total, m.to(tl.float32), v, rate, root, beta1, less1, beta2, less2, eps)
        weight -= change
        tl.store(encoder + place, weight, mask & good)
        tl.store(encoder_half + place, weight.to(tl.bfloat16), mask & good)
        tl.store(first + place, m.to(tl.bfloat16), mask & good)
        tl.store(second + place, v, mask & good)
        m, v = tl.load(first_bias + feature, real, 0), tl.load(second_bias + feature, real, 0)
        change, m, v = adam(to_bias, m, v, rate, root, beta1, less1, beta2, less2, eps)
        bias = tl.load(b_enc + feature, real, 0) - change
        tl.store(b_enc + feature, bias, real & good)
        tl.store(b_enc_half + feature, bias.to(tl.bfloat16), real & good)
        tl.store(first_bias + feature, m, real & good)
        tl.store(second_bias + feature, v, real & good)
    tl.store(through_bias + tl.program_id(0).to(tl.int64) * d + at, to_b_dec, inside)


class Update:
    """Launches the update of every feature; `pieces` is what pairs of one feature are cut into, the rest tuning."""

    def __init__(self, state: State, pairs: int, piece: int, tile: int, features: int, warps: int) -> None:
        self.state, self.piece, self.features, self.warps = state, piece, features, warps
        d_sae, d = state.decoder.shape
        device, most = state.decoder.device, max(1, pairs // piece)
        self.shape = {"PIECE": piece, "TILE": tile, "WIDTH": padded(d), "num_warps": warps}
        self.sums = torch.empty(most, d, device=device)
        self.bias = torch.empty(most, device=device)
        self.to_values = torch.empty(pairs, device=device)
        self.through_bias = torch.empty(blocks(d_sae, features), d, device=device)

    def decoder(
        self, keys: Tensor, starts: Tensor, rows: Tensor, values: Tensor, gradient: Tensor,
        revival: tuple[Tensor, Tensor] | None, silent: Tensor, counts: Tensor, rates: Tensor, finite: Tensor,
        constants: tuple[float, ...],
    ) -> None:
        """One step of Adam on the decoder's rows, unit norm kept; `counts` int32 [M] gets how often each feature fired.

        Pairs in the order of their features: `keys`, `rows`, `values` [N] and `starts` [M + 1]. `gradient` bfloat16
        [B, D]. `revival` holds AuxK's (slots [M], gradients bfloat16 [N, D]), or None.
        """
        state, (d_sae, d) = self.state, self.state.decoder.shape
        self._sum_pieces(keys, rows, values, gradient, True)
        slots, aux = revival or (starts, gradient)
        _update_decoder[(d_sae,)](
            starts, rows, values, gradient, self.to_values, self.sums, self.bias, state.decoder, state.decoder_half,
            state.first["decoder"], state.second["decoder"], slots, aux, silent, counts, rates, finite, *constants,
            len(gradient), d, d_sae, AUX=revival is not None, **self.shape,
        )

    def encoder(
        self, keys: Tensor, starts: Tensor, rows: Tensor, centred: Tensor,
        revival: tuple[Tensor, Tensor, Tensor] | None, rates: Tensor, finite: Tensor, constants: tuple[float, ...],
    ) -> Tensor:
        """One step of Adam on the encoder's rows and b_enc, after `decoder`.

        Gives what reaches b_dec through the centring, as parts [P, D] of a sum.
        """
        state, (d_sae, d) = self.state, self.state.encoder.shape
        self._sum_pieces(keys, rows, self.to_values, centred, False)
        slots, aux, aux_bias = revival or (starts, centred, rates)
        _update_encoder[(len(self.through_bias),)](
            starts, rows, self.to_values, centred, self.sums, self.bias, state.encoder, state.encoder_half,
            state.first["encoder"], state.second["encoder"], state.b_enc, state.b_enc_half, state.first["b_enc"],
            state.second["b_enc"], slots, aux, aux_bias, self.through_bias, rates, finite, *constants, d, d_sae,
            AUX=revival is not None, FEATURES=self.features, **self.shape,
        )
        return self.through_bias

    def _sum_pieces(self, keys: Tensor, rows: Tensor, weights: Tensor, matrix: Tensor, decoder: bool) -> None:
        whole = len(keys) // self.piece
        if whole:
            state, (d_sae, d) = self.state, self.state.decoder.shape
            _sum_pieces[(whole,)](
                keys, rows, weights, matrix, state.decoder_half, self.to_values, self.sums, self.bias, d, d_sae,
                DECODER=decoder, **self.shape,
            )
