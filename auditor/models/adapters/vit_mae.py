"""ViT-MAE: the encoder of a masked autoencoder, a ViT of which all patches are read here.

He et al. 2021, arXiv:2111.06377.
"""

from __future__ import annotations

import torch

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.vit import VitAdapter
from auditor.models.inputs import Inputs
from auditor.models.pictures import IMAGENET_MEAN, IMAGENET_STD, VIT


class VitMaeAdapter(VitAdapter):
    """Nothing is masked and nothing shuffled, as it is in training; what paints masked patches is not run."""

    family = "vit_mae"
    config_class = "ViTMAEConfig"
    architectures = ("ViTMAEForPreTraining", "ViTMAEModel")
    processor = VIT | {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        self.config.mask_ratio = 0.0

    def forward(self, inputs: Inputs) -> None:
        assert inputs.pixels is not None
        rows, columns = self.rule.grid((int(self.config.patch_size),) * 2)
        # Patches are read in the order of these numbers.
        order = torch.arange(rows * columns, device=inputs.pixels.device).expand(len(inputs.pixels), -1)
        encoder = self.network.get_submodule(self.at.rstrip("."))
        encoder(pixel_values=inputs.pixels.to(self.dtype), noise=order)
