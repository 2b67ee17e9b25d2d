"""A GPU's TopK step as the training loop takes it: gradients and update in one, kept and taken up again exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.sae.archs.architecture import Batch, Outcome
from auditor.sae.kernels.cuda import language, select
from auditor.sae.kernels.cuda.step import FusedTopK
from auditor.sae.parameters import Parameters


def fits(d_sae: int, k: int, device: torch.device) -> bool:
    """Whether the kernels take these sizes on this device."""
    return device.type == "cuda" and language.usable(device) and select.fits(d_sae, k)


class FusedStep:
    """Steps of TopK by `kernels.cuda`. Adam's moments live in the loop's optimiser, so that checkpoints hold them."""

    def __init__(
        self, parameters: Parameters, optimiser: torch.optim.Adam, *, k: int, auxk_alpha: float, auxk_rows: int,
        batch_size: int, dead_after: int,
    ) -> None:
        self._parameters, self._optimiser = parameters, optimiser
        p = parameters
        self._kernels = FusedTopK(
            p.encoder, p.decoder, p.b_enc, p.b_dec, k=k, batch_size=batch_size, auxk_alpha=auxk_alpha,
            auxk_rows=auxk_rows, dead_after=dead_after,
        )
        self._show()

    def step(self, batch: Batch, lr: float, silent: Tensor) -> Outcome:
        """One step on a batch; where the loss is not finite nothing changes. `silent` is brought up to date. The
        outcome holds until the next step."""
        return Outcome(*self._kernels.step(batch.x, lr, silent))

    def waiting(self) -> list[int]:
        """Counts of dead features that are still to be used: what the optimiser's state does not hold."""
        return [int(count) for count in self._kernels.moments()["dead"]]

    def resume(self, waiting: list[int] | None) -> None:
        """Go on with the weights and the optimiser's state as a checkpoint has filled them; `waiting` is None, and the
        state Adam's own, where that was not of a fused step."""
        found = {"dead": torch.tensor(self.waiting() if waiting is None else waiting, dtype=torch.int32)}
        for name, parameter in self._parameters.named().items():
            for key, tensor in self._optimiser.state[parameter].items():
                found["clock" if key == "clock" else f"{name}.{key}"] = tensor
        if "clock" not in found:
            done = float(found["b_dec.step"])
            betas = self._optimiser.param_groups[0]["betas"]
            found["clock"] = torch.tensor([done, *(beta**done for beta in betas)], dtype=torch.float64)
        self._kernels.take(found)
        self._show()

    def _show(self) -> None:
        """Put the kernels' moments, the tensors themselves, where the loop looks for the optimiser's."""
        held = self._kernels.moments()
        for name, parameter in self._parameters.named().items():
            self._optimiser.state[parameter] = {key: held[f"{name}.{key}"] for key in ("exp_avg", "exp_avg_sq")}
        self._optimiser.state[self._parameters.b_dec]["clock"] = held["clock"]
