"""Samples taken whole from a store, for dictionaries that read them in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from auditor.base.errors import AuditorError
from auditor.data.sample import PositionKind
from auditor.sae.source import Source


def whole_samples(store: Source, n: int, seed: int) -> tuple[NDArray[np.int64], list[int]]:
    """Numbers of the rows of random samples, each from its first row to its last, and how many rows each has: as many
    samples as `n` rows hold, and at least one. Special positions are among them: the network saw them too."""
    starts, lengths = _samples_of(store)
    order = np.random.default_rng([seed, 0]).permutation(len(starts))
    drawn = order[: max(1, int(np.searchsorted(lengths[order].cumsum(), n, side="right")))]
    return np.concatenate([np.arange(starts[i], starts[i] + lengths[i]) for i in drawn]), lengths[drawn].tolist()


def batches_in_order(
    store: Source, batch_size: int, *, seed: int, hooks: Sequence[str], start: int, kinds: Sequence[str]
) -> Iterator[NDArray[np.float32]]:
    """Batches without end, from number `start` on exactly as if the earlier ones had been taken: random samples one
    after another, each whole but for the last, which is cut where the batch is full. The hook points' columns side by
    side, then two more: 1 where a sample begins, and 1 where the position is of `kinds`.

    AuditorError where the store has no such positions.
    """
    starts, lengths = _samples_of(store)
    wanted = [int(PositionKind[name.upper()]) for name in kinds]
    if not np.isin(np.asarray(store.positions(slice(0, store.n_rows)).kind), wanted).any():
        raise AuditorError(f"The store has no rows of kind {' or '.join(kinds)}.", "Choose other positions.")
    while True:
        rng = np.random.default_rng([seed, start])
        parts, held = list[NDArray[np.int64]](), 0
        while held < batch_size:
            for number in rng.permutation(len(starts)):
                parts.append(np.arange(starts[number], starts[number] + min(lengths[number], batch_size - held)))
                held += len(parts[-1])
                if held == batch_size:
                    break
        index = np.concatenate(parts)
        begins = np.isin(np.arange(batch_size), np.cumsum([0, *(len(part) for part in parts)]))
        judged = np.isin(np.asarray(store.positions(index).kind), wanted)
        columns = [np.asarray(store.rows(index, hook), np.float32) for hook in hooks]
        yield np.concatenate([*columns, begins[:, None], judged[:, None]], axis=1, dtype=np.float32)
        start += 1


def _samples_of(store: Source) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first row of each sample, and how many rows it has."""
    if not store.n_rows:
        raise AuditorError("The store has no rows.", "Record samples first.")
    sample = np.asarray(store.positions(slice(0, store.n_rows)).sample, np.int64)
    starts = np.flatnonzero(np.diff(sample, prepend=-1))
    return starts, np.diff(starts, append=len(sample))
