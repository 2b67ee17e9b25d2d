"""The steps of both biases and the counters of features, and the sums over features and rows that b_dec needs."""

# mypy: ignore-errors

from __future__ import annotations

from torch import Tensor

from auditor.sae.kernels.cuda.adam import adam
from auditor.sae.kernels.cuda.language import blocks, jit, tl
from auditor.sae.kernels.cuda.state import State

_FEATURES, _COLUMNS, _TILE = 256, 128, 32


@jit
def _partial_sums(matrix, weights, out, n, d, per, WEIGHTED: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr):
    part = tl.program_id(1)
    at = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([TILE, COLUMNS], tl.float32)
    end = tl.minimum(part * per + per, n)
    for start in range(part * per, end, TILE):
        row = start + tl.arange(0, TILE)
        mask = (row < end)[:, None] & (at < d)[None, :]
        tile = tl.load(matrix + row[:, None].to(tl.int64) * d + at[None, :], mask, 0).to(tl.float32)
        if WEIGHTED:
            tile *= tl.load(weights + row, row < end, 0)[:, None]
        total += tile
    tl.store(out + part * d + at, tl.sum(total, 0), mask=at < d)


@jit
def _step_b_dec(
    plus, minus, n_plus, n_minus, bias, first, second, rates, finite, beta1, less1, beta2, less2, eps, d,
    TILE: tl.constexpr, COLUMNS: tl.constexpr,
):
    at = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = at < d
    total = tl.zeros([TILE, COLUMNS], tl.float32)
    for start in range(0, n_plus, TILE):
        row = start + tl.arange(0, TILE)
        total += tl.load(plus + row[:, None] * d + at[None, :], (row < n_plus)[:, None] & inside[None, :], 0)
    for start in range(0, n_minus, TILE):
        row = start + tl.arange(0, TILE)
        total -= tl.load(minus + row[:, None] * d + at[None, :], (row < n_minus)[:, None] & inside[None, :], 0)
    m, v = tl.load(first + at, inside, 0), tl.load(second + at, inside, 0)
    change, m, v = adam(
        tl.sum(total, 0), m, v, tl.load(rates), tl.load(rates + 1), beta1, less1, beta2, less2, eps
    )
    write = inside & (tl.load(finite) != 0)
    tl.store(bias + at, tl.load(bias + at, inside, 0) - change, write)
    tl.store(first + at, m, write)
    tl.store(second + at, v, write)


@jit
def _step_b_enc(
    gradient, starts, bias, half, first, second, silent, counts, rates, finite, beta1, less1, beta2, less2, eps,
    batch, d_sae, BLOCK: tl.constexpr,
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < d_sae
    write = inside & (tl.load(finite) != 0)
    m, v = tl.load(first + at, inside, 0), tl.load(second + at, inside, 0)
    change, m, v = adam(
        tl.load(gradient + at, inside, 0), m, v, tl.load(rates), tl.load(rates + 1), beta1, less1, beta2, less2, eps
    )
    now = tl.load(bias + at, inside, 0) - change
    tl.store(bias + at, now, write)
    tl.store(half + at, now.to(tl.bfloat16), write)
    tl.store(first + at, m, write)
    tl.store(second + at, v, write)
    count = tl.load(starts + at + 1, inside, 0) - tl.load(starts + at, inside, 0)
    tl.store(counts + at, count, inside)
    tl.store(silent + at, tl.where(count > 0, 0, tl.load(silent + at, inside, 0) + batch), write)


def partial_sums(matrix: Tensor, out: Tensor, weights: Tensor | None = None) -> None:
    """Sums of runs of rows of matrix [N, D], each row times its weight, into `out` float32 [parts, D]."""
    (n, d), parts = matrix.shape, out.shape[0]
    _partial_sums[(blocks(d, _COLUMNS), parts)](
        matrix, out if weights is None else weights, out, n, d, blocks(n, parts), WEIGHTED=weights is not None,
        TILE=_TILE, COLUMNS=_COLUMNS, num_warps=4,
    )


def step_b_dec(
    state: State, plus: Tensor, minus: Tensor, rates: Tensor, finite: Tensor, constants: tuple[float, ...]
) -> None:
    """Adam on b_dec with the gradient Σ plus - Σ minus, both float32 [parts, D]; nothing where not finite."""
    d = len(state.b_dec)
    _step_b_dec[(blocks(d, 32),)](
        plus, minus, len(plus), len(minus), state.b_dec, state.first["b_dec"], state.second["b_dec"], rates, finite,
        *constants, d, TILE=32, COLUMNS=32, num_warps=4,
    )


def step_b_enc(
    state: State, gradient: Tensor, starts: Tensor, silent: Tensor, counts: Tensor, batch: int, rates: Tensor,
    finite: Tensor, constants: tuple[float, ...],
) -> None:
    """Adam on b_enc, and the firings and silence of each feature in a batch of so many rows."""
    d_sae = len(state.b_enc)
    _step_b_enc[(blocks(d_sae, _FEATURES),)](
        gradient, starts, state.b_enc, state.b_enc_half, state.first["b_enc"], state.second["b_enc"], silent, counts,
        rates, finite, *constants, batch, d_sae, BLOCK=_FEATURES, num_warps=4,
    )
