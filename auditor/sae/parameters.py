"""What training changes: encoder and decoder as rows, their biases, and how they start."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Parameters:
    """Leaf tensors in float32: encoder and decoder [d_sae, d_in] (one row a feature), b_enc [d_sae], b_dec [d_in].

    Both matrices hold features as rows, because a sparse step reads and writes whole features. A decoder that writes
    elsewhere is [d_sae, d_out], with b_dec [d_out]. `more` holds what an architecture learns beside these, by name.
    """

    encoder: Tensor
    decoder: Tensor
    b_enc: Tensor
    b_dec: Tensor
    more: dict[str, Tensor] = field(default_factory=dict)

    def named(self) -> dict[str, Tensor]:
        four = {"encoder": self.encoder, "decoder": self.decoder, "b_enc": self.b_enc, "b_dec": self.b_dec}
        return four | self.more

    @property
    def d_sae(self) -> int:
        return self.encoder.shape[0]


def start(sample: Tensor, d_sae: int, seed: int, device: torch.device) -> Parameters:
    """Random unit decoder rows, encoder half of them, b_dec the geometric median of `sample` [n, d_in].

    Half, because features then start with activations below what reconstructs best, and far fewer die.
    """
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(d_sae, sample.shape[1], generator=generator)
    decoder /= decoder.norm(dim=1, keepdim=True)
    tensors = {
        "encoder": decoder * 0.5, "decoder": decoder, "b_enc": torch.zeros(d_sae), "b_dec": geometric_median(sample)
    }
    return leaves(tensors, device)


def leaves(tensors: dict[str, Tensor], device: torch.device) -> Parameters:
    """Copies of `tensors` on `device`, as float32 leaves that gradients are taken of."""
    # Row by row in memory: torch's fused Adam reads a parameter and its gradient as if they lay alike.
    plain = {name: t.detach().float().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    copies = {name: t.to(device).requires_grad_() for name, t in plain.items()}
    four = {name: copies.pop(name) for name in ("encoder", "decoder", "b_enc", "b_dec")}
    return Parameters(**four, more=copies)


def geometric_median(points: Tensor, rounds: int = 20) -> Tensor:
    """The point [D] with the least summed distance to `points` [n, D] (Weiszfeld's iteration from the mean)."""
    centre = points.mean(0)
    for _ in range(rounds):
        weight = (points - centre).norm(dim=1).clamp_min(1e-8).reciprocal()
        centre = (weight @ points) / weight.sum()
    return centre
