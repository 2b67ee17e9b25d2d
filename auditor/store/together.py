"""Recording by several processes: a queue of pieces, each recorded apart by who claims it, and appended in order.

A piece is a few consecutive batches. Beside the store `name.store` lies the folder `name.store.parts` with, for piece
n, `n.lock` (held by the process that records it; the system lets go of it when that process dies), `n.store` (what it
recorded, a store of its own) and `n.done`. The first process appends finished pieces to the store itself, in order and
batch by batch, so the store has the bytes that one process would have written. That costs writing every row twice, and
keeps the store's one writer. The folder must be one that all processes share, on a file system with locks.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from auditor.base.digest import canonical_json
from auditor.base.errors import AuditorError
from auditor.base.files import write_atomic
from auditor.base.reporter import Reporter
from auditor.store.disk import Disk
from auditor.store.layout import MANIFEST, UNFINISHED, read_manifest
from auditor.store.reader import Positions, Store, open_store
from auditor.store.record import Recording, parts_of
from auditor.store.room import UntilRoom
from auditor.store.samples import StoredSample, View
from auditor.store.writer import StoreWriter

_PIECE_BATCHES = 8
_WAIT_S = 0.05
_ENOUGH = "enough"


class _Enough(Exception):
    """The store has all the positions that were asked for."""


class Queue:
    """The pieces of a recording of `n_batches` batches into the store `out`."""

    def __init__(self, out: Path, n_batches: int) -> None:
        self.out = out
        self.folder = parts_of(out)
        self.pieces = [range(at, min(at + _PIECE_BATCHES, n_batches)) for at in range(0, n_batches, _PIECE_BATCHES)]

    def part(self, number: int) -> Path:
        """Where the store of a piece lies until it is appended."""
        return self.folder / f"{number:06d}.store"

    def done(self, number: int) -> bool:
        """Whether a piece was recorded."""
        return self._mark(number).exists()

    @contextlib.contextmanager
    def claimed(self, number: int) -> Iterator[bool]:
        """Whether the piece is this process's to record: not done, and claimed by no other."""
        lock = FileLock(self.folder / f"{number:06d}.lock", timeout=0)
        try:
            held = not self.done(number) and lock.acquire()
        except Timeout:
            held = False
        if not held:
            yield False
            return
        try:
            yield not self.done(number)
        finally:
            lock.release()

    def mark(self, number: int) -> None:
        """The piece is recorded."""
        write_atomic(self._mark(number), b"")

    def begin(self, n_batches: int, recording: Recording) -> None:
        """Make ready to go on behind `n_batches` batches; what was recorded further on in the same way is kept."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AuditorError(f"“{self.folder}” cannot be made ({error.strerror}).", "Check the disk.") from error
        (self.folder / _ENOUGH).unlink(missing_ok=True)
        for number, piece in enumerate(self.pieces):
            whole = (self.part(number) / MANIFEST).exists()
            if piece.stop <= n_batches or not self._same(number, recording):
                self.forget(number)
                whole = False
            if not whole:
                self._mark(number).unlink(missing_ok=True)

    def forget(self, number: int) -> None:
        """Remove what was recorded of a piece that the store holds."""
        if self.part(number).exists():
            shutil.rmtree(self.part(number))

    def end(self) -> None:
        """Tell the others that no more is wanted."""
        write_atomic(self.folder / _ENOUGH, b"")

    @property
    def ended(self) -> bool:
        return (self.folder / _ENOUGH).exists()

    def _same(self, number: int, recording: Recording) -> bool:
        """Whether what lies there of a piece has been recorded as it would be now (the thread count may differ)."""
        files = [self.part(number) / name for name in (MANIFEST, UNFINISHED)]
        found = next((file for file in files if file.exists()), None)
        return found is not None and canonical_json(read_manifest(found).meta) == canonical_json(
            meta_of(recording, self.pieces[number])
        )

    def _mark(self, number: int) -> Path:
        return self.folder / f"{number:06d}.done"


def meta_of(recording: Recording, piece: range) -> dict[str, Any]:
    """The `meta` of a piece's store."""
    return {"piece": [piece.start, piece.stop], "of": recording.facts()}


def record_pieces(recording: Recording, queue: Queue, first: int, reporter: Reporter) -> None:
    """Record pieces from number `first` on that no other process has claimed, until none is left or wanted. A full
    disk pauses it until there is room."""
    heard = _Heard(reporter, queue)
    room = UntilRoom(queue.folder, heard, 0)
    for number in range(first, len(queue.pieces)):
        if queue.ended:
            return
        reporter.check()
        try:
            _record_piece(recording, queue, number, heard, room)
        except _Enough:
            return


