"""Ways in which tools write down one and the same dictionary, and how each is folded into canonical weights.

All are exact: what comes out encodes and decodes as the tool itself would. Weights are tables of the tensors of `Sae`
(W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_out], b_dec, and threshold where there is one).
"""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.base.errors import AuditorError

Weights = dict[str, Tensor]


def input_not_centred(weights: Weights) -> Weights:
    """For f(x W_enc + b_enc): b_enc grows by b_dec W_enc, because a `Sae` subtracts b_dec first."""
    return weights | {"b_enc": weights["b_enc"] + weights["b_dec"] @ weights["W_enc"]}


def input_centred(weights: Weights) -> Weights:
    """The inverse of `input_not_centred`: the bias of a formula that does not subtract b_dec."""
    return weights | {"b_enc": weights["b_enc"] - weights["b_dec"] @ weights["W_enc"]}


def input_scaled(weights: Weights, factor: float, out: float | None = None) -> Weights:
    """For a dictionary made for `factor` x that predicts `out` (else `factor`) times the output: activations stay."""
    out = factor if out is None else out
    scaled = {"W_enc": weights["W_enc"] * factor, "W_dec": weights["W_dec"] / out, "b_dec": weights["b_dec"] / out}
    return weights | scaled


def input_whitened(weights: Weights, mean: Tensor, matrix: Tensor, inverse: Tensor) -> Weights:
    """For a dictionary of (x − mean) M, whose reconstruction goes back by M⁻¹ (arXiv 2511.13981)."""
    if matrix.shape != inverse.shape or matrix.shape != (len(mean), len(mean)) or len(mean) != len(weights["b_dec"]):
        raise AuditorError("The whitening has another width than the dictionary.", "Get the files again.")
    m, back, centre = matrix.double(), inverse.double(), mean.double()
    return weights | {
        "W_enc": (m @ weights["W_enc"].double()).float(), "W_dec": (weights["W_dec"].double() @ back).float(),
        "b_dec": (weights["b_dec"].double() @ back + centre).float(),
    }  # fmt: skip


def decoder_norms_in_activations(weights: Weights) -> Weights:
    """For a choice of features by activation times decoder norm: rows of W_dec get unit norm, thresholds are as given
    for the product (SAELens' rescale_acts_by_decoder_norm, Llamascopium's sparsity_include_decoder_norm)."""
    norm = weights["W_dec"].norm(dim=1).clamp_min(1e-12)
    return weights | {
        "W_enc": weights["W_enc"] * norm,
        "b_enc": weights["b_enc"] * norm,
        "W_dec": weights["W_dec"] / norm[:, None],
    }


def gated(W_enc: Tensor, b_gate: Tensor, r_mag: Tensor, b_mag: Tensor, rest: Weights) -> Weights:
    """Rajamanoharan et al. 2024a, eq. 7: ReLU(x W_enc e^r + b_mag) where x W_enc + b_gate > 0. Since e^r > 0, that is a
    JumpReLU of the magnitudes with threshold max(b_mag − e^r b_gate, 0)."""
    scale = r_mag.exp()
    threshold = (b_mag - scale * b_gate).clamp_min(0)
    return rest | {"W_enc": W_enc * scale, "b_enc": b_mag, "threshold": threshold}


def signed(weights: Weights) -> Weights:
    """For the k largest |x W_enc + b_enc|, signs kept: every feature becomes two, its positive side (first half) and
    its negative one. At most one of a pair is above zero, so the k largest of the ReLUs are the same features."""
    sides = {"W_enc": 1, "b_enc": 0, "W_dec": 0}
    return weights | {name: torch.cat([weights[name], -weights[name]], axis) for name, axis in sides.items()}


def one_side(weights: Weights) -> Weights | None:
    """The inverse of `signed`; None unless the second half of the features is the first one's other side to the bit."""
    if len(weights["b_enc"]) % 2:
        return None
    found = dict(weights)
    for name, axis in (("b_enc", 0), ("W_dec", 0), ("W_enc", 1)):  # the small one first: mostly it tells
        found[name], other = weights[name].chunk(2, axis)
        if not torch.equal(found[name], -other):
            return None
    return found
