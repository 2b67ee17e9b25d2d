"""Figures of a store that say what a dictionary would learn from: norms, outlier and dead dimensions, tokens, groups.

One pass over blocks of rows spread over the store, at most `MOST_BYTES` of them, so that a store of any size is looked
at in about a second and in a few MB of memory; n is always stated. Special rows (attention sinks) are left out of what
is said of dimensions, as they are of training: their norms are a hundred times those of all others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from auditor.store.layout import KINDS
from auditor.store.reader import Store

BLOCK_ROWS = 1024
MOST_BYTES = 128 << 20
# A dimension of over so many times the median root mean square of all: in a Gaussian none is.
OUTLIER = 6.0
MOST_TOKEN_ROWS = 4 << 20
MOST_SAMPLES = 3000
MOST_TOKENS = 100
DIMENSION = np.dtype(
    [("dimension", np.int32), ("rms", np.float32), ("times", np.float32), ("mean", np.float32), ("std", np.float32),
     ("largest", np.float32), ("what", "U7")]
)  # fmt: skip
_NAMES = {code: kind for kind, code in KINDS.items()}


@dataclass(frozen=True)
class Facts:
    """Of one hook point. `dimensions` is an array of `DIMENSION`, one entry each: root mean square, that over the
    median of all, mean, standard deviation, largest magnitude, and “outlier” or “dead” (the same number in every row).
    They are of `n` ordinary rows out of `rows`; `norms` has the Euclidean norms of all rows looked at by kind.
    """

    hook: str
    rows: int
    width: int
    n: int
    dimensions: np.ndarray
    norms: dict[str, np.ndarray]

    def of(self, what: str) -> list[int]:
        """The dimensions that are `outlier` or `dead`, the largest first."""
        held = self.dimensions[self.dimensions["what"] == what]
        return [int(number) for number in held["dimension"][np.argsort(-held["rms"], kind="stable")]]


@dataclass(frozen=True)
class Contents:
    """What stands at the positions: rows by kind (of all), by group and by label of `n_samples` samples looked at, and
    the most frequent tokens (id, string, count) of the `n_tokens` ordinary tokens looked at."""

    rows: int
    samples: int
    kinds: dict[str, int]
    n_samples: int
    groups: dict[str, int]
    labels: dict[str, dict[str, int]]
    n_tokens: int
    distinct: int
    tokens: list[tuple[int, str, int]] = field(default_factory=list)


def look(store: Store, hook: str | None = None, *, seed: int = 0, most_bytes: int = 0) -> Facts:
    """The figures of a hook point (the only one where it is None), over at most `most_bytes` of its rows (0: as many as
    are usual). AuditorError where the store is damaged."""
    name = store.hook(hook)
    held = store.at(name)
    width = held.hook_points[name]
    total, square = np.zeros(width), np.zeros(width)
    low, high = np.full(width, np.inf, np.float32), np.full(width, -np.inf, np.float32)
    norms: dict[str, list[np.ndarray]] = {}
    n = 0
    most = max(1, (most_bytes or MOST_BYTES) // (width * held.numbers(name).raw.itemsize * BLOCK_ROWS))
    for start, stop in _blocks(held.n_rows, most, seed):
        rows = held.rows(slice(start, stop), name)
        kind = held.positions(slice(start, stop)).kind
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
        for code in np.unique(kind):
            norms.setdefault(_NAMES.get(int(code), "other"), []).append(lengths[kind == code])
        usual = rows[kind != KINDS["special"]]
        if len(usual):
            n += len(usual)
            total += usual.sum(axis=0, dtype=np.float64)
            square += np.einsum("ij,ij->j", usual, usual, dtype=np.float64)
            np.minimum(low, usual.min(axis=0), out=low)
            np.maximum(high, usual.max(axis=0), out=high)
    dimensions = _dimensions(total, square, low, high, n)
    return Facts(name, held.n_rows, width, n, dimensions, {kind: np.concatenate(held) for kind, held in norms.items()})


def contents(store: Store, hook: str | None = None, *, seed: int = 0) -> Contents:
    """What stands at the positions of a hook point's rows."""
    held = store.at(store.hook(hook)) if hook or len(store.hook_points) == 1 else store
    picked = _spread(held.n_samples, MOST_SAMPLES, seed)
    groups: Counter[str] = Counter()
    labels: dict[str, Counter[str]] = {}
    for number in picked:
        sample = held.sample(number)
        groups[sample.group] += sample.n_rows
        for label, value in sample.labels.items():
            labels.setdefault(label, Counter())[value] += sample.n_rows
    n_tokens, distinct, tokens = _tokens(held, seed)
    return Contents(
        held.n_rows, held.n_samples, held.counts(), len(picked), dict(groups.most_common()),
        {label: dict(held.most_common()) for label, held in labels.items()}, n_tokens, distinct, tokens,
    )  # fmt: skip


def totals(store: Store) -> tuple[int, dict[str, int]]:
    """Rows of all row groups, and how many of them are of each kind."""
    kinds: Counter[str] = Counter()
    for held in store.each_group():
        kinds.update(held.counts())
    return sum(map(len, store.each_group())), {kind: kinds[kind] for kind in KINDS if kinds[kind]}