class Gathering:
    """The first process's part: it records pieces as the others do, and appends what is finished to the store."""

    def __init__(self, recording: Recording, out: Path, reporter: Reporter) -> None:
        self.recording, self.reporter = recording, reporter
        self._room = UntilRoom(out, reporter, len(recording.pieces), recording.unit)
        self.queue = Queue(out, len(recording.batches))
        self.writer: StoreWriter = recording.writer(out, recording.facts(), self._room)
        self._appended, self._rows, self._samples = (
            self.writer.n_batches, self.writer.n_rows, self.writer.n_samples
        )  # fmt: skip
        self._forgotten = self.first
        try:
            self.queue.begin(self.writer.n_batches, recording)
        except BaseException:
            self.writer.close()
            raise

    @property
    def first(self) -> int:
        """The first piece that the store does not hold the whole of."""
        return self._appended // _PIECE_BATCHES

    @property
    def complete(self) -> bool:
        limit = self.recording.config.max_tokens or float("inf")
        return self._appended >= len(self.recording.batches) or self._rows >= limit

    def run(self, meet: Callable[[], None]) -> Store:
        """Record and append until the store is finished; `meet` waits until the other processes have stopped."""
        total = len(self.recording.pieces)
        model, hooks = self.recording.model, self.recording.hooks
        begun, before = time.monotonic(), self._rows
        self.reporter.started(f"Record {model.name} at {', '.join(hooks)}", total, self.recording.unit)
        with self.writer:
            number = self.first
            while not self.complete:
                self.reporter.check()
                number = max(number, self.first)
                worked = number < len(self.queue.pieces) and _record_piece(
                    self.recording, self.queue, number, _Heard(self.reporter, self.queue), self._room
                )
                number += 1
                appended = self._append_ready()
                if appended:
                    self._room.done = self._samples
                    self.reporter.step(self._samples, total, f"{self._rows:,} positions", self.recording.unit)
                    rate = (self._rows - before) / max(time.monotonic() - begun, 1e-9)
                    self.reporter.metric(self._samples, positions=self._rows, positions_per_s=rate)
                if not worked and not appended and number >= len(self.queue.pieces):
                    # The others are at the last pieces; one that was left is taken up from the first again.
                    number = self.first
                    time.sleep(_WAIT_S)
            Disk(self.queue.folder, lambda: f"{self._rows} rows are safe", self._room).surely(self.queue.end)
            try:
                return self.writer.finish()
            finally:  # all pieces are appended, or there are none to go on with
                try:
                    meet()
                finally:
                    shutil.rmtree(self.queue.folder, ignore_errors=True)

    def _append_ready(self) -> bool:
        """Append the finished pieces that come next; whether there was one."""
        before = self._appended
        while not self.complete and self.queue.done(self.first):
            self._append(self.first)
            done = self.writer.n_batches // _PIECE_BATCHES
            for number in range(self._forgotten, done):
                self.queue.forget(number)
            self._forgotten = max(self._forgotten, done)
        return self._appended > before

    def _append(self, number: int) -> None:
        piece, part = self.queue.pieces[number], open_store(self.queue.part(number))
        homes = {group: part.at(*hooks) for group, hooks in part.manifest.by_group.items()}
        sample = 0
        for batch in range(len(piece)):
            begin = sample
            while sample < part.n_samples and part.sample(sample).batch == batch:
                sample += 1
            if piece.start + batch < self._appended or self.complete:
                continue
            held = [_sample(homes, one) for one in range(begin, sample)]
            rows, at = dict[str, Any](), dict[str, Positions]()
            for group, home in homes.items():
                first, last = home.sample(begin), home.sample(sample - 1)
                index = slice(first.first_row, last.first_row + last.n_rows)
                where = home.positions(index)
                at[group] = replace(where, sample=where.sample - begin)
                rows |= {hook: home.rows(index, hook) for hook in part.manifest.by_group[group]}
            self.writer.append_groups(held, rows, at)
            self._appended, self._samples = self._appended + 1, self._samples + len(held)
            self._rows += sum(map(len, at.values()))


def _sample(homes: dict[str, Store], number: int) -> StoredSample:
    """Sample `number` with what each row group says of it."""
    seen = {group: home.sample(number) for group, home in homes.items()}
    first = next(iter(seen.values()))
    views = {
        group: View(one.tokens, one.grid, one.panels, None if one.image == first.image else one.image)
        for group, one in seen.items()
    }
    return replace(first, views=views) if len(views) > 1 else first


def _record_piece(recording: Recording, queue: Queue, number: int, heard: _Heard, room: UntilRoom) -> bool:
    """Record a piece if it is this process's to record; whether it was. _Enough once no more is wanted."""
    with queue.claimed(number) as mine:
        if not mine:
            return False
        piece = queue.pieces[number]
        # int8 means what the whole recording's scales say, which the store's writer has.
        kept = "float32" if recording.config.store_dtype == "int8" else recording.config.store_dtype
        settled = recording.config.model_copy(update={"max_tokens": 0, "store_dtype": kept})
        whole = replace(recording, config=settled, base=None)
        path = queue.part(number)
        if not (path / MANIFEST).exists():
            batches = recording.batches[piece.start : piece.stop]
            with whole.writer(path, meta_of(recording, piece), room, batches) as writer:
                whole.fill(writer, batches, heard)
                writer.finish(part=True)
        Disk(path, lambda: "what was recorded is safe", room).surely(lambda: queue.mark(number))
        return True


class _Heard(Reporter):
    """Tells of a piece only that the disk is full, and hears the person's stop and the end of the queue."""

    def __init__(self, reporter: Reporter, queue: Queue) -> None:
        self._reporter, self._queue = reporter, queue

    def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
        self.check()

    def partial(self, kind: str, **data: Any) -> None:
        if kind == "disk_full":
            self._reporter.partial(kind, **data)

    def check(self) -> None:
        self._reporter.check()
        if self._queue.ended:
            raise _Enough
