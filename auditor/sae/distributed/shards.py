"""Features sharded over processes: each holds, learns and decodes its own, for a dictionary that outgrows one GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae.archs.architecture import Architecture
from auditor.sae.distributed.data import Together
from auditor.sae.distributed.group import Group
from auditor.sae.distributed.ranks import Rows
from auditor.sae.parameters import Parameters
from auditor.sae.train_config import TrainConfig

# Of what a training keeps, the tensors with one row a feature.
_BY_FEATURE = ("encoder", "decoder", "b_enc", "silent", "density")


class FeatureShards(Together):
    """Process r holds features r·⌈m/R⌉ to (r + 1)·⌈m/R⌉ of encoder, decoder and b_enc; all hold b_dec.

    All compute on the whole of each batch. What they exchange is in `sharded`: candidates for the top k and
    reconstructions [B, d], while the gradients and moments of features stay where the features are.
    """

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self._of = 0

    def settings(self, config: TrainConfig) -> TrainConfig:
        if self._of not in (0, config.d_sae):
            raise AuditorError(
                "Dictionaries of different sizes cannot be sharded in one sweep.", "Train each size on its own."
            )
        self._of = config.d_sae
        if self.starts[-2] >= config.d_sae:
            raise AuditorError(
                f"{config.d_sae} features cannot be sharded over {self.size} processes.", "Choose more features."
            )
        return config

    def part_of(self, config: TrainConfig) -> TrainConfig:
        return config.model_copy(update={"d_sae": -(-config.d_sae // self.size)})

    @property
    def starts(self) -> list[int]:
        """The first feature of each process, and the number of features."""
        return [min(rank * self.most, self._of) for rank in range(self.size + 1)]

    @property
    def most(self) -> int:
        """Features of the first process; the last may have fewer."""
        return -(-self._of // self.size)

    @property
    def own(self) -> slice:
        """The features held here."""
        return slice(self.starts[self.rank], self.starts[self.rank + 1])

    @property
    def held(self) -> int:
        """How many they are."""
        return self.starts[self.rank + 1] - self.starts[self.rank]

    def architecture(self, kind: type[Architecture]) -> Callable[..., Architecture]:
        from auditor.sae.distributed.sharded import Sharded

        return partial(Sharded, self, kind)

    def begun(self, parameters: Parameters) -> None:
        self.group.spread(parameters.b_dec.detach())

    def share(self, x: Rows) -> Rows:
        return x

    def over_features(self, counted: Tensor) -> Tensor:
        return self.group.sum(counted.clone())

    def split(self, name: str) -> tuple[int, int, int] | None:
        parts = name.removeprefix("adam.").split(".")
        if parts[0] not in _BY_FEATURE or parts[-1] == "step":
            return None
        return self.own.start, self.own.stop, self._of

    def facts(self) -> dict[str, Any]:
        return {"processes": self.size, "shared": "features"}
