"""AuxK (Gao et al. 2024, A.2) over the dead features alone, gathered into rows of a dense matrix of fixed size.

How many are dead stays on the device; the size of the matrix is a power of two that held them a few steps ago, so that
no step waits for the number. Should more have died since, those with the highest ids wait for the next size.
"""

# mypy: ignore-errors

from __future__ import annotations

import torch
from torch import Tensor

from auditor.sae.kernels.cuda.language import blocks, jit, padded, tl
from auditor.sae.kernels.cuda.state import State

_SCAN, _COLUMNS, _KEYS = 4096, 32, 4096


@jit
def _find_dead(silent, who, slots, n_dead, dead_after, d_sae, room, BLOCK: tl.constexpr):
    at, found = tl.arange(0, BLOCK), 0
    for start in range(0, d_sae, BLOCK):
        feature = start + at
        dead = (tl.load(silent + feature, feature < d_sae, 0) > dead_after).to(tl.int32)
        slot = found + tl.cumsum(dead, 0) - 1
        held = (dead > 0) & (slot < room)
        tl.store(slots + feature, tl.where(held, slot, -1), feature < d_sae)
        tl.store(who + slot, feature, held)
        found += tl.sum(dead, 0)
    for start in range(0, room, BLOCK):
        tl.store(who + start + at, at * 0 - 1, (start + at >= found) & (start + at < room))
    tl.store(n_dead, found)


@jit
def _gather(who, encoder, decoder, bias, to_encoder, to_decoder, to_bias, d, WIDTH: tl.constexpr):
    slot, at = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    feature = tl.load(who + slot).to(tl.int64)
    inside, real = at < d, feature >= 0
    tl.store(to_encoder + slot * d + at, tl.load(encoder + feature * d + at, inside & real, 0), inside)
    tl.store(to_decoder + slot * d + at, tl.load(decoder + feature * d + at, inside & real, 0), inside)
    tl.store(to_bias + slot, tl.load(bias + feature, real, 0))


@jit
def _keep_largest(scores, width, k, BLOCK: tl.constexpr):
    start_of_row = scores + tl.program_id(0).to(tl.int64) * width
    at, bound = tl.arange(0, BLOCK), 0
    for bit in range(15):
        trial = bound + (1 << (14 - bit))
        count = tl.zeros([BLOCK], tl.int32)
        for start in range(0, width, BLOCK):
            key = tl.load(start_of_row + start + at, start + at < width, 0).to(tl.int32)
            count += ((key >= trial) & (key <= 0x7F80)).to(tl.int32)
        bound = tl.where(tl.sum(count, 0) >= k, trial, bound)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, width, BLOCK):
        key = tl.load(start_of_row + start + at, start + at < width, 0).to(tl.int32)
        count += ((key > bound) & (key <= 0x7F80)).to(tl.int32)
    room = k - tl.sum(count, 0)
    for start in range(0, width, BLOCK):
        key = tl.load(start_of_row + start + at, start + at < width, 0).to(tl.int32)
        level = ((key == bound) & (key > 0)).to(tl.int32)
        keep = ((key > bound) & (key <= 0x7F80)) | ((level > 0) & (tl.cumsum(level, 0) <= room))
        tl.store(start_of_row + start + at, tl.where(keep, key, 0).to(tl.int16), start + at < width)
        room -= tl.sum(level, 0)


@jit
def _miss(found, missing, gradient, squared, factor, d, WIDTH: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    inside = at < d
    off = tl.load(found + row * d + at, inside, 0).to(tl.float32) - tl.load(missing + row * d + at, inside, 0)
    tl.store(gradient + row * d + at, (off * factor).to(tl.bfloat16), inside)
    tl.store(squared + row, tl.sum(off * off, 0))


@jit
def _through_relu(to_values, values, to_bias, rows, width, TILE: tl.constexpr, COLUMNS: tl.constexpr):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, rows, TILE):
        row = start + tl.arange(0, TILE)
        place = row[:, None].to(tl.int64) * width + column[None, :]
        mask = (row < rows)[:, None] & (column < width)[None, :]
        active = tl.load(values + place, mask, 0).to(tl.float32) > 0
        kept = tl.where(active, tl.load(to_values + place, mask, 0).to(tl.float32), 0)
        tl.store(to_values + place, kept.to(tl.bfloat16), mask)
        total += tl.sum(kept, 0)
    tl.store(to_bias + column, total, column < width)


def find_dead(silent: Tensor, dead_after: int, who: Tensor | None, slots: Tensor, n_dead: Tensor) -> None:
    """The features silent for more than `dead_after` rows: ids in `who` int32 [N] (rest -1), the place of each in
    `slots` int32 [M] (rest -1), and how many there are in `n_dead` int32 [1]."""
    room = 0 if who is None else who.shape[0]
    _find_dead[(1,)](
        silent, slots if who is None else who, slots, n_dead, dead_after, silent.shape[0], room, BLOCK=_SCAN,
        num_warps=8,
    )


class Revival:
    """AuxK for up to `room` dead features of d_in, on `rows` rows of a batch; holds what its steps fill."""

    def __init__(self, room: int, rows: int, d: int, device: torch.device) -> None:
        def of(*size: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
            return torch.empty(size, dtype=dtype, device=device)

        self.room = room
        self.who = of(room, dtype=torch.int32)
        self.encoder, self.decoder, self.bias = of(room, d), of(room, d), of(room)
        self.scores, self.to_scores = of(rows, room), of(rows, room)
        self.found, self.gradient = of(rows, d), of(rows, d)
        self.to_encoder, self.to_decoder, self.to_bias = of(room, d), of(room, d), of(room, dtype=torch.float32)

    def run(self, state: State, centred: Tensor, missing: Tensor, squared: Tensor, alpha: float) -> None:
        """Add up Σ (e' - e)² of each row in `squared` float32 [R], and the gradients of its mean times `alpha`.

        centred bfloat16 [R, D] is the input less b_dec, missing float32 [R, D] what the reconstruction left out (e).
        """
        (rows, d), width = centred.shape, padded(centred.shape[1])
        warps = min(16, max(4, width // 512))
        scores, to_scores, found, gradient = (
            t[:rows] for t in (self.scores, self.to_scores, self.found, self.gradient)
        )
        _gather[(self.room,)](
            self.who, state.encoder_half, state.decoder_half, state.b_enc_half, self.encoder, self.decoder, self.bias,
            d, WIDTH=width, num_warps=warps,
        )
        torch.addmm(self.bias, centred, self.encoder.T, out=scores)
        _keep_largest[(rows,)](
            scores.view(torch.int16), self.room, max(1, d // 2), BLOCK=min(_KEYS, padded(self.room)), num_warps=8
        )
        torch.mm(scores, self.decoder, out=found)
        _miss[(rows,)](found, missing, gradient, squared, 2 * alpha / rows, d, WIDTH=width, num_warps=warps)
        torch.mm(gradient, self.decoder.T, out=to_scores)
        _through_relu[(blocks(self.room, _COLUMNS),)](
            to_scores, scores, self.to_bias, rows, self.room, TILE=32, COLUMNS=_COLUMNS, num_warps=4
        )
        torch.mm(scores.T, gradient, out=self.to_decoder)
        torch.mm(to_scores.T, centred, out=self.to_encoder)

    def gradients(self, slots: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """What the updates of decoder and encoder add for dead features."""
        return (slots, self.to_decoder, self.to_bias), (slots, self.to_encoder, self.to_bias)
