"""Data parallel: each process computes the gradients of its share of every batch, and all take the same step."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae.archs.architecture import Outcome
from auditor.sae.checkpoint import Progress
from auditor.sae.distributed import kept
from auditor.sae.distributed.group import Group
from auditor.sae.distributed.ranks import Ranks, Rows
from auditor.sae.finite import FiniteFlag
from auditor.sae.parameters import Parameters
from auditor.sae.train_config import TrainConfig


class Together(Ranks):
    """Processes of a `group`; what both ways of training together share."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.rank, self.size = group.rank, group.size

    @property
    def fuses(self) -> bool:
        return False

    def of_machine(self, taken: int, device: torch.device) -> int:
        return taken if device.type == "cuda" else taken * self.group.on_machine

    def any(self, flag: bool) -> bool:
        return self.group.any(flag)

    def wait(self) -> None:
        self.group.wait()

    def tell(self, value: Any = None) -> Any:
        return self.group.tell(value)

    def together(self) -> AbstractContextManager[None]:
        return self.group.together()

    def save(self, progress: Progress, path: Path, identity: dict[str, Any], flag: FiniteFlag) -> None:
        kept.save(progress, path, identity, flag, self.group, self.split)

    def load(self, progress: Progress, path: Path, identity: dict[str, Any], flag: FiniteFlag) -> None:
        kept.load(progress, path, identity, flag, self.group, self.split)


class DataParallel(Together):
    """Process r computes on rows r, r + R, r + 2R, … of each batch; gradients and outcome are those of the whole batch.

    The loss must be a mean over rows: then the mean of gradients weighted by rows is the gradient of the batch, up to
    the order in which floats are added. The first `auxk_rows` rows of a batch are the first of each share.
    What looks at a batch as a whole looks at its share here: BatchTopK and Matryoshka keep the k·B/R largest of
    each share, not the k·B largest of the batch, and a target L0 is aimed at in each share: another (not a worse) draw
    of the same rule. Whether an inexact product finds enough is found out on each share, and kept for each process.
    """

    def settings(self, config: TrainConfig) -> TrainConfig:
        if config.batch_size < self.size:
            raise AuditorError(
                f"A batch of {config.batch_size} rows cannot be shared by {self.size} processes.",
                "Choose a larger batch.",
            )
        return config.model_copy(update={"auxk_rows": -(-config.auxk_rows // self.size)})

    def part_of(self, config: TrainConfig) -> TrainConfig:
        return config.model_copy(update={"batch_size": -(-config.batch_size // self.size)})

    def begun(self, parameters: Parameters) -> None:
        for tensor in parameters.named().values():
            self.group.spread(tensor.detach())

    def share(self, x: Rows) -> Rows:
        self._weight = len(range(self.rank, len(x), self.size)) / len(x)
        return x[self.rank :: self.size]

    def joined(self, parameters: Parameters, outcome: Outcome) -> Outcome:
        for tensor in parameters.named().values():
            if tensor.grad is None:
                tensor.grad = torch.zeros_like(tensor)
            self.group.sum(tensor.grad.mul_(self._weight))
        loss, squared, l0 = (t.detach().float() for t in (outcome.loss, outcome.squared_error, outcome.l0))
        sums = self.group.sum(torch.stack([loss * self._weight, squared, l0 * self._weight]))
        counts: Tensor = self.group.sum(outcome.counts.clone())
        whole = None if outcome.sums is None else self.group.sum(outcome.sums.detach().clone())
        return replace(outcome, loss=sums[0], squared_error=sums[1], l0=sums[2], counts=counts, sums=whole)

    def facts(self) -> dict[str, Any]:
        return {"processes": self.size, "shared": "rows"}
