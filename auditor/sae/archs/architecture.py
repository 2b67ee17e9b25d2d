"""What an architecture owes the training loop, so that the loop knows none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from auditor.sae.parameters import Parameters
from auditor.sae.sae import Sae
from auditor.sae.train_config import TrainConfig


@dataclass
class Batch:
    """x [B, d_in] on the training scale; `step` from 0; `dead` [d_sae] marks features silent for too long."""

    x: Tensor
    step: int
    dead: Tensor


@dataclass
class Outcome:
    """Of one batch, as tensors on its device: loss, Σ (x' - x)² over all entries, mean active features per row,
    and which features fired [d_sae]."""

    loss: Tensor
    squared_error: Tensor
    l0: Tensor
    fired: Tensor


class Architecture:
    """One way to keep features sparse. `sample` [n, d_in] is data on the training scale."""

    def __init__(self, config: TrainConfig, sample: Tensor, device: torch.device) -> None:
        self.config = config
        self.device = device

    def gradients(self, parameters: Parameters, batch: Batch) -> Outcome:
        """Put the loss's gradients into `.grad` of every parameter."""
        outcome = self.loss(parameters, batch)
        for tensor in parameters.named().values():
            tensor.grad = None
        outcome.loss.backward()  # type: ignore[no-untyped-call]
        return outcome

    def loss(self, parameters: Parameters, batch: Batch) -> Outcome:
        """The loss as autograd sees it."""
        raise TypeError(f"{type(self).__name__} gives no loss")

    def before_update(self, parameters: Parameters) -> None:
        """Change gradients before the optimiser uses them."""

    def after_update(self, parameters: Parameters) -> None:
        """Restore what the architecture demands of its weights."""

    def state(self) -> dict[str, Any]:
        """Plain values that a resumed run needs to go on as this one would."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""

    def facts(self) -> dict[str, Any]:
        """Plain values worth keeping with the dictionary."""
        return self.state()

    def finish(self, parameters: Parameters, scale: float) -> Sae:
        """The dictionary on raw activations, for weights trained on activations times `scale`."""
        return Sae("relu", *folded(parameters, scale))


def folded(parameters: Parameters, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Canonical W_enc, W_dec, b_enc, b_dec on raw activations with unit decoder rows.

    With s the scale and n the decoder row's norm, activations become z n / s: f is positively homogeneous, so scaling
    its input and undoing that on its output leaves the reconstruction as it is.
    """
    encoder, decoder, b_enc, b_dec = (t.detach().cpu().float() for t in parameters.named().values())
    norm = decoder.norm(dim=1).clamp_min(1e-12)
    return (encoder * norm[:, None]).T.contiguous(), decoder / norm[:, None], b_enc * norm / scale, b_dec / scale
