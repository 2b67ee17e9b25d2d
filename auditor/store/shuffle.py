"""The order in which a store's rows are handed out for training: shuffled blocks, then shuffled rows of many blocks.

Rows are read in whole blocks of about 512 KiB, since single rows cost a hundred times more. An epoch permutes all
blocks; some 64 MiB of blocks at a time form a window, whose rows are permuted. The order depends on the seed alone and
is known without reading a row, so a training that was stopped goes on at exactly the row where it stopped. Rows of
several hook points are read together, and are in the same order in each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from auditor.store.convert import Numbers
from auditor.store.shards import RowPart

BLOCK_BYTES = 512 << 10
WINDOW_BYTES = 64 << 20
# A copy out of the page cache by one core is slower than a step on a GPU.
READERS = min(4, os.cpu_count() or 1)
# Gives the array [rows, width] of a dtype that a batch is to be put into.
Room = Callable[[tuple[int, int], np.dtype], np.ndarray]


@dataclass(frozen=True)
class Blocks:
    """Runs of rows within one part each: `part`, `start`, `stop` and the number of rows wanted, `count` [n_blocks]."""

    part: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    count: np.ndarray
    per_window: int

    @property
    def total(self) -> int:
        return int(self.count.sum())


def blocks_of(wanted: Sequence[np.ndarray], row_bytes: int) -> Blocks:
    """The blocks that hold any of the rows of the masks `wanted` (bool [n_rows], one for each part)."""
    height = max(1, BLOCK_BYTES // row_bytes)
    columns: list[np.ndarray] = []
    for number, mask in enumerate(wanted):
        start = np.arange(0, len(mask), height)
        if len(start):
            stop = np.minimum(start + height, len(mask))
            count = np.add.reduceat(mask, start, dtype=np.int64)
            columns.append(np.stack([np.full(len(start), number), start, stop, count]))
    table = np.concatenate(columns, axis=1) if columns else np.zeros((4, 0), dtype=np.int64)
    part, start, stop, count = table[:, table[3] > 0]
    return Blocks(part, start, stop, count, max(1, WINDOW_BYTES // (height * row_bytes)))


@dataclass(frozen=True)
class Window:
    """Rows in memory, [n, width] of each hook point as the store keeps them, and the order in which to hand out those
    that are wanted."""

    rows: Sequence[np.ndarray]
    order: np.ndarray


# Reads one window into memory of each hook point's dtype, with threads to share the work.
Load = Callable[[Sequence[np.ndarray], Executor], Window]


def windows(
    parts: Sequence[RowPart],
    wanted: Sequence[np.ndarray],
    columns: Sequence[tuple[str, int]],
    numbers: Numbers,
    blocks: Blocks,
    *,
    seed: int,
    skip: int,
    epochs: int | None,
) -> Iterator[Window]:
    """Windows of the datasets `columns` (name, width) from the one that holds wanted row number `skip` (counted over
    epochs) on, that row first in order.

    The next window is read ahead, by several threads, while the last is in use: two windows are in memory, and a
    window's rows are good until the next one is asked for.
    """
    # Fresh memory costs more than the read itself, so two buffers take turns.
    buffers = [[np.empty((_largest(blocks), width), dtype=numbers.raw) for _, width in columns] for _ in range(2)]
    with (
        ThreadPoolExecutor(1, thread_name_prefix="store-ahead") as pool,
        ThreadPoolExecutor(READERS, thread_name_prefix="store-read") as readers,
    ):
        coming = None
        loads = _loads(parts, wanted, [name for name, _ in columns], blocks, seed=seed, skip=skip, epochs=epochs)
        for load, buffer in zip(loads, cycle(buffers), strict=False):
            following = pool.submit(load, buffer, readers)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()


def _loads(
    parts: Sequence[RowPart],
    wanted: Sequence[np.ndarray],
    names: Sequence[str],
    blocks: Blocks,
    *,
    seed: int,
    skip: int,
    epochs: int | None,
) -> Iterator[Load]:
    epoch, skip = divmod(skip, blocks.total)
    while epochs is None or epoch < epochs:
        shuffled = np.random.default_rng([seed, epoch]).permutation(len(blocks.part))
        for number, begin in enumerate(range(0, len(shuffled), blocks.per_window)):
            chosen = np.sort(shuffled[begin : begin + blocks.per_window])
            held = int(blocks.count[chosen].sum())
            if skip >= held:
                skip -= held
                continue
            yield _loader(parts, wanted, names, blocks, chosen, (seed, epoch, number), skip)
            skip = 0
        epoch += 1


def _loader(
    parts: Sequence[RowPart],
    wanted: Sequence[np.ndarray],
    names: Sequence[str],
    blocks: Blocks,
    chosen: np.ndarray,
    seed: tuple[int, int, int],
    skip: int,
) -> Load:
    def load(buffers: Sequence[np.ndarray], readers: Executor) -> Window:
        held = int((blocks.stop - blocks.start)[chosen].sum())
        rows, mask = [buffer[:held] for buffer in buffers], np.empty(held, dtype=bool)
        done, reads = 0, []
        for part, runs in _shares(blocks, chosen):
            end = done + sum(stop - start for start, stop in runs)
            for name, columns in zip(names, rows, strict=True):
                reads.append(readers.submit(parts[part].read, name, runs, columns[done:end]))
            mask[done:end] = np.concatenate([wanted[part][start:stop] for start, stop in runs])
            done = end
        order = np.random.default_rng(seed).permutation(np.flatnonzero(mask))
        wait(reads)  # all of them, before one that failed lets the buffers go
        for read in reads:
            read.result()
        return Window(rows, order[skip:])

    return load


def _shares(blocks: Blocks, chosen: np.ndarray) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """The blocks `chosen`, which are in order, by part, as runs of rows for one reader each."""
    size = max(1, -(-len(chosen) // READERS))
    for begin in range(0, len(chosen), size):
        share = chosen[begin : begin + size]
        for part in np.unique(blocks.part[share]):
            mine = share[blocks.part[share] == part]
            yield int(part), [(int(blocks.start[b]), int(blocks.stop[b])) for b in mine]


def _largest(blocks: Blocks) -> int:
    """Rows of the largest window that any order can give."""
    heights = np.sort(blocks.stop - blocks.start)
    return int(heights[-blocks.per_window :].sum())


def batches(source: Iterator[Window], batch_size: int, numbers: Numbers, dtype: str) -> Iterator[np.ndarray]:
    """`source` cut into [batch_size, width] arrays of `dtype`, hook points side by side; batches span windows; the very
    last may be smaller."""
    pieces: list[np.ndarray] = []
    held = 0
    for window in source:
        rows, done = [numbers.tensor(columns) for columns in window.rows], 0
        while done < len(window.order):
            order = torch.from_numpy(window.order[done : done + batch_size - held])
            chosen = [columns.index_select(0, order) for columns in rows]
            pieces.append(_as(chosen[0] if len(chosen) == 1 else torch.cat(chosen, 1), numbers, dtype))
            held, done = held + len(order), done + len(order)
            if held == batch_size:
                yield pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
                pieces, held = [], 0
    if pieces:
        yield np.concatenate(pieces)


def batches_in(room: Room, source: Iterator[Window], batch_size: int, numbers: Numbers) -> Iterator[np.ndarray]:
    """As `batches`, in the store's own numbers, each gathered into what `room` gives for it."""
    batch, held = torch.empty(0), 0
    for window in source:
        rows, done = [numbers.tensor(columns) for columns in window.rows], 0
        widths = [columns.shape[1] for columns in rows]
        while done < len(window.order):
            if not held:
                batch = numbers.tensor(room((batch_size, sum(widths)), numbers.raw))
            order = torch.from_numpy(window.order[done : done + batch_size - held])
            part = batch[held : held + len(order)]
            if len(rows) == 1:
                torch.index_select(rows[0], 0, order, out=part)
            else:
                for columns, target in zip(rows, torch.split(part, widths, 1), strict=True):
                    target.copy_(columns.index_select(0, order))
            held, done = held + len(order), done + len(order)
            if held == batch_size:
                yield numbers.array(batch)
                held = 0
    if held:
        yield numbers.array(batch[:held])


def _as(kept: Tensor, numbers: Numbers, dtype: str) -> np.ndarray:
    if dtype in (numbers.dtype, numbers.raw.name):
        return numbers.array(kept)
    rows: np.ndarray = numbers.widen(kept).numpy()
    return rows if dtype == "float32" else rows.astype(dtype)
