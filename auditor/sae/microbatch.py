"""Gradients of a batch in smaller pieces when it does not fit the memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from auditor.base.errors import AuditorError
from auditor.sae import memory
from auditor.sae.archs.architecture import Architecture, Batch, Outcome
from auditor.sae.parameters import Parameters

LEAST_ROWS = 64


class MicroBatches:
    """Asks an architecture for gradients; halves the rows per piece each time that memory runs out. `does_not_fit`
    gives the error for when no piece fits, of how it was tried."""

    def __init__(self, architecture: Architecture, does_not_fit: Callable[[str], AuditorError]) -> None:
        self.architecture, self._does_not_fit = architecture, does_not_fit
        self.rows: int | None = None

    def gradients(self, parameters: Parameters, batch: Batch) -> Outcome:
        """As `Architecture.gradients`. AuditorError that says what would fit when even 64 rows at a time do not."""
        while True:
            try:
                return self._gradients(parameters, batch)
            except (MemoryError, RuntimeError) as error:
                if not memory.out_of_memory(error):
                    raise
                failed = error
            # Outside of the handler, whose error still holds the tensors that did not fit.
            self._halve(len(batch.x), parameters, failed.with_traceback(None))

    def _halve(self, rows: int, parameters: Parameters, error: Exception) -> None:
        for tensor in parameters.named().values():
            tensor.grad = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        smaller = (self.rows or rows) // 2
        if smaller < LEAST_ROWS:
            raise self._does_not_fit(f", even {self.rows or rows} rows at a time") from error
        self.rows = smaller

    def _gradients(self, parameters: Parameters, batch: Batch) -> Outcome:
        if self.rows is None or self.rows >= len(batch.x):
            return self.architecture.gradients(parameters, batch)
        tensors = parameters.named().values()
        sums = [torch.zeros_like(tensor) for tensor in tensors]
        outcomes = []
        for piece in batch.pieces(self.rows):
            share = piece.counted / max(1, batch.counted)
            outcome = self.architecture.gradients(parameters, piece)
            for total, tensor in zip(sums, tensors, strict=True):
                assert tensor.grad is not None
                total.add_(tensor.grad, alpha=share)
            outcomes.append((share, outcome))
        for total, tensor in zip(sums, tensors, strict=True):
            tensor.grad = total
        return _joined(outcomes)


def _joined(outcomes: list[tuple[float, Outcome]]) -> Outcome:
    loss = torch.stack([share * o.loss.detach() for share, o in outcomes]).sum()
    squared = torch.stack([o.squared_error for _, o in outcomes]).sum()
    l0 = torch.stack([share * o.l0 for share, o in outcomes]).sum()
    sums = [o.sums for _, o in outcomes if o.sums is not None]
    counts = torch.stack([o.counts for _, o in outcomes]).sum(0)
    return Outcome(loss, squared, l0, counts, torch.stack(sums).sum(0) if sums else None)
