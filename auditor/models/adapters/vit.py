"""ViT: a picture as a sequence of a class token and patches, with or without a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from auditor.data.sample import Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import Adapter
from auditor.models.adapters.efficientnet_lite import require_images
from auditor.models.hook_points import Blocks, HookPoint, Site, block_points
from auditor.models.inputs import Inputs, image_row, padded
from auditor.models.pictures import HALF, picture_rule
from auditor.models.weights import load_transformers


class VitAdapter(Adapter):
    family = "vit"
    modalities = frozenset({"image"})

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(facts, "ViTConfig", ("ViTForImageClassification", "ViTModel"), dtype)
        self.network, self.config = network, network.config
        self.n_layers, self.d_model = int(self.config.num_hidden_layers), int(self.config.hidden_size)
        size = int(self.config.image_size)
        self.rule = picture_rule(facts.folder, size, crop=False, mean=HALF, std=HALF, resample=2)

    def hook_points(self) -> list[HookPoint]:
        prefix = "vit." if hasattr(self.network, "vit") else ""
        table = Blocks(
            stack=f"{prefix}layers",
            embed=Site(f"{prefix}embeddings"),
            attn_out=Site("attention"),
            resid_mid=Site("layernorm_after", "input", shared=True),
            mlp_hidden=Site("mlp.fc2", "input"),
            mlp_out=Site("mlp"),
            final_norm=Site(f"{prefix}layernorm"),
        )
        width = int(self.config.intermediate_size)
        return block_points(table, self.n_layers, self.d_model, width, prefix="vision.", stream="vision", leading=1)

    def grid_of(self, point: HookPoint) -> tuple[int, int] | None:
        side = self.rule.size // int(self.config.patch_size)
        return side, side

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        require_images(samples)
        return padded([image_row(0) for _ in samples], samples, self.rule.batch(samples), None)

    def forward(self, inputs: Inputs) -> Tensor | None:
        logits: Tensor | None = getattr(self.network(pixel_values=inputs.pixels), "logits", None)
        return logits
