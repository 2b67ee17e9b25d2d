"""Parameters that begin at the data, so that fewer steps are spent on finding it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from auditor.sae.parameters import Parameters, geometric_median, leaves, start

# Directions in which rows are evened out: beyond some hundreds, more change nothing and cost most of the time.
_PRINCIPAL, _EXTRA, _ROUNDS = 256, 32, 2
_FIT_ROWS = 1024
# Rows farther from the middle than so many times the median, where they are so few, are left out: attention sinks, a
# hundred times as large as others, would make up the mean, the covariance and the error.
_FAR, _FEW = 4.0, 0.1


def start_at_rows(
    sample: Tensor, target: Tensor, d_sae: int, active: int, seed: int, device: torch.device
) -> Parameters:
    """As `start`, but with features at different rows of `sample` [n, d_in] and of what is to be made of them, `target`
    [n, d_out]: dictionary learning has long begun at the data (Aharon et al. 2006; Mairal et al. 2010). Features beyond
    the number of rows stay random. b_dec is in the middle of `target`, and a feature is silent in that of `sample`.

    With c a row less the mean and C the covariance, a feature's decoder row is C^-1/2 c, because rows as they are share
    a few large directions, and its encoder row C^-1 c, Fisher's discriminant of that row; both at unit norm. Then the
    encoder is scaled so that the `active` largest activations of each row leave the least squared error. Few rows that
    lie far out count for nothing in all this but b_dec.
    """
    at_random = start(sample, d_sae, seed, torch.device("cpu"))
    tensors = {name: tensor.detach() for name, tensor in at_random.named().items()}
    middle = tensors["b_dec"]
    generator = torch.Generator().manual_seed(seed)
    if target is not sample:
        decoder = torch.randn(d_sae, target.shape[1], generator=generator)
        tensors |= {"decoder": decoder / decoder.norm(dim=1, keepdim=True), "b_dec": geometric_median(target)}
    encoder, decoder = tensors["encoder"], tensors["decoder"]
    near = _near(sample, middle) & _near(target, tensors["b_dec"])
    rows, aims = sample[near], target[near]
    ways = [(encoder, rows - rows.mean(0), 1.0), (decoder, aims - aims.mean(0), 0.5)]
    spreads = [principal(centred, generator) for _, centred, _ in ways]
    if all(bool(torch.isfinite(variances).all()) and float(variances.max()) > 0 for variances, _ in spreads):
        chosen = _different(ways[0][1], generator)[:d_sae]
        for (weights, centred, power), (variances, axes) in zip(ways, spreads, strict=True):
            white = whitened(centred[chosen], variances, axes, power)
            weights[: len(chosen)] = white / white.norm(dim=1, keepdim=True).clamp_min(1e-12)
        values, ids = ((rows[:_FIT_ROWS] - middle) @ encoder.T).topk(min(active, d_sae), dim=1, sorted=False)
        made = functional.embedding_bag(ids, decoder, per_sample_weights=values.relu(), mode="sum")
        fit = ((aims[:_FIT_ROWS] - tensors["b_dec"]) * made).sum() / made.square().sum().clamp_min(1e-12)
        encoder *= fit if fit > 0 else 0.5
    if target is not sample:
        tensors["b_enc"] = -encoder @ middle
    return leaves(tensors, device)


def principal(centred: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(variances [r + 1], axes [d, r]) of rows [n, d] along their principal directions, and at the end the mean
    variance along all others (probabilistic PCA: Tipping & Bishop 1999, eq. 8); 0 where there are none.

    By subspace iteration (Halko et al. 2011, algorithm 4.4): a covariance of width 4,096 takes minutes to diagonalise.
    """
    n, d = centred.shape
    r = min(n, d, _PRINCIPAL)
    basis = torch.linalg.qr(torch.randn(d, min(d, r + _EXTRA), generator=generator)).Q
    if not bool(torch.isfinite(centred).all()):
        return torch.full((r + 1,), torch.nan), basis[:, :r]
    for _ in range(_ROUNDS if d > r else 0):
        basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q
    inside = centred @ basis
    variances, turned = torch.linalg.eigh(inside.T @ inside / n)
    variances, axes = variances[-r:].clamp_min(0), basis @ turned[:, -r:]
    rest = (centred.square().sum() / n - variances.sum()).clamp_min(0) / max(1, d - r)
    return torch.cat([variances, rest[None]]), axes


def whitened(rows: Tensor, variances: Tensor, axes: Tensor, power: float) -> Tensor:
    """C^-power · row for rows [n, d], with C the covariance that `principal` gives. No direction counts for less than
    a hundredth of the mean: it would be noise that grew."""
    d = rows.shape[1]
    r = axes.shape[1]
    mean = (variances[:-1].sum() + variances[-1] * (d - r)) / d
    weights = (variances + 0.01 * mean).pow(-power)
    inside = rows @ axes
    return (rows - inside @ axes.T) * weights[-1] + (inside * weights[:-1]) @ axes.T


def _near(rows: Tensor, middle: Tensor) -> Tensor:
    """Which of `rows` [n, d] do not lie far from `middle` [d], as few others do. What is not finite is near, and shows
    in the variances."""
    distance = (rows - middle).norm(dim=1)
    far = distance > _FAR * distance.median()
    return ~far if float(far.float().mean()) <= _FEW else torch.ones_like(far)


def _different(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers of rows in random order, of equal ones one: features at the same row would stay the same for ever."""
    marks = (rows @ torch.randn(rows.shape[1], generator=generator)).numpy()
    first = torch.from_numpy(np.unique(marks, return_index=True)[1])
    return first[torch.randperm(len(first), generator=generator)]
