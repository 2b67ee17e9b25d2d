"""What simple means reach with as many numbers per row as a dictionary: PCA, random directions."""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.sae.kernels.select import top_k
from auditor.sae.kernels.sparse import decode

_BLOCK_ELEMENTS = 1 << 25


def pca_fvu(fit: Tensor, held: Tensor, components: int) -> float:
    """FVU on `held` [m, d] of the first principal components of `fit` [n, d]."""
    mean = fit.mean(0)
    centred = (fit - mean).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    basis = vectors[:, -min(components, fit.shape[1]) :]
    x = (held - mean).double()
    return _fvu(held, (x @ basis @ basis.T).float() + mean)


def random_dictionary_fvu(fit: Tensor, held: Tensor, d_sae: int, active: int, seed: int) -> float:
    """FVU on `held` of `d_sae` random unit directions, each row the sum of its `active` largest positive projections
    times the one factor that fits `fit` best."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(d_sae, fit.shape[1], generator=generator), dim=1)
    mean = fit.mean(0)
    fitted = _sums(fit - mean, directions, min(active, d_sae))
    factor = float((fitted * (fit - mean)).sum() / fitted.pow(2).sum().clamp_min(1e-30))
    return _fvu(held, factor * _sums(held - mean, directions, min(active, d_sae)) + mean)


def _sums(centred: Tensor, directions: Tensor, active: int) -> Tensor:
    rows = max(1, _BLOCK_ELEMENTS // len(directions))
    blocks = []
    for block in torch.split(centred, rows):
        values, ids = top_k(block @ directions.T, active)
        blocks.append(decode(values.relu(), ids, directions))
    return torch.cat(blocks)


def _fvu(x: Tensor, recon: Tensor) -> float:
    spread = (x - x.mean(0)).double().pow(2).sum()
    return float((x - recon).double().pow(2).sum() / spread.clamp_min(1e-30))
