"""Batches of texts, padded without a turn of Python for each token: a GPU waits while Python does something else."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch

from auditor.data.sample import PositionKind, Sample
from auditor.models.inputs import Inputs


def texts_padded(texts: Sequence[Sequence[int]], special: frozenset[int], samples: Sequence[Sample]) -> Inputs:
    """The token numbers of each text as one batch: `auditor.models.inputs.padded` of its `text_row`s."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.full(mask.shape, -1, np.int64)
    ids[mask] = np.fromiter(chain.from_iterable(texts), np.int64, int(lengths.sum()))
    said = mask & ~np.isin(ids, np.fromiter(special, np.int64, len(special)))
    kind = np.where(said, int(PositionKind.TEXT), int(PositionKind.SPECIAL))
    return Inputs(
        ids=torch.from_numpy(ids),
        mask=torch.from_numpy(mask),
        kind=torch.from_numpy(np.where(mask, kind, int(PositionKind.PAD)).astype(np.uint8)),
        unit=torch.from_numpy(np.where(said, said.cumsum(1) - 1, -1).astype(np.int32)),
        pixels=None,
        grid=None,
        samples=tuple(samples),
    )
