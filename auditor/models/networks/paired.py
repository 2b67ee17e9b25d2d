"""The paired text+image network: a vision map, projected to tokens that stand among a language model's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from auditor.models.networks.efficientnet_lite import EfficientNetLite0
from auditor.models.networks.projector import Projector


class VisionTower(nn.Module):
    """EfficientNet-Lite0 with a module at its last map, so that a hook can sit there."""

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.network = network
        self.head = nn.Identity()

    def features(self, pixels: Tensor) -> Tensor:
        """[B, 3, s, s] → [B, 1280, s/32, s/32]."""
        features: Tensor = self.head(self.network.features(pixels))
        return features

    def forward(self, pixels: Tensor) -> Tensor:
        """Class logits: the classifier's own forward pass, through the hooked map."""
        logits: Tensor = self.network._fc(self.features(pixels).mean((2, 3)))
        return logits


class PairedNetwork(nn.Module):
    """Vision tower, projector and language model; see `auditor.models.networks.projector` for the token layout."""

    def __init__(self, text: Any, vision: VisionTower, projector: Projector) -> None:
        super().__init__()
        self.text, self.vision, self.projector = text, vision, projector
        self.embed = nn.Identity()

    def forward(self, ids: Tensor, places: Tensor, pixels: Tensor | None) -> Tensor:
        """Logits [B, P, vocabulary].

        `ids` [B, P], not negative; `places` [B, P]: the number of the image token that stands at a position, −1
        where a text token stands.
        """
        embedded = self.text.get_input_embeddings()(ids)
        if pixels is not None:
            tokens = self.projector(self.vision.features(pixels.to(embedded.dtype))).to(embedded.dtype)
            embedded = placed(embedded, tokens, places)
        logits: Tensor = self.text(inputs_embeds=self.embed(embedded), use_cache=False).logits
        return logits


def placed(embedded: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
    """Token `places[b, p]` of `tokens` [B, n, width] put at position p of row b; −1 keeps `embedded` [B, P, width]."""
    index = places.clamp(min=0).to(torch.int64)[..., None].expand(-1, -1, tokens.shape[-1])
    return torch.where((places >= 0)[..., None], tokens.gather(1, index), embedded)
