"""AIMv2's vision tower: Llama-like blocks over patches, without a class token.

Fini et al. 2024, arXiv:2411.14402.
"""

from __future__ import annotations

from auditor.models.adapters.vision import VisionTransformerAdapter, projections
from auditor.models.hook_points import Blocks, Site
from auditor.models.pictures import CLIP


class Aimv2VisionAdapter(VisionTransformerAdapter):
    """What pools its patches by attention is no hook point."""

    family = "aimv2_vision"
    config_class = "Aimv2VisionConfig"
    architectures = ("Aimv2VisionModel",)
    processor = CLIP

    def leading(self) -> int:
        return 0

    def table(self) -> Blocks:
        return Blocks(
            stack="encoder.layers",
            embed=Site("embeddings"),
            attn_out=Site("attention"),
            resid_mid=Site("rms_norm2", "input", shared=True),
            mlp_hidden=Site("ffn.down_proj", "input"),
            mlp_out=Site("ffn"),
            final_norm=Site("rms_norm"),
            **projections("attention", "out_proj"),
            mlp_pre=Site("ffn.gate_proj"),
            mlp_linear=Site("ffn.up_proj"),
        )
