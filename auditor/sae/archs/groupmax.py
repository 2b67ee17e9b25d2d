"""GroupMax features: the largest of each of k groups (sparsify 1.3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae.archs.architecture import Batch, folded
from auditor.sae.archs.chosen import Chosen, ChosenConfig
from auditor.sae.kernels.select import group_max
from auditor.sae.parameters import Parameters
from auditor.sae.sae import Sae
from auditor.sae.scaling import Scaling


class GroupMaxConfig(ChosenConfig):
    """`k`: groups, and so the most features active on a row."""


class GroupMax(Chosen):
    """Mean over rows of ‖x' - x‖² + AuxK, where of the features, in k groups of d_sae / k neighbours, only the largest
    of each group is active, if it is above zero (sparsify's `groupmax`; a winner of each group as Makhzani and Frey
    2015 have it over positions).

    No selection over all features is needed, and none of two features of one group can be active with the other.
    """

    name = "groupmax"
    config_class = GroupMaxConfig
    continues = ("groupmax",)

    def __init__(self, config: ChosenConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        if config.d_sae % self.k:
            fewer = max(1, config.d_sae // self.k)
            raise AuditorError(
                f"{config.d_sae} features do not make {self.k} equal groups.",
                f"Choose {fewer * self.k} features, or another number of active ones.",
            )

    def choose(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        values, ids = group_max(pre, self.k)
        return values.relu(), ids

    def finish(self, parameters: Parameters) -> Sae:
        return Sae("groupmax", **folded(parameters, self.scaling), k=self.k)
