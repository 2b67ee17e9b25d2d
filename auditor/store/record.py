"""Recording: samples go through a network, and what its hook points say goes into a store while the next batch runs."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auditor.base.errors import AuditorError
from auditor.base.heap import heap_kept
from auditor.base.reporter import Reporter
from auditor.data.chunking import Pieces
from auditor.data.sample import Sample
from auditor.data.skipped import Skips
from auditor.models.model import Model
from auditor.models.packing import must_keep_apart
from auditor.store.ahead import encoded_ahead
from auditor.store.batch_size import settled
from auditor.store.capture import Launched, encode, launch
from auditor.store.convert import Spread
from auditor.store.disk import FullDisk
from auditor.store.layout import KINDS, MANIFEST, SHARD_BYTES, UNFINISHED, Scale, read_manifest
from auditor.store.plan import Plan, plan, too_large
from auditor.store.reader import Store
from auditor.store.recipe import (
    RecordConfig,
    checked_samples,
    chosen_hooks,
    context_of,
    cut,
    drawn_of,
    facts_of,
    groups_of,
    schedule,
    spread,
    with_names,
)
from auditor.store.room import UntilRoom
from auditor.store.writer import StoreWriter

__all__ = ["Plan", "RecordConfig", "plan", "record"]

# How far the network may be ahead of the disk: so many batches, and more while their rows are not larger than this.
# An fsync, or a shard that becomes whole, takes as long as some batches of a small network.
_AHEAD, _AHEAD_BYTES = 2, 64 << 20
# Some thousand rows: their range holds nearly all of what comes.
_SCALE_BATCHES = 8
# A disk that takes this share of the time is told.
_SLOW_DISK = 0.05


def record(
    config: RecordConfig,
    model: Model,
    samples: Sequence[Sample],
    out: Path | str,
    reporter: Reporter | None = None,
    *,
    base: Store | None = None,
) -> Store:
    """Record `samples` at the hook points of `config` into the store folder `out`, and open it. With `base`, a finished
    store that was recorded in the same way, the new one holds its rows first, and they stay where they are.

    A recording that was cancelled or killed goes on where the disk was, less two seconds at most, when it is called
    again with the same settings, and ends with the same bytes (same machine, versions and thread count). A full disk
    pauses it until there is room (`auditor.store.room`). In memory are a batch or more ahead of the network, eight at
    most, of about 512 MiB with their pictures as they were decoded; two ahead of the disk, or 64 MiB of rows where that
    is more; and what a shard holds beside its rows. AuditorError: no samples, an unknown hook point, a number that is
    not finite or does not fit. Stop when cancelled, once what is ahead is on the disk.
    """
    reporter = reporter or Reporter()
    recording = Recording.of(config, model, samples, reporter, base, Path(out))
    room = UntilRoom(Path(out), reporter, len(recording.pieces), recording.unit)
    with as_many_threads(begun_with(Path(out))), recording.writer(out, recording.facts(), room) as writer:
        recording.fill(writer, recording.batches, reporter, room)
        store = writer.finish()
    # What several processes recorded before this one went on alone.
    shutil.rmtree(parts_of(Path(out)), ignore_errors=True)
    return store


def parts_of(out: Path) -> Path:
    """Where several processes keep what they recorded and the store `out` does not hold yet."""
    return out.with_name(f"{out.name}.parts")


@dataclass(frozen=True)
class Recording:
    """What a recording runs: the hook points, the samples in the pieces that are run, and which of those go through the
    network together, `batches`."""

    config: RecordConfig
    model: Model
    samples: Sequence[Sample]
    hooks: list[str]
    pieces: Sequence[Sample]
    batches: list[list[int]]
    skips: Skips
    base: Store | None = None
    drawn: int = 0
    """Of how many of the samples the pieces are, where not all are needed; 0: of all."""

    @classmethod
    def of(
        cls,
        config: RecordConfig,
        model: Model,
        samples: Sequence[Sample],
        reporter: Reporter | None = None,
        base: Store | None = None,
        out: Path | None = None,
        drawn: int | None = None,
    ) -> Recording:
        """AuditorError where there are no samples, or none that can be read, or a hook point is unknown. A batch size
        that is left open, and of how many samples it is (`drawn`), are those of the unfinished recording at `out`, if
        there is one."""
        if not len(samples):
            raise AuditorError("There are no samples to record.", "Choose a set of samples that has some.")
        config, hooks = with_names(config, model), chosen_hooks(config, model)
        if drawn is None and out is not None and (out / UNFINISHED).exists():
            drawn = drawn_of(read_manifest(out / UNFINISHED).meta)
        kept = checked_samples(samples, model, config, reporter, drawn=drawn)
        pieces = cut(kept, model, config, reporter, drawn)
        if config.pack:
            must_keep_apart(model, hooks[-1])
        config = settled(config, model, pieces, hooks, reporter or Reporter(), out)
        of = kept.drawn or (pieces.drawn if isinstance(pieces, Pieces) else 0)
        of = of if of < len(samples) else 0
        return cls(config, model, samples, hooks, pieces, schedule(pieces, config), kept.skips, base, of)

    @property
    def unit(self) -> str:
        """What is counted: the pieces where samples are run in several."""
        return "pieces" if len(self.pieces) > (self.drawn or len(self.samples)) else "samples"

    def facts(self) -> dict[str, Any]:
        """The store's `meta`; says how many threads torch has now, what of the samples was left out, in how many
        pieces the others are run, and of how many samples those are, where not all were needed."""
        made = facts_of(self.config, self.model, self.samples, self.hooks)
        of = {"drawn": self.drawn} if self.drawn else {}
        return {**made, "left_out": self.skips.facts(), "pieces": len(self.pieces), **of}

    def writer(
        self,
        out: Path | str,
        meta: Mapping[str, Any],
        when_full: Callable[[FullDisk], None] | None = None,
        batches: Sequence[Sequence[int]] | None = None,
    ) -> StoreWriter:
        """The writer of a store of these hook points at `out`, for all batches, or for these."""
        groups = groups_of(self.model, self.hooks)
        begun = self.base is not None or (Path(out) / UNFINISHED).exists()
        size = self.config.shard_mib << 20
        return StoreWriter(
            out,
            {hook: self.model.hook_points[hook].width for hook in self.hooks},
            meta,
            self.config.store_dtype,
            shard_bytes=size if size != SHARD_BYTES else None,
            places={"model": str(self.model.path), "samples": self.config.samples},
            groups=groups if len(groups) > 1 else None,
            scales=self._scales() if self.config.store_dtype == "int8" and not begun else None,
            base=self.base,
            when_full=when_full,
            expected=self._rows_of(self.batches if batches is None else batches) if len(self.hooks) > 1 else None,
        )

    def _rows_of(self, batches: Sequence[Sequence[int]]) -> int | None:
        """How many rows `batches` give as far as the one that reaches `max_tokens`; None where it is not known without
        running them: of other samples than texts, and at other places than their tokens."""
        if not isinstance(self.pieces, Pieces) or any(self.model.hook_points[h].stream != "text" for h in self.hooks):
            return None
        tokens = np.frombuffer(self.pieces.tokens, np.int32)
        numbers = np.concatenate([np.asarray(batch, np.int64) for batch in batches] or [np.zeros(0, np.int64)])
        if not len(numbers) or not tokens[numbers].all():
            return None
        shortest = int(numbers[tokens[numbers].argmin()])
        encoded = self.model.encode([self.pieces[shortest]], self.config.context)
        added = int(encoded.mask.sum()) - int(tokens[shortest])
        rows = np.minimum(tokens + added, context_of(self.config, self.model))
        ends = np.cumsum([rows[list(batch)].sum() for batch in batches])
        reached = np.searchsorted(ends, self.config.max_tokens or ends[-1])
        return int(ends[min(int(reached), len(ends) - 1)])

    def _scales(self) -> dict[str, Scale]:
        """What int8 means at each hook point, from a few batches spread over the recording."""
        spreads = {hook: Spread(self.model.hook_points[hook].width) for hook in self.hooks}
        for number in spread(len(self.batches), _SCALE_BATCHES):
            batch = encode(self.model, [self.pieces[sample] for sample in self.batches[number]], self.config)
            captured = launch(self.model, batch, self.hooks, self.config).captured()
            for group, hooks in groups_of(self.model, self.hooks).items():
                ordinary = captured.at[group].kind != KINDS["special"]
                for hook in hooks:
                    spreads[hook].add(captured.rows[hook], ordinary)
        return {hook: found.scale() for hook, found in spreads.items()}

    def fill(
        self, writer: StoreWriter, batches: Sequence[Sequence[int]], reporter: Reporter, room: UntilRoom | None = None
    ) -> None:
        """Run those of `batches` that `writer` does not have yet. Tells, beside how far it is, the rate at which rows
        are written and the share of the time that the network waited for the disk."""
        limit = self.config.max_tokens or float("inf")
        begun, rows, done = time.monotonic(), writer.n_rows, writer.n_samples
        recorded_before, model, config, waited = rows, self.model, self.config, 0.0
        reporter.started(f"Record {model.name} at {', '.join(self.hooks)}", len(self.pieces), self.unit)
        left = batches[writer.n_batches :]
        with heap_kept(), _behind(writer) as write, encoded_ahead(model, self.pieces, left, config) as ahead:
            while rows < limit and (batch := next(ahead, None)) is not None:
                try:
                    launched = launch(model, batch, self.hooks, config, narrow=True)
                except (torch.OutOfMemoryError, MemoryError):
                    raise too_large(len(batch.samples), len(self.hooks), model.device) from None
                asked = time.monotonic()
                write(launched)
                waited += time.monotonic() - asked
                rows, done = rows + launched.n_rows, done + len(batch.samples)
                if room is not None:
                    room.done = done
                seconds = max(time.monotonic() - begun, 1e-9)
                rate, share = writer.written_bytes / 1e6 / seconds, min(waited, writer.disk_seconds) / seconds
                reporter.metric(
                    done,
                    positions=rows,
                    positions_per_s=(rows - recorded_before) / seconds,
                    written_MBps=rate,
                    waiting_for_disk=share,
                )
                slow = f", {share:.0%} of the time waiting for the disk" if share >= _SLOW_DISK else ""
                reporter.step(done, len(self.pieces), f"{rows:,} positions, {rate:.1f} MB/s written{slow}", self.unit)


@contextlib.contextmanager
def _behind(writer: StoreWriter) -> Iterator[Callable[[Launched], None]]:
    """Appends in a thread of its own, not far behind. After a failure nothing more is appended: a store has no
    holes."""
    failed: list[BaseException] = []

    def append(launched: Launched) -> None:
        if failed:
            return
        try:
            batch = launched.captured()
            writer.append_groups(batch.samples, batch.rows, batch.at)
        except BaseException as error:
            failed.append(error)
            raise

    with ThreadPoolExecutor(1, thread_name_prefix="record-write") as pool:
        waiting: deque[tuple[Future[None], int]] = deque()

        def far() -> bool:
            return len(waiting) > _AHEAD and sum(size for _, size in waiting) > _AHEAD_BYTES

        def write(launched: Launched) -> None:
            waiting.append((pool.submit(append, launched), launched.n_bytes))
            while waiting and (waiting[0][0].done() or far()):
                waiting.popleft()[0].result()

        yield write
        while waiting:
            waiting.popleft()[0].result()


def begun_with(out: Path) -> int | None:
    """The thread count of an unfinished recording: sums in another order would give other last bits."""
    if (out / MANIFEST).exists() or not (out / UNFINISHED).exists():
        return None
    replay: Any = read_manifest(out / UNFINISHED).meta.get("replay")
    threads = replay.get("threads") if isinstance(replay, dict) else None
    return threads if isinstance(threads, int) and 1 <= threads <= 4096 else None


@contextlib.contextmanager
def as_many_threads(count: int | None) -> Iterator[None]:
    """So many threads of torch within; None: as many as there are."""
    before = torch.get_num_threads()
    if count is not None and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
