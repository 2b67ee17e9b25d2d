"""WavLM: Wav2Vec 2.0 with scores that also depend on how far apart two frames are, through a gate of each head.

Chen et al. 2022, arXiv:2110.13900.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, softmax

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.wav2vec2 import Wav2Vec2Adapter


class WavlmAdapter(Wav2Vec2Adapter):
    """The library gives weights of its projections to one function, where no hook comes to: here they are called one by
    one."""

    family = "wavlm"
    config_class = "WavLMConfig"
    architectures = ("WavLMModel", "WavLMForCTC")
    base = "wavlm"

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        for layer in self.body.encoder.layers:
            layer.attention.__class__ = _step_by_step(type(layer.attention))


def _step_by_step(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"torch_multi_head_self_attention": _attend})


def _attend(self: Any, hidden: Tensor, mask: Tensor | None, bias: Tensor) -> tuple[Tensor, None]:
    """[B, frames, width] → the same; `mask` bool [B, frames], False at padding; `bias` [B · heads, frames, frames] is
    added to the scores."""
    projections = (self.q_proj, self.k_proj, self.v_proj)
    q, k, v = (part(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in projections)
    if mask is not None:
        heads = mask.bool().repeat_interleave(self.num_heads, dim=0)
        bias = bias.masked_fill(~heads[:, None], float("-inf"))
    # The order of operations is that of torch's own, so that the bits are as well.
    scores = torch.baddbmm(bias, q.flatten(0, 1) * math.sqrt(1 / q.shape[-1]), k.flatten(0, 1).mT)
    pattern = dropout(softmax(scores, dim=-1).reshape(*q.shape[:2], *scores.shape[1:]), 0.0, training=False)
    written: Tensor = self.out_proj((pattern @ v).transpose(1, 2).flatten(2))
    return written, None
