"""Batches on their way to a GPU while it computes: gathered and copied by a thread, widened to float32 on the device.

A batch travels in the store's own numbers (half the bytes), through page-locked memory that the device reads by itself.
On a CPU there is nothing to hide: gathering and widening take the cores that the step wants.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Batches that lie ready, or are on their way.
_AHEAD = 3


@dataclass
class _Slot:
    """Page-locked room for one batch, free again once `copied`."""

    room: Tensor
    copied: torch.cuda.Event


class Feed:
    """`batches` (arrays [B, columns] of any float type, or tensors) as float32 tensors on the GPU `device`, in order.

    Iterate once; `close` ends the thread, and so does the end of the iteration. What the thread raises is raised here.
    """

    def __init__(self, batches: Iterator[Any], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._ready: queue.Queue[tuple[Tensor, torch.cuda.Event] | BaseException | None] = queue.Queue(_AHEAD - 1)
        self._closed = threading.Event()
        self._slots: list[_Slot] = []
        self._thread = threading.Thread(target=self._fill, name="train-feed", daemon=True)

    def __iter__(self) -> Iterator[Tensor]:
        self._thread.start()
        try:
            while (found := self._ready.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                rows, arrived = found
                stream = torch.cuda.current_stream(self._device)
                stream.wait_event(arrived)
                rows.record_stream(stream)
                yield rows
        finally:
            self.close()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def _fill(self) -> None:
        try:
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            for number, batch in enumerate(self._batches):
                if self._closed.is_set():
                    return
                self._put(self._sent(torch.as_tensor(batch), number, stream))
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _sent(self, batch: Tensor, number: int, stream: torch.cuda.Stream) -> tuple[Tensor, torch.cuda.Event]:
        """The batch on its way, and the event of its arrival."""
        with torch.cuda.stream(stream):
            if batch.is_cuda:
                stream.wait_stream(torch.cuda.default_stream(self._device))
                rows = batch.float()
            else:
                slot = self._slot(number, batch)
                slot.room.copy_(batch)
                rows = slot.room.to(self._device, non_blocking=True).float()
                slot.copied.record(stream)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(stream)
            return rows, arrived

    def _slot(self, number: int, batch: Tensor) -> _Slot:
        at = number % _AHEAD
        if at == len(self._slots):
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._slots.append(_Slot(torch.empty(batch.shape, dtype=batch.dtype, pin_memory=True), event))
        slot = self._slots[at]
        slot.copied.synchronize()
        if slot.room.shape != batch.shape:
            slot.room = torch.empty(batch.shape, dtype=batch.dtype, pin_memory=True)
        return slot

    def _put(self, item: tuple[Tensor, torch.cuda.Event] | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                return self._ready.put(item, timeout=0.05)
            except queue.Full:
                continue
