"""DINOv2, with registers or without: ViT whose branches are scaled by a vector; reads pictures of any size."""

from __future__ import annotations

from auditor.models.adapters.vision import VisionTransformerAdapter, projections
from auditor.models.hook_points import Blocks, Site
from auditor.models.pictures import CLIP, IMAGENET_MEAN, IMAGENET_STD


class Dinov2Adapter(VisionTransformerAdapter):
    """`attn_out` and `mlp_out` are what is added to the residual stream: after the scale.

    DINOv2 giant has a gated MLP, DINOv2 a plain one.
    """

    family = "dinov2"
    config_class = "Dinov2Config"
    architectures = ("Dinov2ForImageClassification", "Dinov2Model")
    body = "dinov2"
    processor = CLIP | {"size": {"shortest_edge": 256}, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    any_size = True

    def table(self) -> Blocks:
        return Blocks(
            stack=f"{self.at}encoder.layer",
            embed=Site(f"{self.at}embeddings"),
            attn_out=Site("layer_scale1"),
            resid_mid=Site("norm2", "input", shared=True),
            mlp_hidden=Site(f"mlp.{self.gated('down_proj', 'fc2')}", "input"),
            mlp_out=Site("layer_scale2"),
            final_norm=Site(f"{self.at}layernorm"),
            **projections("attention"),
            mlp_pre=Site(f"mlp.{self.gated('gate_proj', 'fc1')}"),
            mlp_linear=Site("mlp.up_proj") if self.config.use_swiglu_ffn else None,
        )

    def gated(self, gated: str, plain: str) -> str:
        return gated if self.config.use_swiglu_ffn else plain

    def mlp_width(self) -> int:
        last = self.network.get_submodule(f"{self.at}encoder.layer.0.mlp.{self.gated('down_proj', 'fc2')}")
        return int(last.in_features)  # type: ignore[arg-type]


class Dinov2WithRegistersAdapter(Dinov2Adapter):
    """The registers stand between the class token and the patches."""

    family = "dinov2_with_registers"
    config_class = "Dinov2WithRegistersConfig"
    architectures = ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersModel")
    body = "dinov2_with_registers"

    def leading(self) -> int:
        return 1 + int(self.config.num_register_tokens)
