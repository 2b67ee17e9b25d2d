"""GLM-4.1V, -4.5V, -4.6V and -OCR: a tower over the patches of all pictures in one row, squares of which a convolution
joins, and a GLM-4 with positions in 3D.

GLM-V Team 2025, arXiv:2507.01006.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.llama import llama_blocks
from auditor.models.adapters.packed import PACKED_MLP
from auditor.models.adapters.qwen2_vl import TOWER, Qwen2VlAdapter
from auditor.models.hook_points import Blocks, HookPoint, Site
from auditor.models.linearise import LinearPart
from auditor.models.pictures import Size
from auditor.models.resolution import FreeRule, free_rule

BOUNDS = 112 * 112, 28 * 28 * 15000
TIMES = 2
"""What the processor counts a picture as, of the frames of a film."""


@dataclass(frozen=True)
class GrownRule(FreeRule):
    """A picture with a side shorter than `cell` is made larger first."""

    def size(self, rows: int, columns: int) -> Size:
        if min(rows, columns) < self.cell and self.resized:
            share = self.cell / min(rows, columns)
            rows, columns = int(rows * share), int(columns * share)
        return super().size(rows, columns)


class Glm4vAdapter(Qwen2VlAdapter):
    """The tower as in `Qwen2VlAdapter`. `attn_out` and `mlp_out` of the language model are taken behind their norms."""

    family = "glm4v"
    config_class = "Glm4vConfig"
    architectures = ("Glm4vForConditionalGeneration",)
    inner = ("gate_proj", "down_proj")
    last = "down_proj"

    def prepares(self, facts: ModelFacts) -> None:
        rule = free_rule(facts.folder, self.patch * self.merged, bounds=BOUNDS)
        least, most = -(-rule.least // TIMES), max(rule.most // TIMES, rule.cell**2)
        self.rule = GrownRule(rule.plain, rule.cell, least, most, rule.resized)

    def table(self) -> Blocks:
        return replace(
            llama_blocks(self.language),
            embed=Site(f"{self.language}layers.0", "input"),
            attn_out=Site("post_self_attn_layernorm"),
            mlp_out=Site("post_mlp_layernorm"),
            mlp_pre=PACKED_MLP[0],
            mlp_linear=PACKED_MLP[1],
        )

    def tower(self) -> tuple[int, int]:
        vision = self.whole.vision_config
        return int(vision.hidden_size), int(vision.out_hidden_size)

    def tower_blocks(self) -> Blocks:
        return replace(
            super().tower_blocks(),
            mlp_pre=Site("mlp.gate_proj"),
            mlp_linear=Site("mlp.up_proj"),
            final_norm=Site(f"{TOWER}post_layernorm"),
        )

    def projector_points(self, name: str = "projector", at: str = "") -> list[HookPoint]:
        gate, hidden = super().projector_points(name, at)
        linear = replace(gate, name=f"{name}.mlp_linear", module=f"{at or self.connector}.up_proj")
        return [gate, linear, hidden]

    def around(self) -> tuple[str, str]:
        return self._name(self.whole.image_start_token_id), self._name(self.whole.image_end_token_id)

    def linear_parts(self) -> list[LinearPart]:
        return []


class Glm46vAdapter(Glm4vAdapter):
    family = "glm46v"
    config_class = "Glm46VConfig"
    architectures = ("Glm46VForConditionalGeneration",)


class GlmOcrAdapter(Glm4vAdapter):
    family = "glm_ocr"
    config_class = "GlmOcrConfig"
    architectures = ("GlmOcrForConditionalGeneration",)

    def tower(self) -> tuple[int, int]:
        vision = self.whole.vision_config
        return int(vision.hidden_size), int(vision.intermediate_size)


class Glm4vMoeAdapter(Glm4vAdapter):
    """GLM-4.5V: after the first blocks of the language model, which has no norms behind attention and MLP, mixtures of
    experts."""

    family = "glm4v_moe"
    config_class = "Glm4vMoeConfig"
    architectures = ("Glm4vMoeForConditionalGeneration",)

    def table(self) -> Blocks:
        return replace(llama_blocks(self.language), embed=Site(f"{self.language}layers.0", "input"))
