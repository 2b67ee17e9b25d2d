"""Which features of one dictionary another one has too, against random directions; and stability over seeds.

Features are matched by the cosine of their decoder directions. Two dictionaries that differ only in seed share about
30 % of their features (Paulo and Belrose 2025, "SAEs trained on the same data learn different features"), so a match
rate is shown with its interval and beside what random directions of the same spread reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch.nn import functional

from auditor.analysis.nulls import Estimate, proportion
from auditor.base.errors import AuditorError
from auditor.sae import Sae
from auditor.sae.quality import Quality, evaluate
from auditor.store import Store

Method = Literal["hungarian", "mutual"]
Floats = NDArray[np.float32]
# The assignment problem takes cubic time: 8,192 features need about a minute.
MOST_HUNGARIAN = 8192


@dataclass(frozen=True)
class Matching:
    """Matched features of dictionaries a and b.

    `pairs` int64 [m, 2] (feature of a, feature of b) with `cosine` [m], in the order of a. `null`: cosines of the same
    matching of a with random directions that have b's covariance. `matched`: share of a's live features whose match
    reaches `threshold` (Wilson interval); `beyond_null`: share beyond the null's 99 % quantile; `null_matched`: what
    the random directions reach at `threshold`.
    """

    method: str
    pairs: NDArray[np.int64]
    cosine: Floats
    null: Floats
    threshold: float
    matched: Estimate
    beyond_null: Estimate
    null_matched: Estimate
    null_quantile: float
    seed: int


@dataclass(frozen=True)
class Comparison:
    """Two dictionaries side by side: the matching, and facts and (given a store) quality of each."""

    matching: Matching
    facts: list[dict[str, Any]]
    quality: list[Quality] = field(default_factory=list)


@dataclass(frozen=True)
class Stability:
    """How often each feature of the first dictionary appears again in others that differ in seed.

    `share` [features]: of the other dictionaries that have it at `threshold`; `mean`: over all features and others.
    """

    share: Floats
    threshold: float
    mean: Estimate
    null_mean: float
    n_dictionaries: int


def match(
    a: Sae,
    b: Sae,
    *,
    method: Method | None = None,
    threshold: float = 0.7,
    live_a: NDArray[np.int64] | None = None,
    live_b: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> Matching:
    """Match decoder directions; `live_*` name the features to consider (default: all with a direction).

    "hungarian" gives each feature at most one partner with the largest sum of cosines; "mutual" pairs nearest
    neighbours that choose one another (the default beyond 8,192 features). AuditorError for different widths.
    """
    if a.kind != b.kind or a.sources != b.sources:
        raise AuditorError(
            f"These dictionaries ({a.kind} of {a.hook}, {b.kind} of {b.hook}) write to different places, so their "
            "directions have no angle.",
            "Compare dictionaries of one kind and place.",
        )
    if a.d_out != b.d_out:
        raise AuditorError(
            f"These dictionaries have widths {a.d_out} and {b.d_out}; directions of different spaces have no angle.",
            "Compare dictionaries of hook points of the same width.",
        )
    rows_a, first = _directions(a, live_a)
    rows_b, second = _directions(b, live_b)
    chosen: Method = method or ("hungarian" if max(len(first), len(second)) <= MOST_HUNGARIAN else "mutual")
    if chosen == "hungarian" and max(len(first), len(second)) > MOST_HUNGARIAN:
        raise AuditorError(f"Over {MOST_HUNGARIAN} features take too long to assign.", "Choose the method “mutual”.")
    left, right, cosine = _matched(first, second, chosen)
    null = _matched(first, _random_like(second, seed), chosen)[2]
    n = len(first)
    quantile = float(np.quantile(null, 0.99)) if len(null) else 0.0
    return Matching(
        method=chosen,
        pairs=np.stack([rows_a[left], rows_b[right]], 1),
        cosine=cosine,
        null=null,
        threshold=threshold,
        matched=proportion(int((cosine >= threshold).sum()), n, "features"),
        beyond_null=proportion(int((cosine > quantile).sum()), n, "features"),
        null_matched=proportion(int((null >= threshold).sum()), n, "features"),
        null_quantile=quantile,
        seed=seed,
    )


def compare(a: Sae, b: Sae, store: Store | None = None, *, n: int = 8192, seed: int = 0, **options: Any) -> Comparison:
    """`match`, with facts of both; with a store also FVU, L0 and dead features on the same rows of it."""
    facts = [_facts(sae) for sae in (a, b)]
    quality: list[Quality] = []
    if store is not None:
        quality = [evaluate(sae, store, n=n, seed=seed) for sae in (a, b)]
    return Comparison(match(a, b, seed=seed, **options), facts, quality)


def stability(saes: Sequence[Sae], *, threshold: float = 0.7, seed: int = 0, **options: Any) -> Stability:
    """Reappearance of the first dictionary's features in the others (the interval counts every feature and other)."""
    if len(saes) < 2:
        raise AuditorError("Stability needs at least two dictionaries.", "Train the same settings with another seed.")
    share, null = np.zeros(saes[0].d_sae, dtype=np.float32), []
    for other in saes[1:]:
        found = match(saes[0], other, threshold=threshold, seed=seed, **options)
        share[found.pairs[found.cosine >= threshold, 0]] += 1
        null.append(found.null_matched.estimate)
    others = len(saes) - 1
    mean = proportion(int(share.sum()), others * saes[0].d_sae, "features × dictionaries")
    return Stability(share / np.float32(others), threshold, mean, float(np.mean(null)), len(saes))


