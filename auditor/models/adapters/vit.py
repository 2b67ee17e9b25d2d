"""ViT, ViT-MSN, I-JEPA and DeiT: a picture as a class token and patches; I-JEPA has no such token, and DeiT a second
one, for distillation."""

from __future__ import annotations

from typing import ClassVar

from auditor.models.adapters.vision import VisionTransformerAdapter, projections
from auditor.models.hook_points import Blocks, Site
from auditor.models.pictures import DEIT


class VitAdapter(VisionTransformerAdapter):
    family = "vit"
    config_class = "ViTConfig"
    architectures: ClassVar[tuple[str, ...]] = ("ViTForImageClassification", "ViTModel")
    body = "vit"

    def table(self) -> Blocks:
        return Blocks(
            stack=f"{self.at}layers",
            embed=Site(f"{self.at}embeddings"),
            attn_out=Site("attention"),
            resid_mid=Site("layernorm_after", "input", shared=True),
            mlp_hidden=Site("mlp.fc2", "input"),
            mlp_out=Site("mlp"),
            final_norm=Site(f"{self.at}layernorm"),
            **projections("attention"),
            mlp_pre=Site("mlp.fc1"),
        )


class IjepaAdapter(VitAdapter):
    """Without a class token."""

    family = "ijepa"
    config_class = "IJepaConfig"
    architectures = ("IJepaForImageClassification", "IJepaModel")
    body = "ijepa"

    def leading(self) -> int:
        return 0


class VitMsnAdapter(VitAdapter):
    family = "vit_msn"
    config_class = "ViTMSNConfig"
    architectures = ("ViTMSNForImageClassification", "ViTMSNModel")


class DeitAdapter(VitAdapter):
    family = "deit"
    config_class = "DeiTConfig"
    architectures = ("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher", "DeiTModel")
    body = "deit"
    processor = DEIT

    def leading(self) -> int:
        return 2
