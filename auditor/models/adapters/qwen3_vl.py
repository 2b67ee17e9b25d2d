"""Qwen3-VL: Qwen2-VL with positions of patches learned on a grid, and a Qwen3 (or a mixture of experts) that gets the
picture again after its first blocks (DeepStack: Meng et al. 2024, arXiv:2406.04334)."""

from __future__ import annotations

from dataclasses import replace

from auditor.models.adapters.qwen2_vl import TOWER, Qwen2VlAdapter
from auditor.models.hook_points import Blocks, HookPoint, Site
from auditor.models.linearise import LinearPart


class Qwen3VlAdapter(Qwen2VlAdapter):
    """At a picture's tokens `resid_pre` of the second block and some after it is `resid_post` of the one before, plus
    what a merger of its own makes of a deeper state of the tower: ``deepstack.0`` is added behind block 0, and so on.
    """

    family = "qwen3_vl"
    config_class = "Qwen3VLConfig"
    architectures = ("Qwen3VLForConditionalGeneration",)
    inner = ("linear_fc1", "linear_fc2")
    last = "linear_fc2"

    def tower(self) -> tuple[int, int]:
        vision = self.whole.vision_config
        return int(vision.hidden_size), int(vision.intermediate_size)

    def vision_points(self) -> list[HookPoint]:
        states = [int(number) for number in getattr(self.whole.vision_config, "deepstack_visual_indexes", None) or ()]
        found = []
        for point in super().vision_points():
            found.append(point)
            for turn, number in enumerate(states):
                if point.name == f"vision.blocks.{number}.resid_post":
                    merger = f"{TOWER}deepstack_merger_list.{turn}"
                    found += self.projector_points(f"deepstack.{turn}", merger)
                    found.append(replace(self.image_token_point(), name=f"deepstack.{turn}", module=merger))
        return found

    def tower_blocks(self) -> Blocks:
        return replace(super().tower_blocks(), mlp_pre=Site("mlp.linear_fc1"), final_norm=Site(f"{TOWER}merger.norm"))

    def linear_parts(self) -> list[LinearPart]:
        return []  # a logit would not be the sum of what the embeddings give: pictures come in again later


class Qwen3VlMoeAdapter(Qwen3VlAdapter):
    family = "qwen3_vl_moe"
    config_class = "Qwen3VLMoeConfig"
    architectures = ("Qwen3VLMoeForConditionalGeneration",)
