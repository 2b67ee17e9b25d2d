"""A flag on the device that says within one step that the loss is no longer a number."""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteFlag:
    """On a CPU the answer is about this loss; on a GPU about the one before, so that no step waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._waits = device.type == "cuda"
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None

    def bad(self, loss: Tensor) -> bool:
        """Whether a loss seen so far was not finite."""
        finite = torch.isfinite(loss.detach())
        if not self._waits:
            return not bool(finite)
        before = self.settle()
        copied = finite.to("cpu", non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._pending = copied, event
        return before

    def settle(self) -> bool:
        """Wait for what is under way; whether it was not finite."""
        if self._pending is None:
            return False
        finite, event = self._pending
        self._pending = None
        event.synchronize()
        return not bool(finite)
