"""The projector of the paired text+image model: a vision feature map becomes 16 tokens of a language model.

Layout of a sequence of the paired model (the adapter follows this to the letter)::

    position   0                <|im_start|>, the tokenizer's bos token, always
    positions  1 … 16           the projector's 16 image tokens, row by row from the picture's top left
    positions  17 …             the text's tokens as the tokenizer gives them alone (no bos, no special tokens)

- A text without an image is ``[<|im_start|>] + text tokens``; a sample with an image and no text ends at position 16.
- Image tokens stand where the embedding layer's output stands, neither scaled nor normed; `Projector.forward` gives
  them as they go in (they are longer than the model's own embeddings). Positions count on through bos, image and text;
  attention is causal over all of them.
- The prompt of captioning is the text ``A picture of``; the caption follows in lower case with one space before it
  (``A picture of hot dog``). Nothing marks its end: read a said caption as far as the first punctuation mark.
- The picture is laid on white, resized to `image_size` of the paired folder's config.json and scaled by
  :func:`auditor.models.networks.efficientnet_lite.preprocess`; its map is ``EfficientNetLite0.features``.

The idea is LLaVA's (Liu et al. 2023, arXiv:2304.08485), with an attention over a bank of concept words in the place of
its linear layer: a word's key lies in a space of meanings, its value starts as the word's own embedding, lengthened.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = 1280
GRID = 4
IMAGE_TOKENS = GRID * GRID
PROMPT = "A picture of"


class Projector(nn.Module):
    """Feature map [B, channels, h, w] → image tokens [B, 16, d_model].

    Each of 4×4 regions is mapped to a meaning q (a mixture of what is seen there and in the whole picture), and gives

        token = Σ_w softmax_w(scale · cos(q, key_w) + prior_w) · value_w  +  R gelu(A q)  +  position

    with R zero at the start of training.
    """

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, channels: int = CHANNELS, width: int = 256, concepts: int = 1000, d_model: int = 576) -> None:
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(channels))
        self.register_buffer("feature_scale", torch.ones(channels))
        self.meaning = nn.Linear(channels, width)
        self.keys = nn.Parameter(functional.normalize(torch.randn(concepts, width), dim=-1))
        self.values = nn.Parameter(torch.randn(concepts, d_model))
        self.prior = nn.Parameter(torch.zeros(concepts))
        self.log_scale = nn.Parameter(torch.tensor(4.2))
        self.local_share = nn.Parameter(torch.full((IMAGE_TOKENS, 1), 0.5))
        self.global_share = nn.Parameter(torch.full((IMAGE_TOKENS, 1), 0.5))
        self.mix = nn.Linear(width, width)
        self.residual = nn.Linear(width, d_model, bias=False)
        self.position = nn.Parameter(torch.zeros(IMAGE_TOKENS, d_model))
        nn.init.zeros_(self.residual.weight)

    def meanings(self, features: Tensor) -> Tensor:
        """The regions' meanings before they are mixed: [B, channels, h, w] → [B, 16, width]."""
        regions = functional.adaptive_avg_pool2d(features, GRID).flatten(2).transpose(1, 2)
        meanings: Tensor = self.meaning((regions - self.feature_mean) * self.feature_scale)
        return meanings

    def attention(self, meanings: Tensor) -> Tensor:
        """How much each word of the bank is meant: [..., width] → [..., concepts], sums to one."""
        likeness = functional.normalize(meanings, dim=-1) @ functional.normalize(self.keys, dim=-1).T
        return (self.log_scale.exp() * likeness + self.prior).softmax(-1)

    def forward(self, features: Tensor) -> Tensor:
        """Image tokens in the language model's embedding space: [B, channels, h, w] → [B, 16, d_model]."""
        seen = self.meanings(features)
        mixed = self.local_share * seen + self.global_share * seen.mean(1, keepdim=True)
        words = self.attention(mixed) @ self.values
        tokens: Tensor = words + self.residual(functional.gelu(self.mix(mixed))) + self.position
        return tokens

    def save(self, path: Path) -> None:
        """Write the weights as float16 safetensors."""
        save_file({name: value.half().contiguous() for name, value in self.state_dict().items()}, str(path))


def load_projector(path: Path) -> Projector:
    """The projector of a ``projector.safetensors``, float32, frozen, its sizes read from the file.

    Raises KeyError or RuntimeError where the file holds other tensors.
    """
    weights = {name: value.float() for name, value in load_file(str(path)).items()}
    width, channels = weights["meaning.weight"].shape
    concepts, d_model = weights["values"].shape
    projector = Projector(channels, width, concepts, d_model)
    projector.load_state_dict(weights)
    return projector.eval().requires_grad_(False)
