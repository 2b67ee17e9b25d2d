"""Recording: samples go through a network, and what its hook points say goes into a store while the next batch runs."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data.sample import Sample
from auditor.models.model import Model
from auditor.store.capture import Captured, Encoded, capture, encode
from auditor.store.layout import MANIFEST, UNFINISHED, read_manifest
from auditor.store.plan import Plan, plan
from auditor.store.reader import Store
from auditor.store.recipe import RecordConfig, chosen_hooks, facts_of, pieces_of, schedule
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
    reporter = reporter or Reporter()
    if not len(samples):
        raise AuditorError("There are no samples to record.", "Choose a set of samples that has some.")
    hooks = chosen_hooks(config, model)
    pieces = pieces_of(samples, model, config)
    batches = schedule(pieces, config)
    with _threads(_begun_with(Path(out))):
        widths = {hook: model.hook_points[hook].width for hook in hooks}
        facts = facts_of(config, model, samples, hooks)
        places = {"model": str(model.path), "samples": config.samples}
        with StoreWriter(out, widths, facts, config.store_dtype, places=places) as writer:
            _fill(writer, config, model, pieces, hooks, batches, reporter)
            return writer.finish()


def _fill(
    writer: StoreWriter,
    config: RecordConfig,
    model: Model,
    samples: Sequence[Sample],
    hooks: Sequence[str],
    batches: Sequence[Sequence[int]],
    reporter: Reporter,
) -> None:
    limit = config.max_tokens or float("inf")
    begun, rows, done = time.monotonic(), writer.n_rows, writer.n_samples
    recorded_before = rows
    reporter.started(f"Record {model.name} at {', '.join(hooks)}", len(samples), "samples")
    with _behind(writer) as write, _encoded_ahead(model, samples, batches[writer.n_batches :], config) as ahead:
        while rows < limit and (batch := next(ahead, None)) is not None:
            captured = capture(model, batch, hooks, config)
            write(captured)
            rows, done = rows + len(captured.sample), done + len(captured.samples)
            reporter.step(done, len(samples), f"{rows:,} positions", "samples")
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
def _behind(writer: StoreWriter) -> Iterator[Callable[[Captured], None]]:
    """Appends in a thread of its own, at most two batches behind. After a failure nothing more is appended: a store
    has no holes."""
    failed: list[BaseException] = []

    def append(batch: Captured) -> None:
        if failed:
            return
        try:
            writer.append(batch.samples, batch.rows, batch.sample, batch.unit, batch.kind, batch.token)
        except BaseException as error:
            failed.append(error)
            raise

    with ThreadPoolExecutor(1, thread_name_prefix="record-write") as pool:
        waiting: deque[Future[None]] = deque()

        def write(batch: Captured) -> None:
            waiting.append(pool.submit(append, batch))
            if len(waiting) > _AHEAD:
                waiting.popleft().result()

        yield write
        while waiting:
            waiting.popleft().result()


def _begun_with(out: Path) -> int | None:
    """The thread count of an unfinished recording: sums in another order would give other last bits."""
    if (out / MANIFEST).exists() or not (out / UNFINISHED).exists():
        return None
    replay: Any = read_manifest(out / UNFINISHED).meta.get("replay")
    threads = replay.get("threads") if isinstance(replay, dict) else None
    return threads if isinstance(threads, int) and 1 <= threads <= 4096 else None


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
