"""Batches on their way to a GPU while it computes: gathered and sent by a thread, widened to float32 on the device.

A batch travels in the store's own numbers (half the bytes, or a quarter), gathered right into page-locked memory that
the device reads by itself. On a CPU there is nothing to hide: gathering and widening take the cores that the step
wants.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.sae.pump import Pump
from auditor.store.convert import Numbers

# Batches that lie ready, or are on their way.
_AHEAD = 3


@dataclass
class _Slot:
    """Page-locked memory for one batch, free again once `copied`."""

    memory: Tensor
    copied: torch.cuda.Event


class Feed:
    """Sends batches to the GPU `device`; `numbers` says what those mean that are no floats to numpy. Use once; the end
    of the iteration ends the thread."""

    def __init__(self, device: torch.device, numbers: Numbers | None = None) -> None:
        self._device, self._numbers = device, numbers
        self._ready: queue.Queue[tuple[Tensor, torch.cuda.Event] | BaseException | None] = queue.Queue(_AHEAD - 1)
        self._closed = threading.Event()
        self._slots: list[_Slot] = []
        self._number = 0
        self._pump: Pump | None = None
        self._lent: deque[torch.cuda.Event] = deque()

    def room(self, shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """Where the next batch may be put, once what lay there has arrived."""
        return self._slot(torch.Size(shape), torch.from_numpy(np.empty(0, dtype)).dtype).memory.numpy()

    def send(self, batches: Iterator[Any]) -> Generator[Tensor]:
        """`batches` (arrays or tensors [B, columns] of the store's numbers or any float type) as float32 on the device,
        in order. What the thread raises is raised here."""
        thread = threading.Thread(target=self._fill, args=(batches,), name="train-feed", daemon=True)
        thread.start()
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
            self._closed.set()
            while thread.is_alive():
                try:
                    self._ready.get(timeout=0.05)
                except queue.Empty:
                    continue

    def pumped(self, pump: Pump) -> Iterator[Tensor]:
        """As `send`, of what `pump` gathers, which is closed in the end."""
        self._pump = pump
        sent = self.send(iter(pump))
        try:
            yield from sent
        finally:
            pump.end()
            sent.close()
            self._lent.clear()
            pump.close()

    def _fill(self, batches: Iterator[Any]) -> None:
        try:
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            for batch in batches:
                if self._closed.is_set():
                    return
                self._put(self._sent(torch.as_tensor(batch), stream))
                self._number += 1
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _sent(self, batch: Tensor, stream: torch.cuda.Stream) -> tuple[Tensor, torch.cuda.Event]:
        """The batch on its way, and the event of its arrival."""
        if self._pump is not None:
            return self._passed_on(batch, stream, self._pump)
        slot = self._slot(batch.shape, batch.dtype)
        if slot.memory.data_ptr() != batch.data_ptr():
            slot.memory.copy_(batch)
        with torch.cuda.stream(stream):
            rows = self._widened(slot.memory.to(self._device, non_blocking=True))
            slot.copied.record(stream)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(stream)
        return rows, arrived

    def _passed_on(
        self, batch: Tensor, stream: torch.cuda.Stream, pump: Pump
    ) -> tuple[Tensor, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            rows = self._widened(batch.to(self._device, non_blocking=True))
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(stream)
        self._lent.append(arrived)
        if len(self._lent) == _AHEAD:
            self._lent.popleft().synchronize()
            pump.give_back()
        return rows, arrived

    def _widened(self, kept: Tensor) -> Tensor:
        if self._numbers is None or kept.dtype.is_floating_point:
            return kept.float()
        return self._numbers.widen(kept.view(torch.bfloat16) if self._numbers.dtype == "bfloat16" else kept)

    def _slot(self, shape: torch.Size, dtype: torch.dtype) -> _Slot:
        """The memory of the batch that is being made."""
        at = self._number % _AHEAD
        if at == len(self._slots):
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._slots.append(_Slot(torch.empty(shape, dtype=dtype, pin_memory=True), event))
        slot = self._slots[at]
        slot.copied.synchronize()
        if (slot.memory.shape, slot.memory.dtype) != (shape, dtype):
            slot.memory = torch.empty(shape, dtype=dtype, pin_memory=True)
        return slot

    def _put(self, item: tuple[Tensor, torch.cuda.Event] | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                return self._ready.put(item, timeout=0.05)
            except queue.Full:
                continue
