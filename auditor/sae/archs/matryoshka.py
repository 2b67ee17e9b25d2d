"""Matryoshka BatchTopK: the first features must reconstruct on their own, so that general ones come first (Bussmann et
al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae.archs.architecture import Batch
from auditor.sae.archs.batchtopk import BatchTopK, BatchTopKConfig
from auditor.sae.parameters import Parameters
from auditor.sae.scaling import Scaling


@dataclass(frozen=True, kw_only=True)
class MatryoshkaConfig(BatchTopKConfig):
    """`widths`: shares of the features that must reconstruct on their own, as `widths_of` reads them."""

    widths: str


class Matryoshka(BatchTopK):
    """Mean over nested widths w of the mean over rows of ‖x'_w - x‖², plus AuxK of the whole, where x'_w is what the
    first w features reconstruct; chosen, trained and finished as BatchTopK. Bussmann et al. 2025 sum over the widths;
    the mean is that but for a factor, and leaves AuxK the weight that it has in BatchTopK.

    `widths` are counts of features, rising to d_sae.
    """

    name = "matryoshka"
    config: MatryoshkaConfig
    config_class = MatryoshkaConfig

    def __init__(self, config: MatryoshkaConfig, scaling: Scaling, sample: Batch, device: torch.device) -> None:
        super().__init__(config, scaling, sample, device)
        self.widths = widths_of(config.widths, config.d_sae)

    def missed(self, p: Parameters, z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        sizes = [stop - start for start, stop in zip([0, *self.widths], self.widths, strict=False)]
        residual, total = p.b_dec - target, torch.zeros((), device=z.device)
        for part, rows in zip(torch.split(z, sizes, 1), torch.split(p.decoder, sizes), strict=True):
            residual = residual + part @ rows
            total = total + residual.pow(2).sum()
        return total / len(sizes), residual

    def facts(self) -> dict[str, Any]:
        return {**self.state(), "widths": list(self.widths)}


def widths_of(shares: str, d_sae: int) -> list[int]:
    """Counts of features for shares such as “1/4, 0.5, 1”, rising, the last d_sae. AuditorError if they cannot be."""
    try:
        found = sorted({Fraction(share.strip()) for share in shares.split(",") if share.strip()} | {Fraction(1)})
    except (ValueError, ZeroDivisionError):
        found = []
    widths = sorted({max(1, round(share * d_sae)) for share in found})
    if not widths or found[0] <= 0 or found[-1] > 1:
        raise AuditorError(f"“{shares}” are no shares of a dictionary.", "Write such as “1/16, 1/4, 1”.")
    return widths
