"""Writing a store: rows gather in memory into shards, and a shard is acknowledged once it would survive a power cut."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from auditor.base.digest import canonical_json, digest_json, sha256_bytes
from auditor.base.errors import AuditorError
from auditor.base.files import full_disk, sync_folder, write_atomic
from auditor.store.convert import narrowed
from auditor.store.layout import (
    COLUMNS,
    KINDS,
    MANIFEST,
    SHARD_BYTES,
    UNFINISHED,
    Manifest,
    ShardFacts,
    check_hook,
    read_manifest,
    shard_name,
)
from auditor.store.samples import StoredSample, joined, pack
from auditor.store.shard import shard_bytes as compose

if TYPE_CHECKING:
    from auditor.store.reader import Store

_LOCK = "writer.lock"


class StoreWriter:
    """The one writer of the store at `path`; goes on from the acknowledged shards of an unfinished store there.

    `hook_points` gives each hook's width; `meta` (plain JSON values) tells how the store is made and must be the same
    on resumption; `places` are paths worth remembering that do not count in the digest. `n_rows`, `n_samples` and
    `n_batches` are what is acknowledged: after a kill, append again from batch `n_batches` on. AuditorError when the
    store is finished, belongs to another recording, or is being written by another program.
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
                "shard_bytes": shard_bytes or SHARD_BYTES,
                "meta": dict(meta),
                "places": dict(places or {}),
            }
        )
        _make_folder(self.path)
        self._lock = FileLock(self.path / _LOCK, timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise AuditorError(
                f"The store “{self.path.name}” is being written by another program.",
                "Wait until it has finished, or choose another name.",
            ) from None
        try:
            self._manifest = self._resume()
        except BaseException:
            self.close()
            raise
        self._samples: list[StoredSample] = []
        self._parts: list[dict[str, np.ndarray]] = []
        self._sample_rows: list[int] = []
        self._sample_batch: list[int] = []
        self._pending_rows = self._pending_bytes = self._pending_batches = 0

    @property
    def n_rows(self) -> int:
        """Rows acknowledged."""
        return self._manifest.rows

    @property
    def n_samples(self) -> int:
        """Samples acknowledged."""
        return self._manifest.samples

    @property
    def n_batches(self) -> int:
        """Appends acknowledged."""
        return sum(shard.batches for shard in self._manifest.shards)

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
        AuditorError on a full disk, after which `flush` can be tried again.
        """
        columns = {"sample": sample, "unit": unit, "kind": kind, "token": token}
        part = {name: np.asarray(column).astype(COLUMNS[name]) for name, column in columns.items()}
        count = _check_columns(part, len(samples))
        self._check_rows(rows, count)
        for hook in self._wanted.hook_points:
            place = _place(hook, samples, part)
            part[f"rows/{hook}"] = narrowed(np.asarray(rows[hook]), self._wanted.dtype, place)
        batch = self.n_batches + self._pending_batches
        part["sample"] += np.int32(self.n_samples + len(self._samples))
        self._sample_rows += np.bincount(sample, minlength=len(samples)).tolist() if count else [0] * len(samples)
        self._sample_batch += [batch] * len(samples)
        self._samples += samples
        self._parts.append(part)
        self._pending_rows += count
        self._pending_batches += 1
        self._pending_bytes += sum(array.nbytes for array in part.values())
        self._pending_bytes += sum(len(s.image or b"") + len(s.text or "") for s in samples)
        if self._pending_bytes >= self._wanted.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Make one shard of what is in memory and acknowledge it. AuditorError when the disk is full; rows are kept."""
        if not self._samples:
            return
        datasets = self._datasets()
        data, places = compose(datasets)
        name = shard_name(len(self._manifest.shards))
        kinds = np.bincount(datasets["kind"], minlength=max(KINDS.values()) + 1)
        shard = ShardFacts(
            file=name,
            sha256=sha256_bytes(data),
            bytes=len(data),
            rows=self._pending_rows,
            samples=len(self._samples),
            batches=self._pending_batches,
            samples_sha256=_samples_digest(datasets),
            kinds={kind: int(kinds[code]) for kind, code in KINDS.items() if kinds[code]},
            datasets=places,
        )
        self._put(name, data)
        self._acknowledge(shard)
        self._samples, self._parts, self._sample_rows, self._sample_batch = [], [], [], []
        self._pending_rows = self._pending_bytes = self._pending_batches = 0

    def finish(self) -> Store:
        """Write the last shard and the manifest; from here on the store never changes. AuditorError if it is empty."""
        from auditor.store.reader import open_store

        self.flush()
        if not self._manifest.rows:
            raise AuditorError(f"The store “{self.path.name}” would be empty.", "Record at least one sample.")
        done = self._manifest.model_copy(update={"complete": True})
        self._put(MANIFEST, done.to_bytes())
        (self.path / UNFINISHED).unlink(missing_ok=True)
        (self.path / _LOCK).unlink(missing_ok=True)
        self.close()
        sync_folder(self.path)
        return open_store(self.path)

    def close(self) -> None:
        """Let go of the store; what is not acknowledged is dropped."""
        self._lock.release()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _resume(self) -> Manifest:
        if (self.path / MANIFEST).exists():
            raise AuditorError(
                f"The store “{self.path.name}” is finished and cannot be changed.",
                "Choose another name for the new one.",
            )
        if not (self.path / UNFINISHED).exists():
            strangers = [p.name for p in self.path.iterdir() if not _ours(p.name)]
            if strangers:
                raise AuditorError(
                    f"The folder “{self.path.name}” holds other files, such as {strangers[0]}.",
                    "Choose an empty folder.",
                )
            self._clean(self._wanted)
            return self._wanted
        found = read_manifest(self.path / UNFINISHED)
        keep = {"rows", "samples", "samples_digest", "shards", "places"}
        if canonical_json(found.model_dump(exclude=keep)) != canonical_json(self._wanted.model_dump(exclude=keep)):
            raise AuditorError(
                f"The store “{self.path.name}” was begun with other settings.",
                "Go on with the settings it was begun with, or choose another name.",
            )
        self._clean(found)
        for shard in found.shards:
            file = self.path / shard.file
            if not file.is_file() or file.stat().st_size != shard.bytes:
                raise AuditorError(
                    f"{shard.file} of the unfinished store “{self.path.name}” is missing or cut short.",
                    "Remove the store and record it again.",
                )
        return found

    def _clean(self, manifest: Manifest) -> None:
        listed = {shard.file for shard in manifest.shards} | {UNFINISHED, _LOCK}
        for file in self.path.iterdir():
            if file.name not in listed and _ours(file.name):
                file.unlink()

    def _check_rows(self, rows: Mapping[str, np.ndarray], count: int) -> None:
        if set(rows) != set(self._wanted.hook_points):
            raise ValueError(f"rows of {sorted(rows)} for a store of {sorted(self._wanted.hook_points)}")
        for hook, width in self._wanted.hook_points.items():
            if rows[hook].shape != (count, width):
                raise ValueError(f"rows of {hook}: shape {rows[hook].shape}, not {(count, width)}")

    def _datasets(self) -> dict[str, np.ndarray]:
        names = [f"rows/{hook}" for hook in self._wanted.hook_points] + list(COLUMNS)
        datasets = {name: np.concatenate([part[name] for part in self._parts]) for name in names}
        pairs = zip(self._samples, self._sample_batch, strict=True)
        record, record_end = joined([pack(sample, batch) for sample, batch in pairs])
        image, image_end = joined([sample.image or b"" for sample in self._samples])
        return datasets | {
            "samples/rows": np.array(self._sample_rows, dtype=np.int64),
            "samples/record": record,
            "samples/record_end": record_end,
            "samples/image": image,
            "samples/image_end": image_end,
        }

    def _acknowledge(self, shard: ShardFacts) -> None:
        shards = [*self._manifest.shards, shard]
        manifest = self._manifest.model_copy(
            update={
                "shards": shards,
                "rows": self._manifest.rows + shard.rows,
                "samples": self._manifest.samples + shard.samples,
                "samples_digest": digest_json([s.samples_sha256 for s in shards]),
            }
        )
        self._put(UNFINISHED, manifest.to_bytes())
        self._manifest = manifest

    def _put(self, name: str, data: bytes) -> None:
        try:
            write_atomic(self.path / name, data)
        except AuditorError as error:
            if isinstance(error.__cause__, OSError) and full_disk(error.__cause__):
                free = shutil.disk_usage(self.path).free
                raise AuditorError(
                    f"The disk is full: {name} of “{self.path.name}” needs {_mb(len(data))} and {_mb(free)} are free; "
                    f"{self.n_rows} rows are safe.",
                    f"Free at least {_mb(max(len(data) - free, 1 << 20))} more, then start again: it goes on.",
                ) from error.__cause__
            raise


def _make_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise AuditorError(f"“{path.name}” is a file, so no store can be made there.", "Choose another name.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AuditorError(f"The folder “{path}” cannot be made ({error.strerror}).", "Choose another place.") from None


def _ours(name: str) -> bool:
    return name.endswith(".partial") or name == _LOCK or (name.startswith("shard-") and name.endswith(".h5"))


def _check_columns(part: Mapping[str, np.ndarray], n_samples: int) -> int:
    sample = part["sample"]
    if sample.ndim != 1 or any(column.shape != sample.shape for column in part.values()):
        raise ValueError(f"columns of different shapes: { {name: column.shape for name, column in part.items()} }")
    if sample.size and (sample[0] < 0 or sample[-1] >= n_samples or (np.diff(sample) < 0).any()):
        raise ValueError("`sample` must go up from 0 within the samples given")
    if (part["kind"] == KINDS["pad"]).any() or (part["kind"] > max(KINDS.values())).any():
        raise ValueError("`kind` must be text, image or special")
    return int(sample.size)


def _place(hook: str, samples: Sequence[StoredSample], part: Mapping[str, np.ndarray]) -> Any:
    def where(row: int) -> str:
        sample = samples[int(part["sample"][row])]
        return f"hook point {hook}, sample “{sample.id}”, position {int(part['unit'][row])}"

    return where


def _samples_digest(datasets: Mapping[str, np.ndarray]) -> str:
    names = sorted(name for name in datasets if name.startswith("samples/"))
    return digest_json([sha256_bytes(datasets[name].tobytes()) for name in names])


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
