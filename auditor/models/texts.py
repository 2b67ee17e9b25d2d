"""Batches of texts, padded without a turn of Python for each token, and in few calls: a GPU waits while Python does
something else, and each call that lets another thread in holds up the one that keeps the GPU busy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import numpy as np
import torch

from auditor.data.sample import PositionKind, Sample
from auditor.models.inputs import Inputs

# By 0 for padding, 1 for a special token, 2 for another one.
_KINDS = np.array([PositionKind.PAD, PositionKind.SPECIAL, PositionKind.TEXT], np.uint8)


def texts_padded(texts: Sequence[Sequence[int]], special: frozenset[int], samples: Sequence[Sample]) -> Inputs:
    """The token numbers of each text as one batch: `auditor.models.inputs.padded` of its `text_row`s."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.full(mask.shape, -1)
    ids[mask] = np.fromiter(chain.from_iterable(texts), np.int64, int(lengths.sum()))
    ordinary = _ordinary(special)
    said = mask & ordinary[np.minimum(ids, len(ordinary) - 1)]
    count = said.cumsum(1, dtype=np.int32)
    count *= said
    count -= 1
    return Inputs(
        ids=torch.from_numpy(ids),
        mask=torch.from_numpy(mask),
        kind=torch.from_numpy(_KINDS[np.add(mask, said, dtype=np.intp)]),
        unit=torch.from_numpy(count),
        pixels=None,
        grid=None,
        samples=tuple(samples),
        ragged=not mask.all(),
    )


@lru_cache(8)
def _ordinary(special: frozenset[int]) -> np.ndarray:
    """Whether a number is no special token's, up to the first one beyond them all."""
    table = np.ones(max(special, default=-1) + 2, bool)
    table[list(special)] = False
    return table
