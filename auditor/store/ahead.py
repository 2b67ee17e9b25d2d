"""Batches made ready ahead of the network: pictures decoded, prepared and drawn, texts tokenized, in threads."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

from auditor.base.cores import PREPARING
from auditor.data.sample import Sample, with_pixels
from auditor.models.model import Model
from auditor.store.capture import Encoded, encode_inputs, encoders, with_pictures, with_thumbnails
from auditor.store.recipe import RecordConfig

# What is prepared ahead of the network is less than this, counted by the batch before, or one batch.
_READY_BYTES = 512 << 20


@contextlib.contextmanager
def encoded_ahead(
    model: Model, samples: Sequence[Sample], batches: Sequence[Sequence[int]], config: RecordConfig
) -> Iterator[Iterator[Encoded]]:
    """Batches in order, the next ones being made ready while one is in use: as many at once as `PREPARING` and
    `_READY_BYTES` allow."""
    room = _Room(_READY_BYTES)
    with (
        ThreadPoolExecutor(PREPARING, thread_name_prefix="record-decode") as decoding,
        ThreadPoolExecutor(encoders(model), thread_name_prefix="record-encode") as encoding,
        ThreadPoolExecutor(PREPARING, thread_name_prefix="record-prepare") as preparing,
        ThreadPoolExecutor(PREPARING, thread_name_prefix="record-draw") as drawing,
    ):
        coming: deque[Future[Encoded]] = deque()

        def encoded(given: Sequence[Sample], seen: Sequence[Future[Sample]]) -> Encoded:
            return encode_inputs(model, given, [one.result() for one in seen], config)

        def prepared(batch: Future[Encoded]) -> Encoded:
            return with_pictures(model, batch.result())

        def complete(batch: Future[Encoded]) -> Encoded:
            return with_thumbnails(model, batch.result(), config)

        def next_one() -> Encoded:
            found = coming.popleft().result()
            room.handed_on()
            return found

        def in_turn() -> Iterator[Encoded]:
            most = 1
            for turn, numbers in enumerate(batches):
                given = [samples[number] for number in numbers]
                seen = [decoding.submit(room.decoded, sample, turn) for sample in given]
                batch = preparing.submit(prepared, encoding.submit(encoded, given, seen))
                coming.append(drawing.submit(complete, batch))
                while len(coming) > most:  # more than one where batches have become larger
                    found = next_one()
                    most = max(1, min(PREPARING, _READY_BYTES // max(found.n_bytes, 1)))
                    yield found
            while coming:
                yield next_one()

        try:
            yield in_turn()
        finally:
            room.close()
            for pool in (decoding, encoding, preparing, drawing):
                pool.shutdown(wait=False, cancel_futures=True)


class _Room:
    """For decoded pictures of batches that are not handed on yet: `most` bytes, and those of the batch whose turn it
    is. Pictures may be far larger than those before them."""

    def __init__(self, most: int) -> None:
        self._most, self._turn, self._closed = most, 0, False
        self._held: dict[int, int] = {}
        self._changed = threading.Condition()

    def decoded(self, sample: Sample, turn: int) -> Sample:
        """The sample of batch number `turn` with its pictures in memory, once there is room. Batches have to be asked
        for in turn."""
        if sample.image is None:
            return sample
        with self._changed:
            self._changed.wait_for(lambda: self._closed or turn <= self._turn or sum(self._held.values()) < self._most)
            if self._closed:
                raise CancelledError
        found = with_pixels(sample)
        size = sum(picture.array.nbytes for picture in found.pictures if picture.array is not None)
        with self._changed:
            self._held[turn] = self._held.get(turn, 0) + size
        return found

    def handed_on(self) -> None:
        """The batch whose turn it was is in use."""
        with self._changed:
            self._held.pop(self._turn, None)
            self._turn += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more is wanted."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
