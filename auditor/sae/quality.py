"""How well a dictionary stands for the activations it was learned from, with intervals and simple baselines beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.sample import ORDINARY, PositionKind
from auditor.sae.baselines import Components, linear, neurons, random_dictionary
from auditor.sae.clt import Dictionary
from auditor.sae.scaling import Columns, names_of
from auditor.sae.source import Source, choose_hook
from auditor.sae.splice import SplicedLoss, spliced_loss
from auditor.sae.whole_samples import whole_samples

__all__ = ["KindQuality", "Quality", "SplicedLoss", "evaluate", "spliced_loss"]

Interval = tuple[float, float]
_KINDS = {name: int(PositionKind[name.upper()]) for name in ORDINARY}
_RESAMPLES = 400
_STRETCHES = 20


class KindQuality(BaseModel):
    """Figures of one kind of position."""

    model_config = ConfigDict(frozen=True)
    n: int
    fvu: float
    fvu_interval: Interval
    l0: float
    l0_interval: Interval


class Quality(BaseModel):
    """Of a dictionary on `n` rows of `n_samples` samples of its store.

    `fvu`: Σ‖y - y'‖² / Σ‖y - mean‖², y what it is to give: its input, or what a transcoder predicts. Where that is
    several hook points, each counts alike: the figure is the mean of those `by_hook`. `l0`: mean active features per
    row. `dead`: share of features silent in all n rows. `intervals`: 95 %; fvu and l0 by bootstrap over samples (rows
    of one sample are not independent; of a single sample over twenty stretches of it), dead from the estimated number
    of live features not yet seen (Chao 1984: f1² / 2 f2). `baselines`: FVU of the mean (1); of PCA with round(l0)
    components, of that many coordinates kept as they are (neurons), and of a random dictionary with that many active;
    for transcoders in place of these of `linear`, the affine map of input to target. Each is fitted on half of the
    samples and measured on the other: on `baseline_n` rows. `baseline_intervals` and `by_hook_intervals` are as those
    of fvu; the mean needs none, it is 1 by what FVU is. `learned_from` says that the dictionary was trained on these
    rows, where fresh ones test harder; of a stream, samples are held out.
    """

    model_config = ConfigDict(frozen=True)
    n: int
    n_samples: int
    seed: int
    fvu: float
    l0: float
    dead: float
    intervals: dict[str, Interval]
    by_kind: dict[str, KindQuality]
    baselines: dict[str, float]
    baseline_n: int = 0
    baseline_intervals: dict[str, Interval] = {}
    by_hook: dict[str, float] = {}
    by_hook_intervals: dict[str, Interval] = {}
    learned_from: bool = False


@dataclass
class _Rows:
    """Rows x [n, d_in] and what is to be made of them, y [n, d_out] (x itself for autoencoders), the squared error of
    each row and hook point, `error` [n, hook points], count of active features, and where the rows are from. y and
    error are in units of each hook point's standard deviation where there are several."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    error: NDArray[np.float64]
    active: NDArray[np.float64]
    sample: NDArray[np.int32]
    kind: NDArray[np.uint8]


def evaluate(
    sae: Dictionary, store: Source, n: int = 8192, seed: int = 0, reporter: Reporter | None = None,
    components: Callable[[Tensor, int], Components] = Components.of,
) -> Quality:
    """Measure `sae` on up to `n` random rows (at least two) of its hook points; a temporal dictionary on whole samples
    of about as many. `reporter` is told steps in rows, each counted once for the dictionary and once for each baseline.
    `components` finds those of PCA. AuditorError if the store does not fit."""
    n, reporter = max(2, n), reporter or Reporter()
    rows, columns, counts = _measure(sae, store, n, seed, reporter)
    rng = np.random.default_rng([seed, 1])
    (fvu, fvu_interval), (l0, l0_interval) = _ratios(rows, np.ones(len(rows.x), dtype=bool), rng)
    by_kind = {}
    for name, code in _KINDS.items():
        which = rows.kind == code
        if which.any():
            (kind_fvu, a), (kind_l0, b) = _ratios(rows, which, rng)
            by_kind[name] = KindQuality(n=int(which.sum()), fvu=kind_fvu, fvu_interval=a, l0=kind_l0, l0_interval=b)
    dead, dead_interval = dead_share(counts)
    simple, baseline_n = _baselines(sae, rows, l0, seed, rng, reporter, components)
    hooks = _by_hook(columns, rows, rng)
    return Quality(
        n=len(rows.x), n_samples=len(np.unique(rows.sample)), seed=seed, fvu=fvu, l0=l0, dead=dead,
        intervals={"fvu": fvu_interval, "l0": l0_interval, "dead": dead_interval}, by_kind=by_kind,
        baselines={"mean": 1.0} | {name: value for name, (value, _) in simple.items()}, baseline_n=baseline_n,
        baseline_intervals={name: interval for name, (_, interval) in simple.items()},
        by_hook={name: value for name, (value, _) in hooks.items()},
        by_hook_intervals={name: interval for name, (_, interval) in hooks.items()},
    )


