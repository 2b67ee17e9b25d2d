"""SegFormer: attention over maps that shrink from stage to stage, to keys of which there are fewer than patches.

Xie et al. 2021, arXiv:2105.15203. What segments a picture, made of all stages, is no hook point.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from auditor.models.adapters.swin import SwinAdapter
from auditor.models.adapters.vision import projections
from auditor.models.hook_points import Blocks, Heads, HookPoint, Site
from auditor.models.inputs import Inputs
from auditor.models.pictures import IMAGENET_MEAN, IMAGENET_STD, VIT, Size


class SegformerAdapter(SwinAdapter):
    """Blocks are counted through all stages, and `blocks.N.resid_pre` of a stage's first block is the map after its
    patches were made. `k` and `v` have the grid that a convolution leaves of the stage's. `mlp_pre` comes after the
    convolution inside the MLP."""

    family = "segformer"
    config_class = "SegformerConfig"
    architectures = ("SegformerForSemanticSegmentation", "SegformerForImageClassification", "SegformerModel")
    body = "segformer"
    processor = VIT | {"size": {"height": 512, "width": 512}, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    any_size = True

    def width_of(self, stage: int) -> int:
        return int(self.config.hidden_sizes[stage])

    def heads_of(self, stage: int) -> Heads:
        count = int(self.config.num_attention_heads[stage])
        return Heads(count, count, self.width_of(stage) // count)

    def mlp_width_of(self, stage: int) -> int:
        return int(self.width_of(stage) * self.config.mlp_ratios[stage])

    def stack_of(self, stage: int) -> str:
        return f"{self.at}stages.{stage}.blocks"

    def ends(self) -> tuple[str, str]:
        return f"{self.at}stages.0.patch_embeddings", f"{self.at}stages.{len(self.depths) - 1}.layer_norm"

    def inside(self) -> Blocks:
        return Blocks(
            stack="",
            embed=Site(""),
            attn_out=Site("attention"),
            resid_mid=Site("layernorm_after", "input", shared=True),
            mlp_hidden=Site("mlp.fc2", "input"),
            mlp_out=Site("mlp"),
            final_norm=None,
            **projections("attention"),
            mlp_pre=Site("mlp.dwconv"),
        )

    def _in_rows(self, point: HookPoint, stage: int) -> HookPoint:
        block, _, site = point.name.rpartition(".")
        return replace(point, keys=f"{block}.k") if site == "pattern" else point

    def grid_of(self, point: HookPoint) -> Size:
        stage = self._stage_of(point)
        by = int(self.config.sr_ratios[stage]) if point.name.endswith((".k", ".v")) else 1
        rows, columns = self._grid(stage)
        return rows // by, columns // by

    def _grid(self, stage: int) -> Size:
        assert self.rule.expects is not None
        rows, columns = self.rule.expects
        for side, step in zip(self.config.patch_sizes[: stage + 1], self.config.strides[: stage + 1], strict=True):
            rows, columns = ((length + 2 * (side // 2) - side) // step + 1 for length in (rows, columns))
        return rows, columns

    def forward(self, inputs: Inputs) -> torch.Tensor | None:
        logits = super().forward(inputs)
        return logits if logits is None or logits.ndim == 2 else None
