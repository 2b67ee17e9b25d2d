"""A store, opened for reading: rows by number, shuffled batches, and where each row comes from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.sample import ORDINARY
from auditor.store import integrity, shuffle
from auditor.store.convert import Numbers, columns_of
from auditor.store.layout import COLUMNS, KINDS, MANIFEST, UNFINISHED, Manifest, Quantised, read_manifest
from auditor.store.samples import StoredSample
from auditor.store.shards import RowPart, Runs, Shard
from auditor.store.unfinished import UnfinishedShard

_CHUNK = 1024
Index = slice | np.ndarray | Sequence[int]


@dataclass(frozen=True)
class Positions:
    """Where rows come from, [n] each: sample number, token or patch number, kind code, token id (-1: none)."""

    sample: np.ndarray
    unit: np.ndarray
    kind: np.ndarray
    token: np.ndarray

    def __len__(self) -> int:
        return len(self.sample)


def open_store(path: Path | str) -> Store:
    """The store in the folder `path`, finished or not (see `complete`). AuditorError if it is none or is damaged."""
    folder = Path(path)
    for name in (MANIFEST, UNFINISHED):
        if (folder / name).is_file():
            manifest = read_manifest(folder / name)
            group, parts = _seen(folder, manifest)
            return Store(folder, manifest, parts, group=group, whole=True)
    raise AuditorError(
        f"“{folder.name}” is not an activation store: it holds no {MANIFEST}.",
        "Choose the folder of a store; another program's HDF5 file comes in by importing it.",
    )


class Store:
    """Recorded activations. Reading is safe from any thread.

    `hook_points` gives each hook's width, deepest last as they were recorded; `meta` tells how the store was made;
    `dtype` is how numbers are kept; `complete` is False while it is being written; `manifest` is all that is told.

    A store of several row groups is seen as its first group that has rows: that group's rows, positions and counts, and
    (`whole`) the hook points of all; `at` gives the store as another group has it.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        parts: Sequence[RowPart],
        *,
        digest_of: Callable[[], str] | None = None,
        group: str | None = None,
        whole: bool = False,
    ) -> None:
        self.path = path
        self.name = path.name.removesuffix(".store") or path.name
        self.group: str = next(iter(manifest.by_group)) if group is None else group
        shown = manifest.hook_points if whole or group is None else manifest.by_group[group]
        recorded: Any = manifest.meta.get("hooks")  # in order of depth, which a JSON object does not keep
        known = [hook for hook in recorded if hook in shown] if isinstance(recorded, list) else []
        self.hook_points: dict[str, int] = {hook: manifest.hook_points[hook] for hook in (*known, *shown)}
        self.dtype: str = manifest.dtype
        self.complete = manifest.complete
        self.samples_digest = manifest.samples_digest
        self.manifest = manifest
        self._digest_of = digest_of
        self._others: dict[str, Store] = {}
        self._parts = list(parts)
        self._row_starts = np.cumsum([0] + [part.n_rows for part in self._parts])
        self._sample_starts = np.cumsum([0] + [part.n_samples for part in self._parts])
        self.n_rows = int(self._row_starts[-1])
        self.n_samples = int(self._sample_starts[-1])

    def __len__(self) -> int:
        return self.n_rows

    @cached_property
    def digest(self) -> str:
        """SHA-256 that names this store's contents and how it was made."""
        return self._digest_of() if self._digest_of else self.manifest.digest

    @cached_property
    def meta(self) -> dict[str, Any]:
        """How it was made; `meta["model"]["path"]` and `meta["samples"]["path"]` are added where they are known."""
        meta = copy.deepcopy(self.manifest.meta)
        for what, place in self.manifest.places.items():
            if isinstance(meta.setdefault(what, {}), dict):
                meta[what]["path"] = place
        return meta

    def at(self, *hooks: str) -> Store:
        """The store as the row group of `hooks` has it, with the hook points of that group; itself where there is one
        group. AuditorError where they are of several."""
        groups = [group for group, held in self.manifest.by_group.items() if set(held) & set(hooks)]
        if len(groups) > 1:
            raise AuditorError(
                f"{' and '.join(hooks)} of the store “{self.name}” have different positions ({' and '.join(groups)}).",
                "Choose hook points of one of them.",
            )
        if not self.manifest.groups or not groups:
            return self
        group = groups[0]
        if group not in self._others:
            parts = _parts(self.path, self.manifest, group)
            self._others[group] = Store(self.path, self.manifest, parts, digest_of=self._digest_of, group=group)
        return self._others[group]

    def each_group(self) -> list[Store]:
        """The store as each of its row groups has it."""
        return [self.at(*hooks) for hooks in self.manifest.by_group.values()]

    def rows(self, index: Index, hook: str | None = None) -> np.ndarray:
        """Activations float32 [n, width] at the rows of `index` (slice, row numbers or bool mask), in that order."""
        name = self.hook(hook)
        if (store := self._home(name)) is not self:
            return store.rows(index, name)
        tail, numbers = (self.hook_points[name],), self.numbers(name)
        raw = numbers.raw.name
        if self.dtype == "float32" or not isinstance(index, slice) or index.step not in (None, 1):
            return numbers.widened(self._read(f"rows/{name}", index, tail, raw))
        begin, end, _ = index.indices(self.n_rows)
        out = np.empty((max(0, end - begin), *tail), dtype=np.float32)
        for at in range(0, len(out), _CHUNK):  # piece by piece: fresh memory for all of it at once costs more
            piece = out[at : at + _CHUNK]
            first = begin + at
            numbers.widen_into(self._read_range(f"rows/{name}", first, first + len(piece), tail, raw), piece)
        return out

    def fill(self, name: str, runs: Runs, out: np.ndarray) -> None:
        """Fill `out`, of the dtype that `numbers` calls raw, with the rows of each run (start, stop) in turn; `name` is
        a column of positions or rows/<hook>."""
        if (store := self._home(name.removeprefix("rows/"))) is not self:
            return store.fill(name, runs, out)
        pieces: list[tuple[int, list[tuple[int, int]]]] = []  # by part, so that each opens its file once
        for start, stop in runs:
            while start < stop:
                part = int(np.searchsorted(self._row_starts, start, side="right")) - 1
                first, last = int(self._row_starts[part]), min(stop, int(self._row_starts[part + 1]))
                if not pieces or pieces[-1][0] != part:
                    pieces.append((part, []))
                pieces[-1][1].append((start - first, last - first))
                start = last
        done = 0
        for part, local in pieces:
            end = done + sum(stop - start for start, stop in local)
            self._parts[part].read(name, local, out[done:end])
            done = end

    def positions(self, index: Index = slice(None)) -> Positions:
        """Where the rows of `index` come from."""
        return Positions(**{name: self._read(name, index, (), dtype) for name, dtype in COLUMNS.items()})

    def sample(self, number: int) -> StoredSample:
        """Sample `number`, 0 … n_samples-1, with its rows `first_row` … `first_row + n_rows - 1`."""
        part = self._part_of(number, self._sample_starts, "sample")
        found = self._parts[part].sample(number - int(self._sample_starts[part]))
        return _moved(found, int(self._row_starts[part]))

    def sample_of(self, row: int) -> StoredSample:
        """The sample that `row` comes from. AuditorError where the store contradicts itself there."""
        number = int(self.positions(slice(row, row + 1)).sample[0])
        found = self.sample(number) if 0 <= number < self.n_samples else None
        if found is None or not found.first_row <= row < found.first_row + found.n_rows:
            raise AuditorError(
                f"Row {row:,} of the store “{self.name}” belongs to no sample.", "Check the store, or record it again."
            )
        return found

    def tokens_around(self, row: int, n: int) -> tuple[list[str], int]:
        """Up to `n` token strings before and after `row` in its sample, and which of them is the row's own."""
        sample = self.sample_of(row)
        here = row - sample.first_row
        if sample.tokens is None or here >= len(sample.tokens):
            return [], -1
        begin = max(0, here - n)
        return list(sample.tokens[begin : here + n + 1]), here - begin

    def counts(self) -> dict[str, int]:
        """Rows of each kind: text, image, special."""
        total = np.zeros(256, dtype=np.int64)
        for column in self._kinds:
            total += np.bincount(column, minlength=256)
        return {kind: int(total[code]) for kind, code in KINDS.items() if total[code]}

    def n_batch_rows(self, kinds: Sequence[str] = ORDINARY) -> int:
        """How many rows `batches` hands out in one epoch."""
        return int(sum(mask.sum() for mask in self._masks(kinds)))

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        hook: str | Sequence[str] | None = None,
        start: int = 0,
        epochs: int | None = None,
        kinds: Sequence[str] = ORDINARY,
        dtype: str = "float32",
        room: shuffle.Room | None = None,
    ) -> Iterator[np.ndarray]:
        """Shuffled rows, [batch_size, width] of `dtype`, without end unless `epochs` is given (then the last may be
        smaller); from batch number `start` on, exactly as if the earlier ones had been taken. Only rows of `kinds`.
        Rows of several hook points lie side by side, in the order that `hook` names them. With `room`, in the store's
        own numbers and in the memory that it gives. AuditorError when there are none.
        """
        named = [self.hook(name) for name in ([hook] if hook is None or isinstance(hook, str) else hook)]
        if batch_size < 1 or start < 0:
            raise ValueError(f"batch_size {batch_size}, start {start}")
        if (store := self.at(*named)).group != self.group:
            return store.batches(
                batch_size, seed=seed, hook=named, start=start, epochs=epochs, kinds=kinds, dtype=dtype, room=room
            )
        masks = self._masks(kinds)
        columns = [(f"rows/{name}", self.hook_points[name]) for name in named]
        numbers = self.numbers(*named)
        blocks = shuffle.blocks_of(masks, sum(width for _, width in columns) * numbers.raw.itemsize)
        if not blocks.total:
            raise AuditorError(
                f"The store “{self.name}” has no rows of kind {' or '.join(kinds)}.",
                f"It has {', '.join(f'{count} {kind}' for kind, count in self.counts().items()) or 'no rows'}.",
            )
        source = shuffle.windows(
            self._parts, masks, columns, numbers, blocks, seed=seed, skip=start * batch_size, epochs=epochs
        )
        if room is not None:
            return shuffle.batches_in(room, source, batch_size, numbers)
        return shuffle.batches(source, batch_size, numbers, dtype)

    def check(self, reporter: Reporter | None = None) -> None:
        """Compare every shard with its digests, and with what any HDF5 program finds in it (in a jailed child).

        AuditorError names the first damage (shard, bytes, rows) and counts the rest; `reporter` hears of each.
        """
        integrity.check(self.name, [part for part in self._parts if isinstance(part, Shard)], reporter or Reporter())

    def numbers(self, *hooks: str) -> Numbers:
        """How the numbers of `hooks`, side by side, are kept; `Numbers.widen` makes float32 of them on any device."""
        return columns_of(self.dtype, self.manifest.scales, hooks)

    def quantisation(self) -> dict[str, Quantised]:
        """What int8 cost at each hook point; empty for other dtypes."""
        total: dict[str, Quantised] = {}
        for shard in self.manifest.shards:
            for hook, cost in shard.quantised.items():
                total[hook] = total.get(hook, Quantised()) + cost
        return total

    def hook(self, name: str | None) -> str:
        """`name`, or the only hook point. AuditorError lists the hook points when it is unknown or must be chosen."""
        if name is None and len(self.hook_points) == 1:
            return next(iter(self.hook_points))
        if name in self.hook_points:
            return str(name)
        raise AuditorError(
            f"The store “{self.name}” has no hook point “{name}”."
            if name
            else f"The store “{self.name}” has several hook points.",
            f"Choose one of: {', '.join(self.hook_points)}.",
        )

    def _home(self, hook: str) -> Store:
        """The store as the group of `hook` has it, itself where that is its own."""
        return self if hook in self.manifest.by_group[self.group] else self.at(hook)

    @cached_property
    def _kinds(self) -> list[np.ndarray]:
        columns = []
        for part in self._parts:
            column = np.empty(part.n_rows, dtype=np.uint8)
            part.read("kind", [(0, part.n_rows)], column)
            columns.append(column)
        return columns

    def _masks(self, kinds: Sequence[str]) -> list[np.ndarray]:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise AuditorError(f"“{unknown[0]}” is no kind of position.", f"The kinds are {', '.join(KINDS)}.")
        table = np.zeros(256, dtype=bool)
        table[[KINDS[kind] for kind in kinds]] = True
        return [table[column] for column in self._kinds]

    def _read(self, name: str, index: Index, tail: tuple[int, ...], dtype: str) -> np.ndarray:
        wanted = np.arange(self.n_rows)[index] if isinstance(index, slice) and index.step not in (None, 1) else index
        if isinstance(wanted, slice):
            begin, end, _ = wanted.indices(self.n_rows)
            return self._read_range(name, begin, max(begin, end), tail, dtype)
        numbers = _row_numbers(wanted, self.n_rows)
        ordered, back = np.unique(numbers, return_inverse=True)
        out = np.empty((len(ordered), *tail), dtype=dtype)
        cuts = np.searchsorted(ordered, self._row_starts)
        for number, part in enumerate(self._parts):
            first, last = cuts[number], cuts[number + 1]
            if last > first:
                part.read(name, _runs(ordered[first:last] - self._row_starts[number]), out[first:last])
        same = len(ordered) == len(numbers) and bool((back == np.arange(len(back))).all())
        return out if same else out[back]

    def _read_range(self, name: str, begin: int, end: int, tail: tuple[int, ...], dtype: str) -> np.ndarray:
        out = np.empty((end - begin, *tail), dtype=dtype)
        for part, start in zip(self._parts, self._row_starts, strict=False):
            first, last = max(begin, int(start)), min(end, int(start) + part.n_rows)
            if last > first:
                part.read(name, [(first - int(start), last - int(start))], out[first - begin : last - begin])
        return out

    def _part_of(self, number: int, starts: np.ndarray, what: str) -> int:
        if not 0 <= number < starts[-1]:
            raise IndexError(f"{what} {number} of {int(starts[-1])}")
        return int(np.searchsorted(starts, number, side="right")) - 1