def dead_share(counts: Tensor) -> tuple[float, Interval]:
    """Share of features with count 0 in `counts` [d_sae], and the range it may fall to as more rows are seen."""
    silent, once, twice = (int((counts == number).sum()) for number in (0, 1, 2))
    unseen = once * once / (2 * twice) if twice else once * (once - 1) / 2
    share = silent / len(counts)
    return share, (max(0.0, share - unseen / len(counts)), share)


def passes(sae: Dictionary) -> int:
    """How often `evaluate` goes over its rows: once for the dictionary, and once for each baseline."""
    return 1 + len(_names_of_baselines(sae))


def _names_of_baselines(sae: Dictionary) -> tuple[str, ...]:
    return ("linear",) if sae.hook_out else ("pca", "neurons", "random")


def _measure(
    sae: Dictionary, store: Source, n: int, seed: int, reporter: Reporter
) -> tuple[_Rows, Columns, Tensor]:
    """The rows, the hook points of y with their widths, and how often each feature fired."""
    sources = _columns(sae.hook, sae.d_in, store)
    columns = _columns(sae.hook_out, sae.d_out, store) if sae.hook_out else sources
    index, runs = whole_samples(store, n, seed) if sae.context else (_choose(store, n, seed), None)
    where = store.positions(index)
    told = np.isin(np.asarray(where.kind), list(_KINDS.values()))
    x = np.concatenate([store.rows(index, name) for name, _ in sources], axis=1)
    y = np.concatenate([store.rows(index, name) for name, _ in columns], axis=1) if sae.hook_out else x
    error, active = np.empty((len(x), len(columns))), np.empty(len(x))
    counts = torch.zeros(sae.d_sae, dtype=torch.int64)
    starts = np.cumsum([0, *(width for _, width in columns)])[:-1]
    with torch.no_grad():
        for part, some in sae.blocks(len(x), runs):
            block = torch.from_numpy(x[part]).to(sae.device)
            values, ids = sae.encode_sparse(block, some)
            on = (values > 0) & torch.from_numpy(told[part]).to(sae.device)[:, None]
            found = sae.complete(sae.decode_sparse(values, ids), block, some).cpu().numpy()
            error[part] = np.add.reduceat(np.square((found - y[part]).astype(np.float64)), starts, axis=1)
            active[part] = on.sum(1).cpu().numpy()
            counts += torch.bincount(ids[on], minlength=sae.d_sae).cpu()
            reporter.step(min(part.stop, len(x)), passes(sae) * len(x), unit="rows")
    if not told.all():  # special positions are read, not judged
        x, y, error, active = x[told], y[told], error[told], active[told]
    if len(x) < 2:
        raise AuditorError("The store has no rows of text, image or sound positions.", "Record samples first.")
    if len(columns) > 1:
        spread = np.add.reduceat(y.astype(np.float64).var(0), starts).clip(1e-30)
        error /= spread
        y = y / np.sqrt(spread).repeat([width for _, width in columns]).astype(np.float32)
    sample, kind = np.asarray(where.sample)[told], np.asarray(where.kind)[told]
    return _Rows(x, y, error, active, sample, kind), columns, counts


def _columns(hook: str, width: int, store: Source) -> Columns:
    """The hook points named in `hook`, or the store's only one. AuditorError unless they are `width` wide in all."""
    names = names_of(hook)
    if len(names) <= 1:
        names = [choose_hook(store, names[0] if names and names[0] in store.hook_points else "")]
    missing = [name for name in names if name not in store.hook_points]
    if missing:
        raise AuditorError(
            f"The store has no hook point “{missing[0]}”.", f"Choose one that has {', '.join(names)}."
        )
    found = sum(store.hook_points[name] for name in names)
    if found != width:
        raise AuditorError(
            f"“{', '.join(names)}” has width {found} in the store, but the dictionary works on {width}.",
            "Choose the store that it was trained on.",
        )
    return tuple((name, store.hook_points[name]) for name in names)


