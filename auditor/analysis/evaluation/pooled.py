"""Samples as evaluations see them: the means over their positions of activations, features and random directions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from auditor.analysis.evaluation.figures import COMPONENTS, CONTROL, DICTIONARY, NEURONS
from auditor.analysis.nulls import random_directions
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.sae.kernels.select import top_k
from auditor.sae.sae import Sae

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

_CHUNK = 2048
MOST_CONTROLS = 8192


@dataclass(frozen=True)
class Representation:
    """Numbers that stand for a row of activations, and what each of them writes.

    `codes` [n, m]; `directions` [m, d]; `rest` [m] is the value of a number that says nothing: 0 of a feature, the mean
    of a coordinate; `base` [d] is the row in which all are at rest; `ids` [m] number them in a dictionary.
    """

    name: str
    codes: Floats
    directions: Floats
    rest: Floats
    base: Floats
    ids: Rows

    @property
    def signed(self) -> bool:
        """Whether a number below its rest says as much as one above it."""
        return bool(self.rest.any()) or self.name in (NEURONS, COMPONENTS)


@dataclass(frozen=True)
class Pooled:
    """`mean` [n, d]: the mean row of each sample. `features` and `control`: the mean activations of the features that
    fire on any of the samples, and of as many random directions of which as many fire at a time."""

    mean: Floats
    features: Representation
    control: Representation

    def representations(self, learn: Rows) -> list[Representation]:
        """The dictionary and what it must beat; components and rests are those of the rows `learn`."""
        return [self.features, neurons(self.mean, learn), components(self.mean, learn), self.control]

    def part(self, rows: Rows) -> Pooled:
        """Some of the samples."""
        features, control = (replace(one, codes=one.codes[rows]) for one in (self.features, self.control))
        return Pooled(self.mean[rows], features, control)


def neurons(x: Floats, learn: Rows) -> Representation:
    """The coordinates of rows x [n, d] themselves."""
    d, mean = x.shape[1], x[learn].mean(0)
    return Representation(NEURONS, x, np.eye(d, dtype=np.float32), mean, mean, np.arange(d))


def components(x: Floats, learn: Rows) -> Representation:
    """The principal components of the rows `learn` of x [n, d]."""
    centre = x[learn].mean(0, dtype=np.float64)
    _, size, axes = np.linalg.svd(x[learn] - centre, full_matrices=False)
    axes = axes[size > 1e-6 * size[0]].astype(np.float32)
    codes = ((x - centre) @ axes.T).astype(np.float32)
    rest = np.zeros(len(axes), np.float32)
    return Representation(COMPONENTS, codes, axes, rest, centre.astype(np.float32), np.arange(len(axes)))


def pool(
    sae: Sae, rows: Iterable[Floats], n: int, *, seed: int = 0, what: str = "samples", reporter: Reporter | None = None
) -> Pooled:
    """Encode the rows [positions, d_in] of each of n samples and take means over its positions. Where what a transcoder
    writes is to be probed, the rows that it writes to stand beside those that it reads, [positions, d_in + d_out]: then
    `mean`, baselines and random directions are of these.

    The random directions have length 1; of each row, less the mean of the first rows, as many of them are kept as the
    dictionary has active features, the largest: what a dictionary gives that has learned nothing. AuditorError for a
    sample without rows.
    """
    reporter = reporter or Reporter()
    reporter.started(f"Encoding {what}", n, what)
    control: _Control | None = None
    means, held, drawn = [], [], []
    waiting: list[Floats] = []
    done = 0
    for one in _with_last(rows):
        if one is not None:
            if not len(one):
                raise AuditorError(f"One of the {what} has no position to encode.", "Leave it out.")
            waiting.append(np.ascontiguousarray(one, dtype=np.float32))
        if not waiting or (one is not None and sum(map(len, waiting)) < _CHUNK):
            continue
        x = np.concatenate(waiting)
        starts = np.concatenate([[0], np.cumsum([len(part) for part in waiting])])
        with torch.no_grad():
            runs = [len(part) for part in waiting] if sae.context is not None else None
            encoded = sae.encode_sparse(torch.from_numpy(x[:, : sae.d_in]).to(sae.device), runs)
        values, ids = (t.cpu().numpy() for t in encoded)
        told = x[:, sae.d_in :] if x.shape[1] > sae.d_in else x
        if control is None:
            active = max(1, round(float((values > 0).sum(1).mean())))
            many = min(sae.d_sae, MOST_CONTROLS)
            control = _Control(told.mean(0), random_directions(many, told.shape[1], seed), active)
        means += [told[a:b].mean(0, dtype=np.float64).astype(np.float32) for a, b in pairwise(starts)]
        held.append(_means(values, ids, starts, sae.d_sae))
        drawn.append(_means(*control.encode(told), starts, len(control.directions)))
        done += len(waiting)
        waiting = []
        reporter.step(done, n, unit=what)
    assert control is not None
    written, base = (t.detach().float().cpu().numpy() for t in (sae.W_dec, sae.b_dec))
    return Pooled(
        np.array(means), _live(DICTIONARY, held, written, base),
        _live(CONTROL, drawn, control.directions, control.centre),
    )  # fmt: skip


@dataclass(frozen=True)
class _Control:
    """Random directions [m, d], of which the `active` largest above 0 fire on a row less `centre` [d]."""

    centre: Floats
    directions: Floats
    active: int

    def encode(self, x: Floats) -> tuple[Floats, Rows]:
        pre = torch.from_numpy((x - self.centre) @ self.directions.T)
        values, ids = top_k(pre, min(self.active, len(self.directions)))
        return values.relu().numpy(), ids.numpy()


def _with_last(rows: Iterable[Floats]) -> Iterator[Floats | None]:
    """The rows of each sample, then None."""
    yield from rows
    yield None


def _means(values: Floats, ids: Rows, starts: NDArray[np.int64], width: int) -> csr_matrix:
    """The means [samples, width] of sparse activations over the rows starts[i] … starts[i + 1] of each sample."""
    size = np.diff(starts)
    sample = np.repeat(np.repeat(np.arange(len(size)), size), values.shape[1])
    fires = values.reshape(-1) > 0
    share = (values.reshape(-1) / size[sample])[fires]
    return csr_matrix((share, (sample[fires], ids.reshape(-1)[fires])), shape=(len(size), width), dtype=np.float32)


def _live(name: str, parts: list[csr_matrix], directions: Floats, base: Floats) -> Representation:
    """Those that fire on any of the samples. `parts` is emptied: it takes as much as what is made of it."""
    codes = vstack(parts).tocsc()
    parts.clear()
    ids = np.flatnonzero(np.diff(codes.indptr)).astype(np.int64)
    found = np.asarray(codes[:, ids].toarray(), dtype=np.float32)
    return Representation(name, found, directions[ids], np.zeros(len(ids), np.float32), base, ids)
