"""Qwen3.5: Qwen3-VL's tower, read once, and a decoder with attention in every fourth block only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from auditor.models.adapters.gates import gated_queries, with_gates
from auditor.models.adapters.hybrid import with_mixers
from auditor.models.adapters.qwen3_vl import Qwen3VlAdapter
from auditor.models.hook_points import Blocks, HookPoint


class Qwen35Adapter(Qwen3VlAdapter):
    """Its decoder is that of `auditor.models.adapters.hybrid.Qwen3NextAdapter`."""

    family = "qwen3_5"
    config_class = "Qwen3_5Config"
    architectures = ("Qwen3_5ForConditionalGeneration",)

    def table(self) -> Blocks:
        return replace(super().table(), q=gated_queries(self.heads().count))

    def hook_points(self) -> list[HookPoint]:
        return with_gates(with_mixers(super().hook_points(), self.network, "linear_attn"))

    def norm_gain(self) -> Tensor:
        # As Gemma, it keeps its norms' weights less one.
        weight: Any = self.final_norm().weight
        gain: Tensor = 1.0 + weight
        return gain


class Qwen35MoeAdapter(Qwen35Adapter):
    family = "qwen3_5_moe"
    config_class = "Qwen3_5MoeConfig"
    architectures = ("Qwen3_5MoeForConditionalGeneration",)
