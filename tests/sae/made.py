"""Architectures and batches as the training loop makes them, on data that needs no scaling."""

from __future__ import annotations

import torch

from auditor.sae.archs import ARCHITECTURES
from auditor.sae.archs.architecture import Batch
from auditor.sae.scaling import Reading, Scaling


def batch_of(x, step=0, dead=None, target=None, d_sae=1):
    """A batch of rows x [B, d_in] (numpy or torch), with `target` [B, d_out] where something else is predicted."""
    x = torch.as_tensor(x)
    dead = torch.zeros(d_sae, dtype=torch.bool) if dead is None else torch.as_tensor(dead)
    return Batch(x, step, dead, x if target is None else torch.as_tensor(target))


def architecture(config, x, target=None, sources=None, targets=None):
    """The architecture that `config` is of, for data like x [n, d_in]; `sources` and `targets` name its columns."""
    kind = next(kind for kind in map(ARCHITECTURES.get, ARCHITECTURES.names()) if kind.config_class is type(config))
    batch = batch_of(x, target=target, d_sae=config.d_sae)
    sources = sources or (("x", batch.x.shape[1]),)
    targets = targets or (() if target is None else (("y", batch.target.shape[1]),))
    scaling = Scaling(Reading(sources, targets), torch.ones(batch.x.shape[1]), torch.ones(batch.target.shape[1]))
    return kind(config, scaling, batch, torch.device("cpu"))
