"""Adam inside a kernel (Kingma & Ba 2015, algorithm 1), and the step's clock, which only a finite loss advances."""

# mypy: ignore-errors

from __future__ import annotations

from torch import Tensor

from auditor.sae.kernels.cuda.language import jit, tl


@jit
def adam(gradient, first, second, rate, root, beta1, less1, beta2, less2, eps):
    """(what to subtract from the weight, the new moments); rate = lr / (1 - β1ᵗ), root = 1 / sqrt(1 - β2ᵗ)."""
    first = first * beta1 + gradient * less1
    second = second * beta2 + gradient * gradient * less2
    return rate * first / (tl.sqrt(second) * root + eps), first, second


@jit
def _settle(
    squared, active, aux_squared, n_dead, lr, betas, clock, rates, finite, loss, error, l0, rows, aux_rows, alpha,
    AUX: tl.constexpr, BLOCK: tl.constexpr,
):
    at = tl.arange(0, BLOCK)
    total, fired = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.int32)
    for start in range(0, rows, BLOCK):
        total += tl.load(squared + start + at, start + at < rows, 0)
        fired += tl.load(active + start + at, start + at < rows, 0)
    whole = tl.sum(total, 0)
    mean = whole / rows
    if AUX:
        total = tl.zeros([BLOCK], tl.float32)
        for start in range(0, aux_rows, BLOCK):
            total += tl.load(aux_squared + start + at, start + at < aux_rows, 0)
        mean += tl.where(tl.load(n_dead) > 0, tl.sum(total, 0) * alpha / aux_rows, 0.0)
    good = (tl.abs(mean) < float("inf")) & (mean == mean)
    tl.store(loss, mean)
    tl.store(error, whole)
    tl.store(l0, tl.sum(fired, 0).to(tl.float32) / rows)
    tl.store(finite, good.to(tl.int8))
    done, power1, power2 = tl.load(clock), tl.load(clock + 1), tl.load(clock + 2)
    power1, power2 = power1 * tl.load(betas), power2 * tl.load(betas + 1)
    tl.store(rates, (tl.load(lr) / (1 - power1)).to(tl.float32))
    tl.store(rates + 1, (1 / tl.sqrt(1 - power2)).to(tl.float32))
    tl.store(clock, done + 1, good)
    tl.store(clock + 1, power1, good)
    tl.store(clock + 2, power2, good)


def settle(
    squared: Tensor, active: Tensor, aux_squared: Tensor, n_dead: Tensor, lr: Tensor, betas: Tensor, clock: Tensor,
    rates: Tensor, finite: Tensor, out: tuple[Tensor, Tensor, Tensor], alpha: float, aux: bool,
) -> None:
    """Loss, Σ squared error and L0 into the scalars `out`; whether the loss is finite; the rates of this update."""
    _settle[(1,)](
        squared, active, aux_squared, n_dead, lr, betas, clock, rates, finite, *out, squared.shape[0],
        aux_squared.shape[0], alpha, AUX=aux, BLOCK=1024, num_warps=4,
    )
