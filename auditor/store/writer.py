"""Writing a store: rows go to the disk as they come, and are acknowledged every few seconds, once they would survive
a power cut."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from auditor.base.digest import canonical_json, digest_json
from auditor.base.errors import AuditorError, Stop
from auditor.base.files import sync_folder, write_atomic
from auditor.store.abreast import Abreast
from auditor.store.behind import behind
from auditor.store.convert import columns_of
from auditor.store.disk import Disk, FullDisk
from auditor.store.layout import (
    COLUMNS,
    KINDS,
    MANIFEST,
    SHARD_BYTES,
    UNFINISHED,
    VERSION,
    Manifest,
    Quantised,
    Scale,
    ShardFacts,
    check_groups,
    check_hook,
    column_name,
    read_manifest,
)
from auditor.store.open_shard import OpenShard, journal_of, partial_of
from auditor.store.reader import Positions, Store, open_store
from auditor.store.samples import StoredSample, joined, packed

_LOCK = "writer.lock"
# What is acknowledged together: a kill costs no more than this of the work, and an fsync is never far.
PIECE_BYTES = 64 << 20
PIECE_SECONDS = 2.0


_Given = tuple[str, np.ndarray, Callable[[int], str], np.ndarray]
"""A hook point, its rows, where a row comes from, and which of them are ordinary."""


@dataclass(frozen=True)
class _Batch:
    """One append on its way to the disk."""

    records: Sequence[bytes]
    images: Sequence[bytes]
    rows: Mapping[str, np.ndarray]
    columns: Mapping[str, np.ndarray]
    counts: Mapping[str, int]
    quantised: Mapping[str, Quantised]

    @property
    def bytes(self) -> int:
        return sum(array.nbytes for part in (self.rows, self.columns) for array in part.values())


class StoreWriter:
    """The one writer of the store at `path`; goes on from what was acknowledged of an unfinished store there.

    `hook_points` gives each hook's width; `meta` (plain JSON values) tells how the store is made and must be the same
    on resumption; `places` are paths worth remembering that do not count in the digest. `groups` divides the hook
    points where some have other positions than others (`append_groups`). A store of int8 needs `scales`
    (`auditor.store.convert.scale_of`); one that is resumed keeps those it was begun with. `base` is a finished store
    that this one goes on from: its rows come first, and stay where they are. `expected` is how many rows will come to a
    store of one group, as far as it is known: so that the last shard of several hook points leaves no holes.

    `n_rows`, `n_samples` and `n_batches` are what is acknowledged, less what is the base's: after a kill, append again
    from batch `n_batches` on. `written_bytes` are what went to the disk by now, `disk_seconds` how long that took.
    `when_full` is called with a FullDisk error, as often as needed, and returns when to try again. AuditorError when
    the store is finished, belongs to another recording, or is being written by another program.
    """

    def __init__(
        self,
        path: Path | str,
        hook_points: Mapping[str, int],
        meta: Mapping[str, Any],
        dtype: str = "float16",
        *,
        shard_bytes: int | None = None,
        places: Mapping[str, str] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        scales: Mapping[str, Scale] | None = None,
        base: Store | None = None,
        when_full: Callable[[FullDisk], None] | None = None,
        expected: int | None = None,
    ) -> None:
        for name, width in hook_points.items():
            check_hook(name, width)
        if not hook_points:
            raise AuditorError("A store needs at least one hook point.", "Choose a hook point to record.")
        self.path = Path(path)
        self._wanted = Manifest.model_validate(
            {
                "complete": False,
                "dtype": dtype,
                "hook_points": dict(hook_points),
                "groups": {name: list(hooks) for name, hooks in (groups or {}).items()},
                "scales": dict(scales or {}) if dtype == "int8" else {},
                "shard_bytes": shard_bytes or SHARD_BYTES,
                "meta": dict(meta),
                "places": dict(places or {}),
            }
        )
        check_groups(self._wanted.groups, hook_points)
        if base is not None:
            self._wanted = behind(base, self._wanted, self.path)
        self._base = (self._wanted.rows, self._wanted.samples, sum(shard.batches for shard in self._wanted.shards))
        self._disk = Disk(self.path, lambda: f"{self.n_rows} rows are safe", when_full)
        self.written_bytes = 0
        self._expected = expected
        self._waiting: list[_Batch] = []
        self._written: list[_Batch] = []
        self._doubted = False
        self._abreast = Abreast()
        self._shard: OpenShard | None = None
        self._whole: ShardFacts | None = None
        made = not self.path.exists()
        _make_folder(self.path)
        locked_before = (self.path / _LOCK).exists()
        self._fresh = not (self.path / UNFINISHED).exists()
        self._lock = FileLock(self.path / _LOCK, timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise AuditorError(
                f"The store “{self.path.name}” is being written by another program.",
                "Wait until it has finished, or choose another name.",
            ) from None
        self._manifest = self._wanted
        try:
            self._manifest = self._resume()
            held = self._manifest
            self._numbers = {hook: columns_of(held.dtype, held.scales, [hook]) for hook in held.hook_points}
        except BaseException:
            if not locked_before:  # a folder that is refused may be anybody's
                (self.path / _LOCK).unlink(missing_ok=True)
            self.close()
            if made:
                with contextlib.suppress(OSError):
                    self.path.rmdir()
            raise
        self._acknowledged_at = time.monotonic()

    @property
    def disk_seconds(self) -> float:
        """Time that went into writing."""
        return self._disk.seconds

    @property
    def n_rows(self) -> int:
        """Rows acknowledged."""
        shard = sum(self._shard.acknowledged().values()) if self._shard else 0
        return self._manifest.rows + shard - self._base[0]

    @property
    def n_samples(self) -> int:
        """Samples acknowledged."""
        return self._manifest.samples + (self._shard.n_samples if self._shard else 0) - self._base[1]

    @property
    def n_batches(self) -> int:
        """Appends acknowledged."""
        whole = sum(shard.batches for shard in self._manifest.shards)
        return whole + (self._shard.n_batches if self._shard else 0) - self._base[2]

    def append(
        self,
        samples: Sequence[StoredSample],
        rows: Mapping[str, np.ndarray],
        sample: np.ndarray,
        unit: np.ndarray,
        kind: np.ndarray,
        token: np.ndarray,
    ) -> None:
        """Add whole `samples` with their rows.

        `rows[hook]` float [n, width]; `sample` [n] is the index into `samples`, never decreasing; `unit`, `kind`,
        `token` [n]. AuditorError, and nothing added, where a row is not finite or too large for the store's dtype;
        FullDisk, after which `flush` can be tried again.
        """
        self.append_groups(samples, rows, {"": Positions(sample, unit, kind, token)})

    def append_groups(
        self, samples: Sequence[StoredSample], rows: Mapping[str, np.ndarray], at: Mapping[str, Positions]
    ) -> None:
        """As `append`, with the positions of each row group."""
        batch = self._converted(samples, rows, at)
        self._waiting.append(batch)
        self._drain()
        late = time.monotonic() - self._acknowledged_at > PIECE_SECONDS
        if late or sum(batch.bytes for batch in self._written) >= PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Acknowledge what was appended. FullDisk where there is no room; nothing is lost."""
        self._drain()
        self._acknowledge()

    def finish(self, *, part: bool = False) -> Store:
        """Write the last shard and the manifest; from here on the store never changes. AuditorError if it is empty,
        which a `part` of a recording may be."""
        self.flush()
        self._close_shard()
        if self._manifest.rows == self._base[0] and not part:
            raise self._nothing()
        done = self._manifest.model_copy(update={"complete": True})
        self._disk.surely(lambda: write_atomic(self.path / MANIFEST, done.to_bytes()))
        (self.path / UNFINISHED).unlink(missing_ok=True)
        (self.path / _LOCK).unlink(missing_ok=True)
        self.close()
        self._disk.surely(lambda: sync_folder(self.path))
        return open_store(self.path)

    def _nothing(self) -> AuditorError:
        name, hooks = self.path.name.removesuffix(".store") or self.path.name, " and ".join(self._wanted.hook_points)
        if not self.n_samples:
            return AuditorError(f"The store “{name}” would be empty.", "Record at least one sample.")
        return AuditorError(
            f"The store “{name}” would be empty: none of {self.n_samples:,} samples has a position at {hooks}.",
            "Choose a hook point of what the samples hold, such as the picture's or the text's.",
        )

    def close(self) -> None:
        """Let go of the store; what is not acknowledged is dropped."""
        self._abreast.close()  # before the file is: its number is soon another's
        if self._shard is not None:
            self._shard.stop()
        self._lock.release()

    def _abandon(self) -> None:
        """Of a store that was begun here and has no row to go on from, nothing stays."""
        with contextlib.suppress(OSError):
            for file in self.path.iterdir():
                if file.name == UNFINISHED or left_by_writer(file.name):
                    file.unlink()
            self.path.rmdir()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, Stop):  # what is there need not be done again
            self._disk.when_full = None
            with contextlib.suppress(AuditorError):
                self.flush()
        self.close()
        if self._fresh and kind is not None and issubclass(kind, AuditorError) and not self.n_rows:
            self._abandon()

    def _converted(
        self, samples: Sequence[StoredSample], rows: Mapping[str, np.ndarray], at: Mapping[str, Positions]
    ) -> _Batch:
        columns, counts, work = dict[str, np.ndarray](), dict[str, int](), list[_Given]()
        if set(rows) != set(self._wanted.hook_points) or set(at) != set(self._wanted.by_group):
            raise ValueError(f"rows of {sorted(rows)} in {sorted(at)} for a store of {self._wanted.by_group}")
        for group, hooks in self._wanted.by_group.items():
            part = {name: np.asarray(getattr(at[group], name)).astype(dtype) for name, dtype in COLUMNS.items()}
            counts[group] = count = _check_columns(part, len(samples))
            for hook in hooks:
                given = np.asarray(rows[hook])
                if given.shape != (count, self._wanted.hook_points[hook]):
                    raise ValueError(f"rows of {hook}: shape {given.shape}, not {count} rows of the store's width")
                work.append((hook, given, _place(hook, samples, part), part["kind"] != KINDS["special"]))
            columns[column_name(group, "samples/rows")] = np.bincount(part["sample"], minlength=len(samples))
            columns |= {column_name(group, name): column for name, column in part.items()}
        # Packed as they come, not all at once when they are acknowledged, for which the last ones would be waited for.
        number = self._base[2] + self.n_batches + len(self._written) + len(self._waiting)
        images = [one.image or b"" for one in samples]
        held = self._abreast.each(self._kept, work)
        kept = {hook: rows for (hook, *_), (rows, _) in zip(work, held, strict=True)}
        quantised = {hook: found for (hook, *_), (_, found) in zip(work, held, strict=True) if found is not None}
        return _Batch(packed(samples, number), images, kept, columns, counts, quantised)

    def _kept(self, given: _Given) -> tuple[np.ndarray, Quantised | None]:
        hook, rows, where, ordinary = given
        if self._wanted.dtype == "int8":
            return self._numbers[hook].quantised(rows, where, ordinary)
        return self._numbers[hook].narrowed(rows, where), None

    def _drain(self) -> None:
        """Put what waits into its place on the disk, closing shards that are full."""
        while self._waiting:
            batch = self._waiting[0]
            if self._shard is not None and not self._shard.fits(self._unsafe(batch)):
                self._acknowledge()
                self._close_shard()
            shard = self._shard or self._disk.surely(partial(self._begin, batch))
            self._surely(shard, partial(self._put, shard, batch), batch.bytes)
            self._written.append(self._waiting.pop(0))
            self.written_bytes += batch.bytes

    def _unsafe(self, batch: _Batch) -> dict[str, int]:
        """Rows of each group that are not acknowledged, with those of `batch`."""
        held = [*self._written, batch]
        return {group: sum(one.counts[group] for one in held) for group in batch.counts}

    def _surely(self, shard: OpenShard, action: Callable[[], None], needed: int) -> None:
        """`action`, again after a full disk. What is not acknowledged is written again before: of pages that could not
        be written, Linux tells once, by the next fsync or write, and drops them; an fsync after that tells nothing."""

        def attempt() -> None:
            if self._doubted:
                shard.rewind()
                for batch in self._written:
                    self._put(shard, batch)
            self._doubted = True
            action()
            self._doubted = False

        self._disk.surely(attempt, needed)

    @staticmethod
    def _put(shard: OpenShard, batch: _Batch) -> None:
        shard.write(batch.rows, batch.counts, batch.quantised)

    def _begin(self, batch: _Batch) -> OpenShard:
        left = (self._expected or 0) - (self._manifest.rows - self._base[0])
        most = left if left > 0 and len(batch.counts) == 1 else None  # else more have come than were expected
        self._shard = OpenShard.begun(self.path, len(self._manifest.shards), self._manifest, batch.counts, most)
        self._shard.abreast = self._abreast
        return self._shard

    def _acknowledge(self) -> None:
        """Acknowledge what is written."""
        if (shard := self._shard) is not None and self._written:
            arrays, facts = self._entry()
            size = sum(array.nbytes for array in arrays.values())
            self._surely(shard, partial(shard.acknowledge, arrays, facts), size)
            self._written = []
        self._acknowledged_at = time.monotonic()

    def _entry(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What is written, as the journal keeps it: arrays and counts."""
        sample = self.n_samples + self._base[1]
        parts, records, images = list[dict[str, np.ndarray]](), list[bytes](), list[bytes]()
        for written in self._written:
            numbered = {name: written.columns[name] + np.int32(sample) for name in self._sample_columns}
            parts.append({**written.columns, **numbered})
            records += written.records
            images += written.images
            sample += len(written.records)
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        record, record_end = joined(records)
        image, image_end = joined(images)
        arrays |= {"samples/record": record, "samples/record_end": record_end}
        arrays |= {"samples/image": image, "samples/image_end": image_end}
        return arrays, {"batches": len(parts), "samples": len(records)}

    @property
    def _sample_columns(self) -> list[str]:
        return [column_name(group, "sample") for group in self._wanted.by_group]

    def _close_shard(self) -> None:
        """Make the shard that is written whole, and tell the manifest."""
        if (shard := self._shard) is None:
            return
        if shard.entries:
            if self._whole is None:
                self._whole = self._disk.surely(shard.close)
            shards = [*self._manifest.shards, self._whole]
            manifest = self._manifest.model_copy(
                update={
                    "shards": shards,
                    "rows": self._manifest.rows + self._whole.rows,
                    "samples": self._manifest.samples + self._whole.samples,
                    "samples_digest": digest_json([s.samples_sha256 for s in shards]),
                }
            )
            self._disk.surely(lambda: write_atomic(self.path / UNFINISHED, manifest.to_bytes()))
            self._manifest, self._whole = manifest, None
        shard.forget()
        self._shard = None

    def _resume(self) -> Manifest:
        if (self.path / MANIFEST).exists():
            raise AuditorError(
                f"The store “{self.path.name}” is finished and cannot be changed.",
                "Choose another name for the new one.",
            )
        if not (self.path / UNFINISHED).exists():
            strangers = [p.name for p in self.path.iterdir() if not left_by_writer(p.name)]
            if strangers:
                raise AuditorError(
                    f"The folder “{self.path.name}” holds other files, such as {strangers[0]}.",
                    "Choose an empty folder.",
                )
            self._clean(self._wanted, 0)
            if self._wanted.dtype == "int8" and not self._wanted.scales:
                raise ValueError("a store of int8 is begun with scales")
            self._disk.surely(lambda: write_atomic(self.path / UNFINISHED, self._wanted.to_bytes()))
            return self._wanted
        found = read_manifest(self.path / UNFINISHED)
        # An older program's shards are whole ones of this format; the new ones bring it up to date.
        keep = {"rows", "samples", "samples_digest", "shards", "places", "scales", "version", "shard_bytes"}
        wanted = self._wanted.model_dump(exclude=keep)
        if "pieces" not in found.meta:  # as an older program began it; the samples' digest says as much
            wanted["meta"] = {name: value for name, value in wanted["meta"].items() if name != "pieces"}
        if canonical_json(found.model_dump(exclude=keep)) != canonical_json(wanted):
            raise AuditorError(
                f"The store “{self.path.name}” was begun with other settings.",
                "Go on with the settings it was begun with, or choose another name.",
            )
        found = found.model_copy(update={"version": VERSION})
        for shard in found.shards:
            file = self.path / shard.folder / shard.file
            if not file.is_file() or file.stat().st_size != shard.bytes:
                raise AuditorError(
                    f"{shard.file} of the unfinished store “{self.path.name}” is missing or cut short.",
                    "Remove the store and record it again.",
                )
        number = len(found.shards)
        self._manifest = found  # whose rows are safe, should the disk fail now
        self._shard = self._disk.surely(partial(OpenShard.resumed, self.path, number, found))
        if self._shard is not None:
            self._shard.abreast = self._abreast
        self._clean(found, number)
        return found

    def _clean(self, manifest: Manifest, number: int) -> None:
        listed = {shard.file for shard in manifest.shards if not shard.folder} | {UNFINISHED, _LOCK}
        if self._shard is not None:
            listed |= {partial_of(self.path, number).name, journal_of(self.path, number).name}
        for file in self.path.iterdir():
            if file.name not in listed and left_by_writer(file.name):
                file.unlink()


def _make_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise AuditorError(f"“{path.name}” is a file, so no store can be made there.", "Choose another name.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AuditorError(f"The folder “{path}” cannot be made ({error.strerror}).", "Choose another place.") from None


def left_by_writer(name: str) -> bool:
    """Whether a writer that has not finished leaves files of this name."""
    return name.endswith(".partial") or name == _LOCK or (name.startswith("shard-") and name.endswith(".h5"))


def _check_columns(part: Mapping[str, np.ndarray], n_samples: int) -> int:
    sample = part["sample"]
    if sample.ndim != 1 or any(column.shape != sample.shape for column in part.values()):
        raise ValueError(f"columns of different shapes: { {name: column.shape for name, column in part.items()} }")
    if sample.size and (sample[0] < 0 or sample[-1] >= n_samples or (sample[1:] < sample[:-1]).any()):
        raise ValueError("`sample` must go up from 0 within the samples given")
    kind = part["kind"]
    if sample.size and (kind.min() == KINDS["pad"] or kind.max() > max(KINDS.values())):
        raise ValueError("`kind` must be text, image or special")
    return int(sample.size)


def _place(hook: str, samples: Sequence[StoredSample], part: Mapping[str, np.ndarray]) -> Any:
    def where(row: int) -> str:
        sample = samples[int(part["sample"][row])]
        unit = int(part["unit"][row])
        return f"hook point {hook}, sample “{sample.id}”, {f'position {unit}' if unit >= 0 else 'a special position'}"

    return where
