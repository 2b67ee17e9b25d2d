"""b_dec: column sums of tall matrices in two deterministic stages, and its own step of Adam."""

# mypy: ignore-errors

from __future__ import annotations

from torch import Tensor

from auditor.sae.kernels.cuda.adam import adam
from auditor.sae.kernels.cuda.language import blocks, jit, tl

_COLUMNS = 64


@jit
def _partial_sums(matrix, out, n, d, per, TILE: tl.constexpr, COLUMNS: tl.constexpr):
    part = tl.program_id(1)
    at = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    end = tl.minimum(part * per + per, n)
    for start in range(part * per, end, TILE):
        row = start + tl.arange(0, TILE)
        mask = (row < end)[:, None] & (at < d)[None, :]
        tile = tl.load(matrix + row[:, None].to(tl.int64) * d + at[None, :], mask=mask, other=0)
        total += tl.sum(tile.to(tl.float32), 0)
    tl.store(out + part * d + at, total, mask=at < d)


@jit
def _step(
    plus, minus, n_plus, n_minus, bias, first, second, rates, finite, beta1, less1, beta2, less2, eps, d,
    TILE: tl.constexpr, COLUMNS: tl.constexpr,
):
    at = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = at < d
    total = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, n_plus, TILE):
        row = start + tl.arange(0, TILE)
        total += tl.sum(tl.load(plus + row[:, None] * d + at[None, :], (row < n_plus)[:, None] & inside[None, :], 0), 0)
    for start in range(0, n_minus, TILE):
        row = start + tl.arange(0, TILE)
        mask = (row < n_minus)[:, None] & inside[None, :]
        total -= tl.sum(tl.load(minus + row[:, None] * d + at[None, :], mask, 0), 0)
    m, v = tl.load(first + at, inside, 0), tl.load(second + at, inside, 0)
    change, m, v = adam(total, m, v, tl.load(rates), tl.load(rates + 1), beta1, less1, beta2, less2, eps)
    write = inside & (tl.load(finite) != 0)
    tl.store(bias + at, tl.load(bias + at, inside, 0) - change, write)
    tl.store(first + at, m, write)
    tl.store(second + at, v, write)


def partial_sums(matrix: Tensor, out: Tensor) -> None:
    """Sums of runs of rows of matrix [N, D] into `out` float32 [parts, D]."""
    (n, d), parts = matrix.shape, out.shape[0]
    _partial_sums[(blocks(d, _COLUMNS), parts)](
        matrix, out, n, d, blocks(n, parts), TILE=16, COLUMNS=_COLUMNS, num_warps=4
    )


def step(
    plus: Tensor, minus: Tensor, bias: Tensor, first: Tensor, second: Tensor, rates: Tensor, finite: Tensor,
    constants: tuple[float, ...],
) -> None:
    """Adam on bias [D] with the gradient Σ plus - Σ minus, both float32 [parts, D]; nothing where not finite."""
    d = bias.shape[0]
    _step[(blocks(d, _COLUMNS),)](
        plus, minus, plus.shape[0], minus.shape[0], bias, first, second, rates, finite, *constants, d,
        TILE=16, COLUMNS=_COLUMNS, num_warps=4,
    )
