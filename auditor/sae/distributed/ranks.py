"""What the training loop asks of the processes that train together; here it is one process, so nothing is exchanged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.sae import checkpoint
from auditor.sae.archs.architecture import Architecture, Outcome
from auditor.sae.checkpoint import Progress
from auditor.sae.distributed import kept
from auditor.sae.finite import FiniteFlag
from auditor.sae.parameters import Parameters
from auditor.sae.train_config import TrainConfig

Rows = np.ndarray[Any, Any]


class Ranks:
    """The processes of one run. Each calls the same methods in the same order; process 0, which `leads`, alone reports,
    evaluates and writes."""

    rank = 0
    size = 1
    # Which rows of a tensor of this name are held here.
    split: Callable[[str], tuple[int, int, int] | None] = staticmethod(kept.whole)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def fuses(self) -> bool:
        """Whether a step may update the parameters without showing their gradients."""
        return True

    def settings(self, config: TrainConfig) -> TrainConfig:
        """The settings as the architecture here is to take them."""
        return config

    def part_of(self, config: TrainConfig) -> TrainConfig:
        """Settings of a dictionary that would take, by itself, what each process takes of this one."""
        return config

    def of_machine(self, taken: int, device: torch.device) -> int:
        """Of `taken` bytes of memory a process, what its machine's processes take together; each has its own GPU."""
        return taken

    def architecture(self, kind: type[Architecture]) -> Callable[..., Architecture]:
        """What makes the architecture here of its settings, scaling, sample and device."""
        return kind

    def begun(self, parameters: Parameters) -> None:
        """Make the first parameters those of process 0, to the last bit."""

    def share(self, x: Rows) -> Rows:
        """What this process computes of the rows x [B, all columns]."""
        return x

    def joined(self, parameters: Parameters, outcome: Outcome) -> Outcome:
        """Gradients, left in the parameters, and outcome of the whole batch, from those of `share`."""
        return outcome

    def over_features(self, counted: Tensor) -> Tensor:
        """What was counted over the features held here, counted over all features."""
        return counted

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        return flag

    def wait(self) -> None:
        """Until all have come here."""

    def tell(self, value: Any = None) -> Any:
        """What process 0 says, on all; plain values."""
        return value

    def together(self) -> AbstractContextManager[None]:
        """Where the person's stop, heard by one process, is raised on all; a failure of one ends all."""
        return contextlib.nullcontext()

    def save(self, progress: Progress, path: Path, identity: dict[str, Any], flag: FiniteFlag) -> None:
        """Keep the whole state as `path`; as `checkpoint.save`."""
        checkpoint.save(progress, path, identity, flag)
        kept.forget(kept.folder(path))

    def load(self, progress: Progress, path: Path, identity: dict[str, Any], flag: FiniteFlag) -> None:
        """Take up the state kept as `path` by any number of processes; as `checkpoint.load`."""
        kept.load(progress, path, identity, flag)

    def facts(self) -> dict[str, Any]:
        """What a finished dictionary says of the processes that made it."""
        return {}
