"""Gradients of one feature from its own pairs, then Adam and the unit norm, in one pass: no dense gradient exists.

A program meets a feature's pairs (row b, activation z_b) in tiles and adds up, with G = 2 (x' - x) / B, the gradients
    decoder  Σ z_b G_b      encoder  Σ ζ_b (x_b - b_dec)      b_enc  Σ ζ_b      where ζ_b = G_b · decoder row;
decoder rows come first and leave ζ for the encoder's. A feature that fires in most rows would keep one program busy
long after all others. So the sorted pairs are cut at fixed places, and pieces inside one feature are summed before.
Few warps share a row: what limits these kernels beside memory is instructions, and each warp repeats the bookkeeping.
"""

# mypy: ignore-errors

from __future__ import annotations

import torch
from torch import Tensor

from auditor.sae.kernels.cuda.adam import adam
from auditor.sae.kernels.cuda.language import jit, padded, tl
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
            to_value = tl.sum(tile * direction[None, :], 1)
            tl.store(to_values + pair, to_value, here)
            to_bias += tl.sum(to_value, 0)
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
        direction = tl.zeros([WIDTH], tl.float32)
        if DECODER:
            direction = tl.load(decoder_half + feature * d + at, inside, 0).to(tl.float32)
        total, to_bias = _add_pairs(
            tl.zeros([WIDTH], tl.float32), tl.full((), 0.0, tl.float32), piece * PIECE, piece * PIECE + PIECE, 0, 0,
            rows, weights, matrix, direction, to_values, at, inside, d, DECODER, TILE,
        )
        tl.store(piece_sums + piece.to(tl.int64) * d + at, total, inside)
        if DECODER:
            tl.store(piece_bias + piece, to_bias)


@jit
def _feature_gradient(
    starts, feature, rows, weights, matrix, direction, to_values, piece_sums, piece_bias, at, inside, d,
    DECODER: tl.constexpr, PIECE: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):
    begin, end = tl.load(starts + feature), tl.load(starts + feature + 1)
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
        if DECODER:
            to_bias += tl.sum(tl.load(piece_bias + piece, here, 0), 0)
    return total, to_bias


@jit
def _update(
    starts, rows, weights, matrix, to_values, piece_sums, piece_bias, to_bias, weight, half, first, second, slots, aux,
    aux_bias, rates, finite, beta1, less1, beta2, less2, eps, d,
    DECODER: tl.constexpr, AUX: tl.constexpr, PIECE: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
):
    feature, at = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    inside, place = at < d, feature * d + at
    now = tl.load(weight + place, inside, 0)
    direction = now.to(tl.bfloat16).to(tl.float32)  # the row that the reconstruction used
    total, bias = _feature_gradient(
        starts, feature, rows, weights, matrix, direction, to_values, piece_sums, piece_bias, at, inside, d, DECODER,
        PIECE, TILE, WIDTH,
    )
    m, v = tl.load(first + place, inside, 0), tl.load(second + place, inside, 0)
    if AUX:
        slot = tl.load(slots + feature).to(tl.int64)
        total += tl.load(aux + slot * d + at, inside & (slot >= 0), 0).to(tl.float32)
        bias += tl.load(aux_bias + slot, slot >= 0, 0)
    if DECODER:
        tl.store(to_bias + feature, bias)
        # A gradient along a unit row only changes the norm, which is restored, but would disturb the second moment.
        total -= now * tl.sum(total * now, 0)
    change, m, v = adam(
        total, m.to(tl.float32), v, tl.load(rates), tl.load(rates + 1), beta1, less1, beta2, less2, eps
    )
    now -= change
    if DECODER:
        now *= 1 / tl.maximum(tl.sqrt(tl.sum(now * now, 0)), 1e-12)
    write = inside & (tl.load(finite) != 0)
    tl.store(weight + place, now, write)
    tl.store(half + place, now.to(tl.bfloat16), write)
    tl.store(first + place, m.to(tl.bfloat16), write)
    tl.store(second + place, v, write)


class Update:
    """Updates every feature from its pairs; holds sums of up to `pairs` pairs, cut into pieces of `piece`."""

    def __init__(
        self, state: State, pairs: int, piece: int, tile: int, warps: int, piece_tile: int, piece_warps: int
    ) -> None:
        self.state, self.piece = state, piece
        d_sae, d = state.decoder.shape
        device, most = state.decoder.device, max(1, pairs // piece)
        same = {"PIECE": piece, "WIDTH": padded(d)}
        self._whole = {**same, "TILE": tile, "num_warps": warps}
        self._pieces = {**same, "TILE": piece_tile, "num_warps": piece_warps}
        self.sums = {name: torch.empty(most, d, device=device) for name in ("decoder", "encoder")}
        self.bias = torch.empty(most, device=device)
        self.to_values, self.to_bias = torch.empty(pairs, device=device), torch.empty(d_sae, device=device)

    def pieces(self, name: str, keys: Tensor, rows: Tensor, weights: Tensor, matrix: Tensor) -> None:
        """Sums of the pieces that lie inside one feature; those of the encoder need the decoder's, for ζ."""
        whole = len(keys) // self.piece
        if whole:
            state, (d_sae, d) = self.state, self.state.decoder.shape
            _sum_pieces[(whole,)](
                keys, rows, weights, matrix, state.decoder_half, self.to_values, self.sums[name], self.bias, d, d_sae,
                DECODER=name == "decoder", **self._pieces,
            )

    def step(
        self, name: str, starts: Tensor, rows: Tensor, weights: Tensor, matrix: Tensor,
        revival: tuple[Tensor, Tensor, Tensor] | None, rates: Tensor, finite: Tensor, constants: tuple[float, ...],
    ) -> None:
        """One step of Adam on the rows of the decoder or, after that, the encoder, once their pieces are summed.

        Pairs in the order of their features: `rows`, `weights` [N] (activations, or ζ for the encoder) and `starts`
        [M + 1]. `matrix` bfloat16 [B, D] is G or the centred input. `revival` holds AuxK's (slots [M], gradients
        bfloat16 [R, D], gradients of b_enc [R]), or None. The decoder's step leaves b_enc's gradient in `to_bias`.
        """
        state, decoder = self.state, name == "decoder"
        weight, half = (state.decoder, state.decoder_half) if decoder else (state.encoder, state.encoder_half)
        slots, aux, aux_bias = revival or (starts, matrix, rates)
        _update[(len(weight),)](
            starts, rows, weights, matrix, self.to_values, self.sums[name], self.bias, self.to_bias, weight, half,
            state.first[name], state.second[name], slots, aux, aux_bias, rates, finite, *constants, weight.shape[1],
            DECODER=decoder, AUX=revival is not None, **self._whole,
        )
