"""The edit of dictionary features at a hook point: ablated, scaled or clamped, the error term kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.models.edits import Edit
from auditor.sae import Sae

Mode = Literal["ablate", "scale", "clamp"]


class EditFeature(Edit):
    """Ablate, scale (activation × amount) or clamp (activation = amount) features through a dictionary.

    `only_active` limits a clamp to positions where the feature fires (conditional steering). The error term stays.
    """

    def __init__(
        self,
        sae: Sae,
        feature: int | Sequence[int],
        mode: Mode = "ablate",
        amount: float = 0.0,
        positions: Sequence[int] | None = None,
        *,
        hook: str = "",
        only_active: bool = False,
    ) -> None:
        super().__init__(hook or sae.hook, positions)
        sae.must_be_plain("Editing a feature")
        self.sae = sae
        self.features = [feature] if isinstance(feature, int) else list(feature)
        if mode not in get_args(Mode):
            raise AuditorError(f"“{mode}” is not a way to edit a feature.", "Choose ablate, scale or clamp.")
        for number in self.features:
            check_feature(sae, number)
        self.mode, self.amount, self.only_active = mode, amount, only_active

    def apply(self, x: Tensor) -> Tensor:
        must_read(self.sae, self.hook, x.shape[-1])
        values, ids = self.sae.encode_sparse(x.reshape(-1, x.shape[-1]))
        change = torch.zeros_like(x).reshape(-1, x.shape[-1])
        for number in self.features:
            now = (values * (ids == number)).sum(1)
            new = new_activation(now, self.mode, self.amount)
            if self.only_active:
                new = torch.where(now > 0, new, now)
            change = change + (new - now)[:, None].to(x) * self.sae.W_dec[number].to(x)
        return x + change.reshape(x.shape)


def writes(sae: Sae, feature: int, hook: str = "") -> Callable[[Tensor], Tensor]:
    """What a feature writes into the values x [B, P, width] at its hook point, its activation times its decoder row;
    the source of an edge that `auditor.models.edits.CutEdge` cuts."""
    sae.must_be_plain("Cutting an edge of a feature")
    check_feature(sae, feature)
    if hook and hook != sae.hook:
        raise AuditorError(
            f"The dictionary is of “{sae.hook}”, and the edge leads from “{hook}”.", "Name the dictionary's hook point."
        )

    def write(x: Tensor) -> Tensor:
        must_read(sae, hook or sae.hook, x.shape[-1])
        values, ids = sae.encode_sparse(x.reshape(-1, x.shape[-1]))
        now = (values * (ids == feature)).sum(1)
        return (now[:, None].to(x) * sae.W_dec[feature].to(x)).reshape(x.shape)

    return write


def new_activation(now: Tensor, mode: Mode, amount: float) -> Tensor:
    """The activation that an edit puts in the place of `now`."""
    if mode == "clamp":
        return torch.full_like(now, amount)
    return now * amount if mode == "scale" else torch.zeros_like(now)


def check_feature(sae: Sae, feature: int) -> None:
    """AuditorError when the dictionary has no such feature."""
    if not 0 <= feature < sae.d_sae:
        raise AuditorError(f"There is no feature {feature}.", f"Choose one of 0 to {sae.d_sae - 1}.")


def must_read(sae: Sae, hook: str, width: int) -> None:
    """AuditorError when the dictionary is of rows of another width."""
    if sae.d_in != width:
        raise AuditorError(
            f"The dictionary reads rows of {sae.d_in} channels, and “{hook}” has {width} in this network.",
            "Choose a dictionary of this model and hook point.",
        )
