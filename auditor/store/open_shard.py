"""The shard that is being written: its rows go to their place in the file as they come, everything else around them
once it is full."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np

from auditor.base.digest import digest_json, sha256_bytes
from auditor.base.errors import AuditorError
from auditor.base.files import sync_folder
from auditor.base.writeback import begin_writing
from auditor.store.abreast import Abreast
from auditor.store.integrity import BlockDigests
from auditor.store.journal import Entry, Journal, gathered, put
from auditor.store.layout import (
    BLOCK_BYTES,
    COLUMNS,
    KINDS,
    RAW,
    VECTORS,
    DatasetFacts,
    Manifest,
    Quantised,
    ShardFacts,
    column_name,
    shard_name,
)
from auditor.store.shard import structures
from auditor.store.shards import not_followed

_PAGE = 4096
_COPY = 16 << 20
# So much is written before the disk is to begin with it.
_BEGUN = 8 << 20
# A shard that ends with more empty room between its hook points than this part of it is written anew without.
_HOLES = 16


class OpenShard:
    """Shard `number` of the unfinished store `manifest` in `folder`, as far as it was acknowledged (`entries`).

    `capacity` is the room for rows of each group. OSError, and what was acknowledged as it was, on a full disk.
    """

    def __init__(self, folder: Path, number: int, manifest: Manifest, journal: Journal) -> None:
        self.folder, self.name, self._manifest = folder, shard_name(number), manifest
        self.path = partial_of(folder, number)
        self._journal = journal
        self.abreast = Abreast(1)
        self._room, self.capacity = 0, dict[str, int]()
        self._places: dict[str, int] = {}
        self.quantised: dict[str, Quantised] = {}
        self.rows = dict.fromkeys(manifest.by_group, 0)
        self._file: IO[bytes] | None = None
        self._unbegun = 0
        self._blocks = BlockDigests(BLOCK_BYTES)
        if self.entries:
            try:
                self._take(self.entries[-1].facts)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise journal.faulty(str(error)) from None

    @classmethod
    def begun(
        cls, folder: Path, number: int, manifest: Manifest, rows: Mapping[str, int], most: int | None = None
    ) -> OpenShard:
        """A new one with room for at least `rows` of each group; for no more than `most`, where no more will come."""
        shard = cls(folder, number, manifest, Journal(journal_of(folder, number)))
        item = np.dtype(RAW[manifest.dtype]).itemsize
        capacity = {}
        for group, hooks in manifest.by_group.items():
            row_bytes = item * sum(manifest.hook_points[hook] for hook in hooks)
            capacity[group] = max(rows[group], min(manifest.shard_bytes // row_bytes, most or sys.maxsize))
        nowhere = {name: DatasetFacts(offset=0, shape=[0], dtype=_dtype(name, manifest)) for name in _names(manifest)}
        shard._lay_out(_whole_pages(len(structures(nowhere, 0))), capacity)
        shard._open()
        sync_folder(folder)
        return shard

    @classmethod
    def resumed(cls, folder: Path, number: int, manifest: Manifest) -> OpenShard | None:
        """The one that a writer was at, None if it had acknowledged nothing of it. AuditorError where rows are gone."""
        shard = cls(folder, number, manifest, Journal(journal_of(folder, number)))
        if not shard.entries:
            return None
        shard._unnamed()
        ends = [shard._places[hook] + size for hook, size in shard._used().items() if size]
        plain = shard.path.is_file() and not shard.path.is_symlink()
        if not plain or shard.path.stat().st_size < max(ends, default=0):
            raise AuditorError(
                f"{shard.name} of the unfinished store “{folder.name}” is missing or cut short.",
                "Remove the store and record it again.",
            )
        shard._journal.take_over()
        return shard

    @property
    def entries(self) -> list[Entry]:
        return self._journal.entries

    @property
    def n_samples(self) -> int:
        """Samples acknowledged."""
        return sum(int(entry.facts["samples"]) for entry in self.entries)

    @property
    def n_batches(self) -> int:
        """Appends acknowledged."""
        return sum(int(entry.facts["batches"]) for entry in self.entries)

    def acknowledged(self) -> dict[str, int]:
        """Rows acknowledged of each group."""
        return {group: self._acknowledged(group) for group in self._manifest.by_group}

    def place(self, hook: str) -> tuple[int, int]:
        """Where the rows of a hook point begin in the file, and the bytes of each."""
        return self._places[hook], self._row_bytes(hook)

    def fits(self, rows: Mapping[str, int]) -> bool:
        """Whether there is room for so many rows of each group behind those that are acknowledged."""
        held = self.acknowledged()
        return all(held[group] + count <= self.capacity[group] for group, count in rows.items())

    def write(
        self, rows: Mapping[str, np.ndarray], counts: Mapping[str, int], quantised: Mapping[str, Quantised]
    ) -> None:
        """Put raw `rows` [n, width] of each hook point behind those that are there; acknowledged later."""
        handle = self._open().fileno()

        def one(piece: tuple[int, memoryview]) -> None:
            at, data = piece
            put(handle, data, at)
            self._blocks.add(at, data)

        pieces = list[tuple[int, memoryview]]()
        for group, hook in _hooks(self._manifest):
            at = self._places[hook] + self.rows[group] * self._row_bytes(hook)
            pieces += _by_block(at, _bytes(np.ascontiguousarray(rows[hook])))
        self.abreast.each(one, pieces)
        self._unbegun += sum(array.nbytes for array in rows.values())
        if self._unbegun >= _BEGUN:
            begin_writing(handle)
            self._unbegun = 0
        for group, count in counts.items():
            self.rows[group] += count
        for hook, found in quantised.items():
            self.quantised[hook] = self.quantised.get(hook, Quantised()) + found

    def rewind(self) -> None:
        """Back to what is acknowledged: what was written behind it is to be written again."""
        self.rows = self.acknowledged()
        self.quantised = _quantised(self.entries[-1].facts) if self.entries else {}

    def acknowledge(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """The rows since the last time, with their columns and samples, are there after a power cut."""
        os.fsync(self._open().fileno())
        told = {hook: one.model_dump() for hook, one in self.quantised.items()}
        held = {"room": self._room, "capacity": self.capacity, "quantised": told}
        self._journal.add(Entry({**facts, **held}, arrays))

    def close(self) -> ShardFacts:
        """Make the whole of what was acknowledged the file `name`. The journal stays until `forget`. OSError on a disk
        that is full or fails; then it can be tried again."""
        self._unnamed()
        arrays, rows = gathered(self.entries), self.acknowledged()
        for hook, scale in self._manifest.scales.items():
            arrays |= {f"{name}/{hook}": scale.vector(name) for name in VECTORS}
        arrays = {name: arrays[name] for name in _names(self._manifest) if name in arrays}
        used = self._used()
        holes = max((self._places[hook] + size for hook, size in used.items() if size), default=self._room)
        holes -= self._room + sum(used.values())
        anew = holes * _HOLES > sum(used.values())
        places = _in_turn(self._room, used) if anew else self._places
        datasets, end = self._datasets(places, rows, arrays)
        shapes = {hook: datasets[f"rows/{hook}"] for hook in used}
        path = self.folder / f"{self.name}.whole.partial" if anew else self.path
        digests = BlockDigests(BLOCK_BYTES) if anew else self._blocks
        try:
            with open(path, "wb" if anew else "r+b") as file:
                if anew:
                    self._copy(file.fileno(), shapes)
                for name, array in arrays.items():
                    put(file.fileno(), _bytes(array), datasets[name].offset)
                head = structures(datasets, end)
                put(file.fileno(), memoryview(head + bytes(self._room - len(head))), 0)
                file.truncate(end)
                with ThreadPoolExecutor(1) as pool:
                    safe = pool.submit(os.fsync, file.fileno())
                    blocks = digests.of(path)
                safe.result()
        except BaseException:
            if anew:
                path.unlink(missing_ok=True)
            raise
        self._let_go()
        os.replace(path, self.folder / self.name)
        sync_folder(self.folder)
        counts = [np.bincount(arrays[column_name(group, "kind")], minlength=len(KINDS)) for group in rows]
        kinds = np.sum(counts, axis=0)
        return ShardFacts(
            file=self.name, bytes=end, block_bytes=BLOCK_BYTES, blocks=blocks,
            rows=sum(rows.values()), group_rows=rows if self._manifest.groups else {},
            samples=self.n_samples, batches=self.n_batches, quantised=self.quantised,
            samples_sha256=_samples_digest(arrays), datasets=datasets,
            kinds={kind: int(kinds[code]) for kind, code in KINDS.items() if kinds[code]},
        )  # fmt: skip

    def forget(self) -> None:
        """The manifest lists the shard: what led to it can go."""
        self._let_go()
        self._journal.path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def stop(self) -> None:
        """Let go of the file."""
        self._let_go()

    def _take(self, facts: Mapping[str, Any]) -> None:
        """What an earlier writer acknowledged. ValueError and its like where it contradicts itself."""
        for entry in self.entries:
            _check(entry, self._manifest)
        self._lay_out(_count(facts["room"]), {group: _count(facts["capacity"][group]) for group in self.rows})
        self.rows = self.acknowledged()
        self.quantised = _quantised(facts)
        if not self.fits(dict.fromkeys(self.rows, 0)):
            raise ValueError(f"{self.rows} rows where there is room for {self.capacity}")

    def _lay_out(self, room: int, capacity: dict[str, int]) -> None:
        self._room, self.capacity = room, capacity
        sizes = {hook: capacity[group] * self._row_bytes(hook) for group, hook in _hooks(self._manifest)}
        self._places = _in_turn(room, sizes)

    def _row_bytes(self, hook: str) -> int:
        return self._manifest.hook_points[hook] * np.dtype(RAW[self._manifest.dtype]).itemsize

    def _used(self) -> dict[str, int]:
        """Bytes of the acknowledged rows of each hook point."""
        rows = self.acknowledged()
        return {hook: rows[group] * self._row_bytes(hook) for group, hook in _hooks(self._manifest)}

    def _acknowledged(self, group: str) -> int:
        return sum(len(entry.arrays[column_name(group, "sample")]) for entry in self.entries)

    def _open(self) -> IO[bytes]:
        if self._file is None:
            mode = "r+b" if self.path.exists() else "xb"
            self._file = open(self.path, mode, opener=not_followed)  # noqa: SIM115 (until `stop`)
        return self._file

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _unnamed(self) -> None:
        """Back under the name that it is written by, where it was full and the manifest not yet told."""
        whole = self.folder / self.name
        if whole.exists() and not self.path.exists():
            os.replace(whole, self.path)

    def _copy(self, target: int, shapes: Mapping[str, DatasetFacts]) -> None:
        with open(self.path, "rb") as source:
            for hook, facts in shapes.items():
                for start in range(0, facts.bytes, _COPY):
                    count = min(_COPY, facts.bytes - start)
                    piece = os.pread(source.fileno(), count, self._places[hook] + start)
                    put(target, memoryview(piece), facts.offset + start)

    def _datasets(
        self, places: Mapping[str, int], rows: Mapping[str, int], arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, DatasetFacts], int]:
        """Where all datasets lie, those beside the rows behind them, and where the file ends."""
        widths, raw = self._manifest.hook_points, _dtype("rows/", self._manifest)
        found = {
            f"rows/{hook}": DatasetFacts(
                offset=places[hook] if rows[group] else self._room, shape=[rows[group], widths[hook]], dtype=raw
            )
            for group, hook in _hooks(self._manifest)
        }
        end = max((facts.offset + facts.bytes for facts in found.values()), default=self._room)
        for name, array in arrays.items():
            end = -(-end // 8) * 8
            found[name] = DatasetFacts(offset=end, shape=[len(array)], dtype=_dtype(name, self._manifest))
            end += array.nbytes
        return found, end


def partial_of(folder: Path, number: int) -> Path:
    """Where the rows of a shard lie while it is written."""
    return folder / f"{shard_name(number)}.partial"


def journal_of(folder: Path, number: int) -> Path:
    """Where its journal lies."""
    return folder / f"shard-{number:05d}.journal.partial"


def _hooks(manifest: Manifest) -> list[tuple[str, str]]:
    """Groups and hook points in the order in which they lie, which a manifest's JSON does not keep as it was given."""
    return sorted((group, hook) for group, hooks in manifest.by_group.items() for hook in hooks)


