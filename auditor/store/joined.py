"""Stores of several models or checkpoints over the same samples, read as one store with the hook points of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from auditor.base.digest import digest_json
from auditor.base.errors import AuditorError
from auditor.store.layout import COLUMNS, Manifest
from auditor.store.reader import Store
from auditor.store.samples import StoredSample
from auditor.store.shards import Runs


def joined(stores: Sequence[Store]) -> Store:
    """One store with the rows of all side by side; hook point <hook> of store <name> is <name>/<hook> in it.

    AuditorError where the stores do not hold the same positions of the same samples in the same order.
    """
    first, *others = stores
    for other in others:
        _must_match(first, other)
    names = _names(stores)
    hooks = {
        f"{name}/{hook}": width
        for name, store in zip(names, stores, strict=True)
        for hook, width in store.hook_points.items()
    }
    dtype = first.manifest.dtype if len({store.dtype for store in stores}) == 1 else "float32"
    scales = {
        f"{name}/{hook}": scale
        for name, store in zip(names, stores, strict=True)
        for hook, scale in store.manifest.scales.items()
        if dtype == "int8"
    }
    digests = [store.digest for store in stores]
    meta: dict[str, Any] = {
        "model": {"name": " + ".join(names), "digest": ""}, "samples": first.meta.get("samples", {}),
        "joined": [{"name": name, "digest": digest} for name, digest in zip(names, digests, strict=True)],
    }
    manifest = Manifest(
        complete=all(store.complete for store in stores), dtype=dtype, hook_points=hooks, scales=scales, shard_bytes=0,
        rows=first.n_rows, samples=first.n_samples, samples_digest=first.samples_digest, meta=meta,
    )
    part = _Together(dict(zip(names, stores, strict=True)), dtype)
    return Store(
        first.path.with_name(" + ".join(names)), manifest, [part], digest_of=lambda: digest_json({"joined": digests})
    )


def learned_from(stores: Sequence[Store], hook: str) -> Store:
    """What is learned from `stores` at the hook points named in `hook` (separated by commas): the row group of those,
    of one store, or of several side by side."""
    seen = []
    for store in stores:
        named = [name.strip().removeprefix(f"{store.name}/") for name in hook.split(",")]
        seen.append(store.at(*(name for name in named if name in store.hook_points)))
    return seen[0] if len(seen) == 1 else joined(seen)


def in_all(hook_points: Iterable[str], hook: str) -> str:
    """The hook points named in `hook` (separated by commas) as a joined store with `hook_points` has them: one without
    a store's name means that of every store."""
    held, found = list(hook_points), list[str]()
    for name in filter(None, (part.strip() for part in hook.split(","))):
        everywhere = [hook for hook in held if hook.endswith(f"/{name}")]
        found += [name] if name in held else everywhere or [name]
    return ", ".join(dict.fromkeys(found))


class _Together:
    """All rows of all stores as one part."""

    def __init__(self, stores: dict[str, Store], dtype: str) -> None:
        self._stores, self._dtype = stores, dtype
        self._first = next(iter(stores.values()))

    @property
    def n_rows(self) -> int:
        return self._first.n_rows

    @property
    def n_samples(self) -> int:
        return self._first.n_samples

    def read(self, name: str, runs: Runs, out: np.ndarray) -> None:
        if not name.startswith("rows/"):
            return self._first.fill(name, runs, out)
        prefix, _, hook = name.removeprefix("rows/").rpartition("/")
        store = self._stores[prefix]
        if store.dtype == self._dtype:
            return store.fill(f"rows/{hook}", runs, out)
        numbers = store.numbers(hook)
        kept = np.empty(out.shape, dtype=numbers.raw)
        store.fill(f"rows/{hook}", runs, kept)
        numbers.widen_into(kept, out)

    def sample(self, number: int) -> StoredSample:
        return self._first.sample(number)


def _must_match(one: Store, other: Store) -> None:
    where = f"The stores “{one.name}” and “{other.name}”"
    hint = "Record both from the same samples with the same settings, context and seed included."
    if (one.n_rows, one.n_samples) != (other.n_rows, other.n_samples):
        raise AuditorError(
            f"{where} hold {one.n_rows} rows of {one.n_samples} samples and {other.n_rows} of {other.n_samples}.", hint
        )
    ours, theirs = one.positions(), other.positions()
    for name in COLUMNS:
        differing = np.flatnonzero(getattr(ours, name) != getattr(theirs, name))
        if len(differing):
            raise AuditorError(f"{where} are of different positions from row {differing[0]} on ({name}).", hint)
    # The digest is taken by shard, and wider rows are cut into more shards: where it differs, all must be looked at.
    if one.samples_digest == other.samples_digest:
        return
    for number in range(one.n_samples):
        mine, yours = one.sample(number), other.sample(number)
        if (mine.id, mine.text, mine.caption) != (yours.id, yours.text, yours.caption):
            raise AuditorError(f"{where} are of different samples: number {number} is {mine.id} and {yours.id}.", hint)


def _names(stores: Sequence[Store]) -> list[str]:
    """What each store is called: its name, without what separates names of hook points, and numbered if it is not the
    first of that name."""
    names: list[str] = []
    for store in stores:
        name = store.name.replace(",", "_").replace("/", "_").strip()
        same = sum(held == name or held.startswith(f"{name}#") for held in names)
        names.append(f"{name}#{same + 1}" if same else name)
    return names
