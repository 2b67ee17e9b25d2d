"""Gradients of a batch in smaller pieces when it does not fit the memory."""

from __future__ import annotations

import torch

from auditor.base.errors import AuditorError
from auditor.sae.archs.architecture import Architecture, Batch, Outcome
from auditor.sae.parameters import Parameters

_LEAST_ROWS = 64


class MicroBatches:
    """Asks an architecture for gradients; halves the rows per piece each time that memory runs out."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.rows: int | None = None

    def gradients(self, parameters: Parameters, batch: Batch) -> Outcome:
        """As `Architecture.gradients`. AuditorError when even 64 rows at a time do not fit."""
        while True:
            try:
                return self._gradients(parameters, batch)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._halve(len(batch.x), error)

    def _halve(self, rows: int, error: RuntimeError) -> None:
        smaller = (self.rows or rows) // 2
        if smaller < _LEAST_ROWS:
            raise AuditorError(
                f"The dictionary does not fit the memory, even {self.rows or rows} rows at a time.",
                "Choose fewer features, or a machine with more memory.",
            ) from error
        self.rows = smaller
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _gradients(self, parameters: Parameters, batch: Batch) -> Outcome:
        if self.rows is None or self.rows >= len(batch.x):
            return self.architecture.gradients(parameters, batch)
        tensors = parameters.named().values()
        sums = [torch.zeros_like(tensor) for tensor in tensors]
        outcomes = []
        for first in range(0, len(batch.x), self.rows):
            piece = batch.part(slice(first, first + self.rows))
            share = len(piece.x) / len(batch.x)
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
    return Outcome(loss, squared, l0, torch.stack([o.counts for _, o in outcomes]).sum(0))


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