def summary(store: Store, *, seed: int = 0) -> dict[str, Any]:
    """The figures as plain values and rows of tables, for a command line; groups, labels and tokens of the row group as
    which the store is seen."""
    found: dict[str, Any] = {
        "samples": store.n_samples, "complete": store.complete, "numbers": store.dtype, "bytes": stored_bytes(store),
    }  # fmt: skip
    if cost := store.quantisation():
        found["rounding_fvu"] = {hook: held.fvu for hook, held in cost.items()}
    share = MOST_BYTES // max(len(store.hook_points), 1)
    looked = [look(store, hook, seed=seed, most_bytes=share) for hook in store.hook_points if len(store.at(hook))]
    found["figures"] = [
        {"hook": facts.hook, "rows": facts.rows, "n": facts.n, "width": facts.width,
         "rms_median": _number(np.median(facts.dimensions["rms"])), "outliers": len(facts.of("outlier")),
         "dead": len(facts.of("dead"))} for facts in looked
    ]  # fmt: skip
    found["outlier_dimensions"] = [
        {"hook": facts.hook, "dimension": at,
         **{name: _number(facts.dimensions[name][at]) for name in ("rms", "times", "largest")}}
        for facts in looked for at in facts.of("outlier")
    ]  # fmt: skip
    found["row_norms"] = [
        {"hook": facts.hook, "kind": kind, **_spread_of(norms)}
        for facts in looked for kind, norms in facts.norms.items()
    ]  # fmt: skip
    held = contents(store, seed=seed)
    by = {"group": held.groups, **{f"label {name}": counts for name, counts in held.labels.items()}}
    found["rows_by"] = [
        {"by": what, "value": value, "rows": rows, "n_samples": held.n_samples}
        for what, counts in by.items() for value, rows in counts.items()
    ]  # fmt: skip
    tokens = [{"id": i, "token": text, "count": count} for i, text, count in held.tokens[:20]]
    found["tokens"] = {"n": held.n_tokens, "distinct": held.distinct, "most_frequent": tokens}
    return found


def stored_bytes(store: Store) -> int:
    """Bytes of all shards on disk, those of other stores that it goes on from too; what is there where it is not
    finished."""
    if store.complete:
        return sum(shard.bytes for shard in store.manifest.shards)
    return sum(file.stat().st_size for file in store.path.iterdir() if file.is_file())


def _dimensions(total: np.ndarray, square: np.ndarray, low: np.ndarray, high: np.ndarray, n: int) -> np.ndarray:
    found = np.zeros(len(total), DIMENSION)
    found["dimension"] = np.arange(len(total))
    if not n:
        return found
    mean = total / n
    rms = np.sqrt(square / n)
    dead = low == high
    median = float(np.median(rms[~dead])) if not dead.all() else 0.0
    found["rms"], found["mean"] = rms, mean
    found["std"] = np.where(dead, 0.0, np.sqrt(np.maximum(square / n - mean**2, 0)))
    found["largest"] = np.maximum(np.abs(low), np.abs(high))
    found["times"] = rms / median if median else 0.0
    found["what"] = np.where(dead, "dead", np.where(found["times"] > OUTLIER, "outlier", ""))
    return found


def _blocks(rows: int, most: int, seed: int) -> Iterator[tuple[int, int]]:
    """At most `most` blocks of rows, in order: all, or one out of each of equal parts of the store, drawn by `seed`."""
    for number in _spread(-(-rows // BLOCK_ROWS), most, seed):
        yield number * BLOCK_ROWS, min((number + 1) * BLOCK_ROWS, rows)


def _spread(count: int, most: int, seed: int) -> Sequence[int]:
    """All numbers below `count`, or one drawn out of each of `most` equal parts."""
    if count <= most:
        return range(count)
    edges = np.linspace(0, count, most + 1).astype(np.int64)
    drawn = np.random.default_rng(seed).integers(edges[:-1], edges[1:])
    return [int(number) for number in drawn]


def _tokens(store: Store, seed: int) -> tuple[int, int, list[tuple[int, str, int]]]:
    """How many ordinary tokens were looked at, how many differ, and the most frequent with a string of each."""
    counts: Counter[int] = Counter()
    first: dict[int, int] = {}
    every = -(-store.n_rows // BLOCK_ROWS)
    for block in _runs(_spread(every, MOST_TOKEN_ROWS // BLOCK_ROWS, seed)):
        start, stop = block[0] * BLOCK_ROWS, min(block[1] * BLOCK_ROWS, store.n_rows)
        at = store.positions(slice(start, stop))
        usual = np.flatnonzero((at.kind != KINDS["special"]) & (at.token >= 0))
        ids, where, held = np.unique(at.token[usual], return_index=True, return_counts=True)
        for token, place, count in zip(ids.tolist(), usual[where].tolist(), held.tolist(), strict=True):
            counts[token] += count
            first.setdefault(token, start + place)
    listed = []
    for token, count in counts.most_common(MOST_TOKENS):
        strings, here = store.tokens_around(first[token], 0)
        listed.append((token, strings[here] if here >= 0 else "", count))
    return sum(counts.values()), len(counts), listed


def _runs(numbers: Sequence[int], most: int = 256) -> Iterator[tuple[int, int]]:
    """Numbers in order as runs [first, last) of at most `most`."""
    start = end = -1
    for number in numbers:
        if number == end and end - start < most:
            end += 1
            continue
        if start >= 0:
            yield start, end
        start, end = number, number + 1
    if start >= 0:
        yield start, end


def _spread_of(norms: np.ndarray) -> dict[str, Any]:
    low, middle, high = np.quantile(norms, (0.05, 0.5, 0.95))
    return {"n": len(norms), "q05": _number(low), "median": _number(middle), "q95": _number(high),
            "largest": _number(norms.max())}  # fmt: skip


def _number(value: Any) -> float:
    return float(f"{float(value):.6g}")
