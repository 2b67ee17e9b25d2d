"""Rows in, rows out: the centred input, and the reconstruction with its error and gradient, one program a row."""

# mypy: ignore-errors

from __future__ import annotations

from torch import Tensor

from auditor.sae.kernels.cuda.language import jit, padded, tl


@jit
def _centre(x, b_dec, out, scale, d, WIDTH: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    inside = at < d
    value = tl.load(x + row * d + at, mask=inside, other=0).to(tl.float32) * scale
    value -= tl.load(b_dec + at, mask=inside, other=0)
    tl.store(out + row * d + at, value.to(tl.bfloat16), mask=inside)


@jit
def _decode(
    x, values, ids, decoder, b_dec, gradient, missing, squared, active, scale, factor, aux_rows, d, d_sae, k,
    TILE: tl.constexpr, WIDTH: tl.constexpr,
):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    inside = at < d
    found = tl.zeros([WIDTH], tl.float32)
    fired = 0
    for start in range(0, k, TILE):
        slot = start + tl.arange(0, TILE)
        feature = tl.load(ids + row * k + slot, mask=slot < k, other=d_sae).to(tl.int64)
        here = feature < d_sae
        value = tl.load(values + row * k + slot, mask=slot < k, other=0).to(tl.float32)
        rows = tl.load(decoder + feature[:, None] * d + at[None, :], mask=here[:, None] & inside[None, :], other=0)
        found += tl.sum(rows.to(tl.float32) * value[:, None], 0)
        fired += tl.sum(here.to(tl.int32), 0)
    found += tl.load(b_dec + at, mask=inside, other=0)
    residual = found - tl.load(x + row * d + at, mask=inside, other=0).to(tl.float32) * scale
    residual = tl.where(inside, residual, 0)
    tl.store(gradient + row * d + at, (residual * factor).to(tl.bfloat16), mask=inside)
    tl.store(squared + row, tl.sum(residual * residual, 0))
    tl.store(active + row, fired)
    if row < aux_rows:
        tl.store(missing + row * d + at, -residual, mask=inside)


def centre(x: Tensor, b_dec: Tensor, scale: float, out: Tensor, warps: int) -> None:
    """x [B, D] times `scale`, less b_dec, into `out` bfloat16."""
    rows, d = x.shape
    _centre[(rows,)](x, b_dec, out, scale, d, WIDTH=padded(d), num_warps=warps)


def decode(
    x: Tensor, scale: float, values: Tensor, ids: Tensor, decoder: Tensor, b_dec: Tensor, gradient: Tensor,
    missing: Tensor, squared: Tensor, active: Tensor, tile: int, warps: int,
) -> None:
    """Reconstruct rows from values and ids [B, k] and decoder rows bfloat16 [M, D].

    Gives `gradient` bfloat16 [B, D] = 2 (x' - x) / B, `squared` float32 [B], `active` int32 [B], and x - x' of the
    first rows in `missing` float32 [R, D].
    """
    (rows, d), k = x.shape, ids.shape[1]
    _decode[(rows,)](
        x, values, ids, decoder, b_dec, gradient, missing, squared, active, scale, 2 / rows, missing.shape[0], d,
        decoder.shape[0], k, TILE=tile, WIDTH=padded(d), num_warps=warps,
    )