def _seen(folder: Path, manifest: Manifest) -> tuple[str, list[RowPart]]:
    """The first row group with rows, else the first: pictures alone have none at a hook point of texts."""
    groups = list(manifest.by_group)
    for group in groups:
        parts = _parts(folder, manifest, group)
        if any(part.n_rows for part in parts):
            return group, parts
    return groups[0], _parts(folder, manifest, groups[0])


def _parts(folder: Path, manifest: Manifest, group: str) -> list[RowPart]:
    parts: list[RowPart] = [Shard(folder, facts, group) for facts in manifest.shards]
    if not manifest.complete:
        rest = UnfinishedShard(folder, len(parts), manifest, group)
        parts += [rest] if rest.n_samples else []
    return parts


def _row_numbers(index: np.ndarray | Sequence[int], n_rows: int) -> np.ndarray:
    numbers = np.asarray(index)
    if numbers.dtype == bool:
        if numbers.shape != (n_rows,):
            raise IndexError(f"a mask of shape {numbers.shape} for {n_rows} rows")
        return np.flatnonzero(numbers)
    numbers = np.where(numbers < 0, numbers + n_rows, numbers).astype(np.int64).reshape(-1)
    if numbers.size and (numbers.min() < 0 or numbers.max() >= n_rows):
        raise IndexError(f"row {numbers.max()} of {n_rows}")
    return numbers


def _runs(ordered: np.ndarray) -> Runs:
    breaks = np.flatnonzero(np.diff(ordered) != 1) + 1
    starts = ordered[np.concatenate([[0], breaks])]
    stops = ordered[np.concatenate([breaks - 1, [len(ordered) - 1]])] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _moved(sample: StoredSample, rows: int) -> StoredSample:
    return replace(sample, first_row=sample.first_row + rows)
