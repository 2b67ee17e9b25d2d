"""What simple means reach with as many numbers per row as a dictionary: PCA, single neurons, random directions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.sae.kernels.select import top_k
from auditor.sae.kernels.sparse import decode

_BLOCK_ELEMENTS = 1 << 25
# Other work that holds up a try counts as often as the whole is longer, so the quickest of some is taken.
_TRIED_WIDTH, _TRIED_ROWS, _TRIES = 512, 4096, 4
# Of ridge regression, in units of the mean variance.
_PENALTIES = (1e-8, 1e-3, 1e-1)


@dataclass(frozen=True)
class Components:
    """The first principal components of rows: `mean` [d], `basis` [d, components] orthonormal."""

    mean: Tensor
    basis: Tensor

    @classmethod
    def of(cls, rows: Tensor, components: int) -> Components:
        """Of rows [n, d]."""
        mean = rows.mean(0)
        centred = (rows - mean).double()
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        return cls(mean, vectors[:, -min(components, rows.shape[1]) :].float())

    def first(self, components: int) -> Components:
        """The first of these, to the bit as `of` fewer."""
        return Components(self.mean, self.basis[:, -min(components, self.basis.shape[1]) :].clone())

    def reconstruct(self, x: Tensor) -> Tensor:
        """x [..., d] as far as the components give it."""
        basis, mean = self.basis.to(x.device), self.mean.to(x.device)
        return (x.float() - mean) @ basis @ basis.T + mean


class ComponentsOnce:
    """Components of the rows that were asked for last stay: dictionaries of one sweep are measured on the same."""

    def __init__(self) -> None:
        self._rows: Tensor | None = None
        self._found: Components | None = None

    def of(self, rows: Tensor, components: int) -> Components:
        """To the bit as `Components.of`."""
        if self._rows is None or self._found is None or not torch.equal(self._rows, rows):
            self._rows, self._found = rows, Components.of(rows, rows.shape[1])
        return self._found.first(components)


def component_seconds(width: int, rows: int) -> float:
    """About what components of so many `rows` of that `width` take to find, as tried on up to 4,096 rows of up to 512
    numbers: the covariance takes the square of the width for each row, its eigenvectors the cube."""
    tried, few = min(width, _TRIED_WIDTH), max(1, min(rows, _TRIED_ROWS))
    some, found = torch.randn(few, tried, dtype=torch.float64), list[float]()
    wider, longer = width / tried, rows / few
    for _ in range(_TRIES):
        begun = time.perf_counter()
        covariance = some.T @ some
        between = time.perf_counter()
        torch.linalg.eigh(covariance)
        found.append((between - begun) * wider**2 * longer + (time.perf_counter() - between) * wider**3)
    return min(found)


@dataclass(frozen=True)
class Neurons:
    """Single coordinates: of each row the `active` that are farthest from the `mean` [d], all others at the mean."""

    mean: Tensor
    active: int

    def reconstruct(self, x: Tensor) -> Tensor:
        """x [..., d] as far as the chosen coordinates give it."""
        mean = self.mean.to(x.device)
        away = x.float() - mean
        ids = away.abs().topk(min(self.active, x.shape[-1]), dim=-1, sorted=False).indices
        return torch.zeros_like(away).scatter(-1, ids, away.gather(-1, ids)) + mean


@dataclass(frozen=True)
class Fitted:
    """What stands in for rows of one hook point with as many numbers as a dictionary has features active. Fitted to
    `rows` [n, d] once, for all dictionaries and times of a training that it is held against."""

    rows: Tensor
    components: Components

    @classmethod
    def to(cls, rows: Tensor) -> Fitted:
        return cls(rows, Components.of(rows, rows.shape[1]))

    def by_name(self, active: int) -> dict[str, Callable[[Tensor], Tensor]]:
        """pca and neurons: what is put in place of x [..., d]."""
        mean = self.components.mean
        return {"pca": self.components.first(active).reconstruct, "neurons": Neurons(mean, active).reconstruct}


def pca(fit: Tensor, held: Tensor, components: int) -> Tensor:
    """`held` [m, d] as far as the first principal components of `fit` [n, d] give it."""
    return Components.of(fit, components).reconstruct(held)


def neurons(fit: Tensor, held: Tensor, active: int) -> Tensor:
    """`held` [m, d] as far as its `active` coordinates farthest from the mean of `fit` [n, d] give it."""
    return Neurons(fit.mean(0), active).reconstruct(held)


def linear(read: Tensor, fit: Tensor, held_read: Tensor, held: Tensor) -> Tensor:
    """`held` [m, d_out] as an affine map of `held_read` [m, d_in] gives it, one that fits `read` [n, d_in] to `fit` by
    ridge regression. Of several penalties the best on `held` counts, so its FVU is at its lowest: least squares where
    rows are many, and not a map that only remembers where they are few."""
    centre, mean = read.mean(0), fit.mean(0)
    x, y, new = (read - centre).double(), (fit - mean).double(), (held_read - centre).double()
    few = len(x) < x.shape[1]
    gram = x @ x.T if few else x.T @ x
    found = []
    for penalty in _PENALTIES:
        solved = gram + penalty * gram.diagonal().mean().clamp_min(1e-30) * torch.eye(len(gram), dtype=gram.dtype)
        factor = torch.linalg.cholesky(solved)
        weights = x.T @ torch.cholesky_solve(y, factor) if few else torch.cholesky_solve(x.T @ y, factor)
        found.append((new @ weights).float() + mean)
    return min(found, key=lambda given: fvu(held, given))


def random_dictionary(
    fit: Tensor, held: Tensor, d_sae: int, active: int, seed: int, told: Callable[[int], object] = int
) -> Tensor:
    """`held` as `d_sae` random unit directions give it, each row the sum of its `active` largest positive projections
    times the one factor that fits `fit` best. `told` hears how many rows of both are done."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(d_sae, fit.shape[1], generator=generator), dim=1)
    mean = fit.mean(0)
    fitted = _sums(fit - mean, directions, min(active, d_sae), told)
    factor = float((fitted * (fit - mean)).sum() / fitted.pow(2).sum().clamp_min(1e-30))
    return factor * _sums(held - mean, directions, min(active, d_sae), lambda rows: told(len(fit) + rows)) + mean


def _sums(centred: Tensor, directions: Tensor, active: int, told: Callable[[int], object]) -> Tensor:
    rows = max(1, _BLOCK_ELEMENTS // len(directions))
    blocks = []
    for block in torch.split(centred, rows):
        values, ids = top_k(block @ directions.T, active)
        blocks.append(decode(values.relu(), ids, directions))
        told(sum(map(len, blocks)))
    return torch.cat(blocks)


def fvu(x: Tensor, recon: Tensor) -> float:
    """Fraction of the variance of x [n, d] that `recon` leaves unexplained."""
    spread = (x - x.mean(0)).double().pow(2).sum()
    return float((x - recon).double().pow(2).sum() / spread.clamp_min(1e-30))
