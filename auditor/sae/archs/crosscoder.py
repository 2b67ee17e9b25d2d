"""Crosscoders: one set of features read from, and written to, several layers, models or checkpoints (Lindsey et al.
2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.sae.archs.relu import Relu


class Crosscoder(Relu):
    """Mean over rows of Σ_s ‖x'_s - x_s‖² + λ Σ_i z_i Σ_s ‖d_i^s‖ over the sources s, with z = ReLU(Σ_s (x_s - b_s)
    W_enc^s + b_enc) and x'_s = z W_dec^s + b_s (Lindsey et al. 2024, eq. 1 to 3); p-annealing as in `Relu`.

    The sum of norms, where an autoencoder of all columns would have the norm of their sum, lets a feature leave sources
    that do not need it. Each source is scaled to the same mean norm for each of its columns, so that none rules.
    `Sae.source_shares` tells which features are shared.
    """

    takes = "several"
    sparse = False

    def weights(self, decoder: Tensor) -> Tensor:
        parts = torch.split(decoder, [width for _, width in self.scaling.reading.sources], 1)
        return torch.stack([part.norm(dim=1) for part in parts]).sum(0)
