"""Crosscoders: one set of features read from, and written to, several layers, models or checkpoints (Lindsey et al.
2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from auditor.sae.archs.l1 import L1, L1Config
from auditor.sae.clt import Dictionary
from auditor.sae.parameters import Parameters

_BINS = 20


@dataclass(frozen=True, kw_only=True)
class CrosscoderConfig(L1Config):
    """As of a ReLU dictionary; its steps are dense, so there is no product to choose."""


class Crosscoder(L1):
    """Mean over rows of Σ_s ‖x'_s - x_s‖² + λ Σ_i z_i Σ_s ‖d_i^s‖ over the sources s, with z = ReLU(Σ_s (x_s - b_s)
    W_enc^s + b_enc) and x'_s = z W_dec^s + b_s (Lindsey et al. 2024, eq. 1 to 3); p-annealing as in `L1`.

    The sum of norms, where an autoencoder of all columns would have the norm of their sum, lets a feature leave sources
    that do not need it. Each source is scaled to the same mean norm for each of its columns, so that none rules.
    `Sae.source_shares` tells which features are shared, `facts` how many.
    """

    name = "crosscoder"
    config: CrosscoderConfig
    config_class = CrosscoderConfig
    takes = "several"
    _shares: Tensor | None = None

    def weights(self, decoder: Tensor) -> Tensor:
        return self._norms(decoder).sum(1)

    def finish(self, parameters: Parameters) -> Dictionary:
        norms = self._norms(parameters.decoder.detach())
        self._shares = norms / norms.sum(1, keepdim=True).clamp_min(1e-12)
        return super().finish(parameters)

    def facts(self) -> dict[str, Any]:
        """Also, of the dictionary finished last, how many features have which share of their norms in each source:
        `norm_shares`, counts in bins of 1/20 from 0 to 1."""
        found = self.state()
        if self._shares is not None:
            columns = zip(self.scaling.reading.sources, self._shares.cpu().unbind(1), strict=True)
            counted = {name: torch.histc(column, _BINS, 0, 1) for (name, _), column in columns}
            found["norm_shares"] = {name: [int(count) for count in counts] for name, counts in counted.items()}
        return found

    def _norms(self, decoder: Tensor) -> Tensor:
        """Of what each feature writes to each source, [d_sae, sources]."""
        parts = torch.split(decoder, [width for _, width in self.scaling.reading.sources], 1)
        return torch.stack([part.norm(dim=1) for part in parts], 1)
