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

import torch

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.sample import Sample
from auditor.data.skipped import Skips
from auditor.models.model import Model
from auditor.models.packing import must_keep_apart
from auditor.store.capture import Encoded, Launched, encode, launch
from auditor.store.layout import MANIFEST, UNFINISHED, read_manifest
from auditor.store.plan import Plan, plan
from auditor.store.reader import Store
from auditor.store.recipe import RecordConfig, checked_samples, chosen_hooks, cut, facts_of, schedule
from auditor.store.writer import StoreWriter

__all__ = ["Plan", "RecordConfig", "plan", "record"]

_AHEAD = 2


def record(
    config: RecordConfig,
    model: Model,
    samples: Sequence[Sample],
    out: Path | str,
    reporter: Reporter | None = None,
) -> Store:
    """Record `samples` at the hook points of `config` into the store folder `out`, and open it.

    A recording that was cancelled, killed or stopped by a full disk goes on from its last shard when it is called
    again with the same settings, and ends with the same bytes (same machine, versions and thread count). In memory are
    two batches ahead of the disk and one shard. AuditorError: no samples, an unknown hook point, a number that is not
    finite or does not fit, a full disk. Stop when cancelled.
    """
    recording = Recording.of(config, model, samples, reporter)
    with as_many_threads(begun_with(Path(out))), recording.writer(out, recording.facts()) as writer:
        recording.fill(writer, recording.batches, reporter or Reporter())
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

    @classmethod
    def of(
        cls, config: RecordConfig, model: Model, samples: Sequence[Sample], reporter: Reporter | None = None
    ) -> Recording:
        """AuditorError where there are no samples, or none that can be read, or a hook point is unknown."""
        if not len(samples):
            raise AuditorError("There are no samples to record.", "Choose a set of samples that has some.")
        hooks = chosen_hooks(config, model)
        kept = checked_samples(samples, model, config, reporter)
        pieces = cut(kept, model, config)
        if config.pack:
            must_keep_apart(model, hooks[-1])
        return cls(config, model, samples, hooks, pieces, schedule(pieces, config), kept.skips)

    def facts(self) -> dict[str, Any]:
        """The store's `meta`; says how many threads torch has now, and what of the samples was left out."""
        return {**facts_of(self.config, self.model, self.samples, self.hooks), "left_out": self.skips.facts()}

    def writer(self, out: Path | str, meta: Mapping[str, Any]) -> StoreWriter:
        """The writer of a store of these hook points at `out`."""
        widths = {hook: self.model.hook_points[hook].width for hook in self.hooks}
        places = {"model": str(self.model.path), "samples": self.config.samples}
        return StoreWriter(out, widths, meta, self.config.store_dtype, places=places)

    def fill(self, writer: StoreWriter, batches: Sequence[Sequence[int]], reporter: Reporter) -> None:
        """Run those of `batches` that `writer` does not have yet."""
        limit = self.config.max_tokens or float("inf")
        begun, rows, done = time.monotonic(), writer.n_rows, writer.n_samples
        recorded_before, model, config = rows, self.model, self.config
        reporter.started(f"Record {model.name} at {', '.join(self.hooks)}", len(self.pieces), "samples")
        left = batches[writer.n_batches :]
        with _behind(writer) as write, _encoded_ahead(model, self.pieces, left, config) as ahead:
            while rows < limit and (batch := next(ahead, None)) is not None:
                launched = launch(model, batch, self.hooks, config)
                write(launched)
                rows, done = rows + launched.n_rows, done + len(batch.samples)
                reporter.step(done, len(self.pieces), f"{rows:,} positions", "samples")
                rate = (rows - recorded_before) / max(time.monotonic() - begun, 1e-9)
                reporter.metric(done, positions=rows, positions_per_s=rate)


@contextlib.contextmanager
def _encoded_ahead(
    model: Model, samples: Sequence[Sample], batches: Sequence[Sequence[int]], config: RecordConfig
) -> Iterator[Iterator[Encoded]]:
    """Batches in order, the next one being decoded and tokenized while one is in use."""
    with ThreadPoolExecutor(1, thread_name_prefix="record-encode") as pool:
        coming: deque[Future[Encoded]] = deque()

        def in_turn() -> Iterator[Encoded]:
            for batch in batches:
                coming.append(pool.submit(encode, model, [samples[number] for number in batch], config))
                if len(coming) > 1:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

        try:
            yield in_turn()
        finally:
            for future in coming:
                future.cancel()


@contextlib.contextmanager
def _behind(writer: StoreWriter) -> Iterator[Callable[[Launched], None]]:
    """Appends in a thread of its own, at most two batches behind. After a failure nothing more is appended: a store
    has no holes."""
    failed: list[BaseException] = []

    def append(launched: Launched) -> None:
        if failed:
            return
        try:
            batch = launched.captured()
            writer.append(batch.samples, batch.rows, batch.sample, batch.unit, batch.kind, batch.token)
        except BaseException as error:
            failed.append(error)
            raise

    with ThreadPoolExecutor(1, thread_name_prefix="record-write") as pool:
        waiting: deque[Future[None]] = deque()

        def write(launched: Launched) -> None:
            waiting.append(pool.submit(append, launched))
            if len(waiting) > _AHEAD:
                waiting.popleft().result()

        yield write
        while waiting:
            waiting.popleft().result()


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
