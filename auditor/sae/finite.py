"""A flag on the device that says within one step that the loss is no longer a number, or has leapt."""

from __future__ import annotations

import torch
from torch import Tensor

_MEMORY = 50
# Losses seen before a leap can be told from the fall at the start.
_SETTLED = 20
_LARGEST = torch.finfo(torch.float32).max


class FiniteFlag:
    """On a CPU the answer is about this loss; on a GPU about the one before, so that no step waits for the device.

    A loss leaps when it exceeds `spike` times its running mean (0: never). `mean` and `seen` are that mean's state.
    """

    def __init__(self, device: torch.device, spike: float = 0.0) -> None:
        self._waits = device.type == "cuda"
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None
        self._spike = spike
        self.mean = torch.zeros((), device=device)
        self.seen = torch.zeros(())  # counted on the CPU, where it costs no launch

    def bad(self, loss: Tensor, *, beside: Tensor | None = None, may_leap: bool = False) -> bool:
        """Whether a loss seen so far, or the number `beside` it, was not finite; or the loss leapt where it may not."""
        good = torch.isfinite(loss.detach()) if may_leap else self._good(loss.detach())
        if beside is not None:
            good = good & torch.isfinite(beside)
        if not self._waits:
            return not bool(good)
        before = self.settle()
        copied = good.to("cpu", non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._pending = copied, event
        return before

    def settle(self) -> bool:
        """Wait for what is under way; whether it was bad."""
        if self._pending is None:
            return False
        good, event = self._pending
        self._pending = None
        event.synchronize()
        return not bool(good)

    def _good(self, loss: Tensor) -> Tensor:
        if not self._spike:
            return torch.isfinite(loss)
        # NaN is below no limit, and infinity above every finite one: one comparison, since each costs a launch.
        good = loss <= (self._spike * self.mean if self.seen >= _SETTLED else _LARGEST)
        self.seen += 1
        # A bad loss spoils the mean, but the state it belongs to is given up with it.
        self.mean.lerp_(loss.to(self.mean.dtype), max(1 / float(self.seen), 1 / _MEMORY))
        return good
