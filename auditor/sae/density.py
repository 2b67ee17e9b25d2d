"""How often each feature fires, as a running mean over recent batches, and how many features fire how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Batches whose influence on the mean has not fallen below 1/e.
_MEMORY = 200
_DECADES, _PER_DECADE = 7, 4


@dataclass
class Density:
    """`share` [d_sae]: exponential moving average of the share of rows in which each feature fires; `batches` seen,
    counted on the CPU."""

    share: Tensor
    batches: Tensor

    @classmethod
    def start(cls, d_sae: int, device: torch.device) -> Density:
        return cls(torch.zeros(d_sae, device=device), torch.zeros(()))

    def add(self, counts: Tensor, rows: int) -> None:
        """Take in one batch: `counts` [d_sae] of its `rows` rows. No step waits for the device."""
        self.batches += 1
        # The plain mean at first, so that the start at zero leaves no trace.
        self.share.lerp_(counts / rows, max(1 / float(self.batches), 1 / _MEMORY))

    def histogram(self, over_features: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """`log10` edges from -7 to 0 and the `counts` of features between them; `silent`: those below all edges.
        `over_features` adds up what is counted where features are held in several places."""
        share = self.share.detach().float().cpu()
        edges = torch.linspace(-_DECADES, 0, _DECADES * _PER_DECADE + 1)
        logs = share.clamp_min(1e-30).log10()
        counts = torch.histogram(logs.clamp_max(0.0)[logs >= -_DECADES], edges).hist
        *counted, silent = over_features(torch.cat([counts, (logs < -_DECADES).sum()[None]])).tolist()
        return {
            "log10": [round(float(edge), 2) for edge in edges], "counts": [int(count) for count in counted],
            "silent": int(silent),
        }