def _choose(store: Source, n: int, seed: int) -> NDArray[np.int64]:
    """Up to n rows of text and image positions, ascending."""
    rng = np.random.default_rng([seed, 0])
    taken: list[NDArray[np.int64]] = []
    order = rng.permutation(store.n_rows)
    for begin in range(0, store.n_rows, n):
        some = np.sort(order[begin : begin + n])
        taken.append(some[np.isin(store.positions(some).kind, list(_KINDS.values()))])
        if sum(map(len, taken)) >= n:
            break
    index = np.concatenate(taken)[:n] if taken else np.empty(0, dtype=np.int64)
    if len(index) < 2:
        raise AuditorError("The store has no rows of text, image or sound positions.", "Record samples first.")
    return np.sort(index)


def _ratios(
    rows: _Rows, which: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[tuple[float, Interval], tuple[float, Interval]]:
    """(FVU, interval) and (L0, interval) of the rows `which`."""
    y = rows.y[which].astype(np.float64)
    resampled = _Resampled(rows.sample[which], rng)
    fvu = resampled.ratio(rows.error[which].sum(1), np.square(y - y.mean(0)).sum(1))
    return fvu, resampled.ratio(rows.active[which], np.ones(len(y)))


def drawn_together(sample: NDArray[Any]) -> NDArray[np.int64]:
    """Which rows a bootstrap draws together, numbered from 0: those of one `sample` [n]. Of the only sample that there
    is, twenty stretches, for which its rows are to be in order: next to one another they are alike."""
    owner: NDArray[np.int64] = np.unique(sample, return_inverse=True)[1]
    if len(owner) and not owner.any():
        owner = np.arange(len(owner)) * min(_STRETCHES, len(owner)) // len(owner)
    return owner


class _Resampled:
    """Bootstrap over the samples that rows are of, `sample` [n]: the same draws for all ratios of the same rows."""

    def __init__(self, sample: NDArray[Any], rng: np.random.Generator) -> None:
        self._owner = drawn_together(sample)
        size = int(self._owner.max()) + 1
        self._weights = rng.multinomial(size, np.full(size, 1 / size), size=_RESAMPLES)

    def ratio(self, above: NDArray[Any], below: NDArray[Any]) -> tuple[float, Interval]:
        """Σ above / Σ below, [n] each, and its 95 % interval."""
        top, bottom = (np.bincount(self._owner, weights=part) for part in (above, below))
        drawn = (self._weights @ top) / np.maximum(self._weights @ bottom, 1e-30)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(top.sum() / max(bottom.sum(), 1e-30)), (float(low), float(high))


def _by_hook(columns: Columns, rows: _Rows, rng: np.random.Generator) -> dict[str, tuple[float, Interval]]:
    if len(columns) == 1:
        return {}
    resampled, found = _Resampled(rows.sample, rng), {}
    ends = np.cumsum([width for _, width in columns])
    for at, ((name, width), end) in enumerate(zip(columns, ends, strict=True)):
        y = rows.y[:, end - width : end].astype(np.float64)
        found[name] = resampled.ratio(rows.error[:, at], np.square(y - y.mean(0)).sum(1))
    return found


def _baselines(
    sae: Dictionary, rows: _Rows, l0: float, seed: int, rng: np.random.Generator, reporter: Reporter,
    components: Callable[[Tensor, int], Components],
) -> tuple[dict[str, tuple[float, Interval]], int]:
    """FVU and interval of each, and of how many rows."""
    samples = np.unique(rows.sample)
    fitting = np.isin(rows.sample, np.random.default_rng([seed, 2]).permutation(samples)[: (len(samples) + 1) // 2])
    if fitting.all():  # one sample only: nothing to hold out
        fitting = np.arange(len(fitting)) % 2 == 0
    fit, held = torch.from_numpy(rows.y[fitting]), torch.from_numpy(rows.y[~fitting])
    total, done = passes(sae) * len(rows.x), len(rows.x)
    active, read = max(1, round(l0)), torch.from_numpy(rows.x)

    def told(count: int) -> None:
        reporter.step(done + count, total, unit="rows")

    make: dict[str, Callable[[], Tensor]] = {
        "linear": lambda: linear(read[fitting], fit, read[~fitting], held),
        "pca": lambda: components(fit, active).reconstruct(held),
        "neurons": lambda: neurons(fit, held, active),
        "random": lambda: random_dictionary(fit, held, sae.d_sae, active, seed, told),
    }
    given = {}
    for name in _names_of_baselines(sae):
        given[name] = make[name]()
        done += len(rows.x)
        told(0)
    resampled = _Resampled(rows.sample[~fitting], rng)
    spread = (held - held.mean(0)).double().pow(2).sum(1).numpy()
    errors = {name: (held - recon).double().pow(2).sum(1).numpy() for name, recon in given.items()}
    return {name: resampled.ratio(error, spread) for name, error in errors.items()}, len(held)
