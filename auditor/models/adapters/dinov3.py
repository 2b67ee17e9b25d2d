"""DINOv3's vision transformer: rotary positions for the patches, registers, scaled branches; pictures of any size."""

from __future__ import annotations

from auditor.models.adapters.vision import VisionTransformerAdapter, projections
from auditor.models.hook_points import Blocks, Site
from auditor.models.pictures import DINOV3


class Dinov3Adapter(VisionTransformerAdapter):
    family = "dinov3_vit"
    config_class = "DINOv3ViTConfig"
    architectures = ("DINOv3ViTModel",)
    processor = DINOV3
    any_size = True

    def table(self) -> Blocks:
        gated = bool(self.config.use_gated_mlp)
        return Blocks(
            stack="model.layer",
            embed=Site("embeddings"),
            attn_out=Site("layer_scale1"),
            resid_mid=Site("norm2", "input", shared=True),
            mlp_hidden=Site("mlp.down_proj", "input"),
            mlp_out=Site("layer_scale2"),
            final_norm=Site("norm"),
            **projections("attention"),
            mlp_pre=Site(f"mlp.{'gate' if gated else 'up'}_proj"),
            mlp_linear=Site("mlp.up_proj") if gated else None,
        )

    def leading(self) -> int:
        return 1 + int(self.config.num_register_tokens)
