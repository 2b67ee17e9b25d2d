"""Whether a store's bytes are still those that were recorded, block by block on all cores, and what is damaged."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auditor.base.digest import sha256_file
from auditor.base.reporter import Reporter
from auditor.intake.jail import Jail, Limits
from auditor.store.layout import ShardFacts
from auditor.store.shards import Shard

# Read at once by each thread.
_PIECE = 1 << 20
_TOLD = 8


@dataclass(frozen=True)
class Damage:
    """Bytes `start` to `stop` of a shard that are not what was recorded; `holds` says what lies there."""

    shard: str
    start: int
    stop: int
    holds: str


class BlockDigests:
    """SHA-256 of each `block_bytes` of a file that is written from several places on, each in turn."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._whole: dict[int, str] = {}
        self._begun: dict[int, Any] = {}

    def add(self, at: int, data: memoryview) -> None:
        """Bytes `data` were written at `at`. What is written again later must be in a block of which a part is never
        added."""
        digest = self._begun.pop(at, None)
        while data:
            start = at % self._block_bytes
            if not start:
                digest = hashlib.sha256()
            piece = data[: self._block_bytes - start]
            if digest is not None:
                digest.update(piece)
            at, data = at + len(piece), data[len(piece) :]
            if digest is not None and not at % self._block_bytes:
                self._whole[at // self._block_bytes - 1] = digest.hexdigest()
        if digest is not None and at % self._block_bytes:
            self._begun[at] = digest

    def of(self, path: Path) -> list[str]:
        """Those of all blocks of the file, of which the last may be shorter; blocks that were not added whole are
        read."""
        starts = range(0, path.stat().st_size, self._block_bytes)
        missing = [start for number, start in enumerate(starts) if number not in self._whole]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            found = list(pool.map(lambda start: _digest(path, start, self._block_bytes), missing))
        whole = self._whole | {start // self._block_bytes: digest for start, digest in zip(missing, found, strict=True)}
        return [whole[number] for number in range(len(starts))]


def check(name: str, shards: Sequence[Shard], reporter: Reporter) -> None:
    """Compare every shard with its digests, and with what any HDF5 program finds in it (in a jailed child).

    What is damaged is told as it is found (`partial` of the reporter, kind "damage"). AuditorError at the end names the
    first damage of the first shard that differs, and counts the rest.
    """
    total = sum(shard.facts.bytes for shard in shards)
    reporter.started(f"Check the store “{name}”", total, "bytes")
    found, done = list[Damage](), 0
    first: Shard | None = None
    with (
        contextlib.closing(Jail(Limits(cpu_seconds=24 * 3600))) as jail,
        ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="store-check") as pool,
    ):
        for shard in shards:
            for start, stop, same in _compared(shard, pool):
                done += stop - start
                if not same:
                    first = first or shard
                    found.append(Damage(shard.path.name, start, stop, holds(shard.facts, start, stop)))
                    if len(found) <= _TOLD:
                        reporter.partial("damage", shard=shard.path.name, start=start, stop=stop, holds=found[-1].holds)
                reporter.step(done, total, f"{len(found)} damaged" if found else "", "bytes")
            if not found and not _as_told(jail.call("auditor.intake.hdf5:walked", str(shard.path)), shard):
                raise shard.damaged("holds other datasets than its manifest tells")
    if first is not None:
        others = len(found) - 1
        rest = f", and {others} more place{'s' if others > 1 else ''}" if others else ""
        one = found[0]
        raise first.damaged(
            f"is not what was recorded: its digest differs in bytes {one.start:,}–{one.stop - 1:,} ({one.holds}){rest}"
        )


def holds(facts: ShardFacts, start: int, stop: int) -> str:
    """What lies in bytes `start` to `stop` of a shard: rows of hook points, columns, samples."""
    said = []
    for name, dataset in facts.datasets.items():
        low, high = max(start, dataset.offset), min(stop, dataset.offset + dataset.bytes)
        if low >= high:
            continue
        entry = dataset.bytes // dataset.shape[0]
        first, last = (low - dataset.offset) // entry, (high - 1 - dataset.offset) // entry
        what = f"rows {first:,}–{last:,} of {name.removeprefix('rows/')}"
        said.append(name if name.startswith("samples/") else what)
    return ", ".join(said) or "its HDF5 structures"


def _compared(shard: Shard, pool: ThreadPoolExecutor) -> Iterator[tuple[int, int, bool]]:
    """Each block of `shard`, and whether it is what was recorded; a store of version 1 has one."""
    facts, path = shard.facts, shard.path
    if not facts.blocks:
        yield 0, facts.bytes, sha256_file(path) == facts.sha256
        return
    starts = range(0, facts.bytes, facts.block_bytes)
    futures: list[Future[str]] = [pool.submit(_digest, path, start, facts.block_bytes) for start in starts]
    try:
        for start, future, wanted in zip(starts, futures, facts.blocks, strict=True):
            yield start, min(start + facts.block_bytes, facts.bytes), future.result() == wanted
    finally:
        for future in futures:
            future.cancel()


def _digest(path: Path, start: int, count: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while count and (piece := file.read(min(count, _PIECE))):
            digest.update(piece)
            count -= len(piece)
    return digest.hexdigest()


def _as_told(found: Any, shard: Shard) -> bool:
    """Whether the HDF5 library finds each dataset of `shard` where the manifest says, and no others."""
    seen = {d["path"].strip("/"): (d["offset"], d["shape"], d["dtype"]) for d in found}
    told = {
        name: (facts.offset, facts.shape, np.dtype(facts.dtype).newbyteorder("<").str)
        for name, facts in shard.facts.datasets.items()
    }
    return seen.keys() == told.keys() and all(
        seen[name][1:] == told[name][1:] and (seen[name][0] == told[name][0] or 0 in told[name][1]) for name in told
    )