def _facts(sae: Sae) -> dict[str, Any]:
    return {"hook": sae.hook, "arch": sae.arch, "d_in": sae.d_in, "d_sae": sae.d_sae, "k": sae.k, "digest": sae.digest}


def _directions(sae: Sae, live: NDArray[np.int64] | None) -> tuple[NDArray[np.int64], torch.Tensor]:
    """Feature ids and decoder directions of length 1; features without a direction are left out."""
    rows = np.arange(sae.d_sae) if live is None else np.asarray(live, dtype=np.int64)
    decoder = sae.W_dec.detach().float().cpu()[torch.from_numpy(rows)]
    has = decoder.norm(dim=1) > 1e-8
    if not bool(has.any()):
        raise AuditorError("A dictionary has no live feature to match.", "Choose another dictionary.")
    return rows[has.numpy()], functional.normalize(decoder[has], dim=1)


def _matched(a: torch.Tensor, b: torch.Tensor, method: Method) -> tuple[NDArray[Any], NDArray[Any], Floats]:
    if method == "hungarian":
        cosine = (a @ b.T).numpy()
        left, right = linear_sum_assignment(cosine, maximize=True)
        return left, right, cosine[left, right]
    best, to = _nearest(a, b)
    back = _nearest(b, a)[1]
    left = np.flatnonzero(back[to] == np.arange(len(to)))
    return left, to[left], best[left]


def _nearest(a: torch.Tensor, b: torch.Tensor) -> tuple[Floats, NDArray[np.int64]]:
    """Largest cosine of each row of a to a row of b, and which row; in blocks, exact."""
    parts = [(block @ b.T).max(1) for block in torch.split(a, 2048)]
    return torch.cat([p.values for p in parts]).numpy(), torch.cat([p.indices for p in parts]).numpy()


def _random_like(b: torch.Tensor, seed: int) -> torch.Tensor:
    """As many directions drawn from a Gaussian with the second moments of b's: a null that knows where b points."""
    generator = torch.Generator().manual_seed(seed)
    values, vectors = torch.linalg.eigh(b.T @ b / len(b))
    drawn = torch.randn(len(b), b.shape[1], generator=generator) * values.clamp(min=0).sqrt()
    return functional.normalize(drawn @ vectors.T, dim=1)