def _names(manifest: Manifest) -> list[str]:
    """All datasets of a shard, in the order in which they lie."""
    groups = sorted(manifest.by_group)
    columns = [column_name(group, name) for group in groups for name in (*COLUMNS, "samples/rows")]
    samples = ["samples/record", "samples/record_end", "samples/image", "samples/image_end"]
    scales = [f"{what}/{hook}" for hook in sorted(manifest.scales) for what in VECTORS]
    return [f"rows/{hook}" for _, hook in _hooks(manifest)] + columns + samples + scales


def _dtype(name: str, manifest: Manifest) -> Any:
    folder, _, last = name.rpartition("/")
    if folder in VECTORS:
        return "float32"
    if folder == "rows" or name == "rows/":
        return RAW[manifest.dtype]
    if folder == "samples":
        return "uint8" if last in ("record", "image") else "int64"
    return "uint8" if last == "kind" else "int32"


def _in_turn(start: int, sizes: Mapping[str, int]) -> dict[str, int]:
    places = {}
    for hook, size in sizes.items():
        places[hook] = start
        start += _whole_pages(size)
    return places


def _check(entry: Entry, manifest: Manifest) -> None:
    """ValueError or KeyError unless the counts of `entry` agree with its arrays."""
    samples, _ = _count(entry.facts["samples"]), _count(entry.facts["batches"])
    for group in manifest.by_group:
        rows = {len(entry.arrays[column_name(group, name)]) for name in COLUMNS}
        of_samples = entry.arrays[column_name(group, "samples/rows")]
        if rows != {int(of_samples.sum())} or len(of_samples) != samples or (of_samples < 0).any():
            raise ValueError(f"{sorted(rows)} rows of {samples} samples")
        for name, dtype in COLUMNS.items():
            if entry.arrays[column_name(group, name)].dtype != dtype:
                raise ValueError(f"{name} of {entry.arrays[column_name(group, name)].dtype}")
    for name in ("samples/record", "samples/image"):
        ends = entry.arrays[f"{name}_end"]
        if len(ends) != samples or (np.diff(ends, prepend=0) < 0).any() or ends[-1:].sum() != len(entry.arrays[name]):
            raise ValueError(f"{name} of {samples} samples")


def _quantised(facts: Mapping[str, Any]) -> dict[str, Quantised]:
    return {str(hook): Quantised.model_validate(told) for hook, told in facts["quantised"].items()}


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 48:
        raise ValueError(f"a count of {value}")
    return value


def _whole_pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _by_block(at: int, data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """`data`, which goes to byte `at`, in pieces of one block of the file each."""
    while data:
        piece = data[: BLOCK_BYTES - at % BLOCK_BYTES]
        yield at, piece
        at, data = at + len(piece), data[len(piece) :]


def _samples_digest(arrays: Mapping[str, np.ndarray]) -> str:
    names: Sequence[str] = sorted(name for name in arrays if name.startswith("samples/"))
    return digest_json([sha256_bytes(arrays[name].tobytes()) for name in names])
