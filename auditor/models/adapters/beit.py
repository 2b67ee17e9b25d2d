"""BEiT: ViT with relative positions, whose branches are scaled by a vector before they are added."""

from __future__ import annotations

from dataclasses import replace

from auditor.models.adapters.vision import VisionTransformerAdapter, projections
from auditor.models.hook_points import Blocks, HookPoint, Site
from auditor.models.pictures import SIGLIP

# Both branches go through one module last: its first call of a block is attention's, its second the MLP's.
_CALLS = {"attn_out": 0, "mlp_out": 1}


class BeitAdapter(VisionTransformerAdapter):
    """With mean pooling there is no norm over all positions, so `final_norm` is left out."""

    family = "beit"
    config_class = "BeitConfig"
    architectures = ("BeitForImageClassification", "BeitModel")
    body = "beit"
    processor = SIGLIP

    def table(self) -> Blocks:
        return Blocks(
            stack=f"{self.at}layers",
            embed=Site(f"{self.at}embeddings"),
            attn_out=Site("drop_path"),
            resid_mid=Site("layernorm_after", "input", shared=True),
            mlp_hidden=Site("mlp.fc2", "input"),
            mlp_out=Site("drop_path"),
            final_norm=None,
            **projections("attention"),
            mlp_pre=Site("mlp.fc1"),
        )

    def hook_points(self) -> list[HookPoint]:
        return [replace(point, call=_CALLS.get(point.name.split(".")[-1])) for point in super().hook_points()]
