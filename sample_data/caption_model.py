"""The frozen parts of the paired model as its training and its measuring use them, and the pictures' features."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Spinning OpenMP threads cost a factor of ten where other programs use the same cores; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from auditor.models.networks.efficientnet_lite import MEAN, SCALE, EfficientNetLite0, preprocess  # noqa: E402
from auditor.models.networks.projector import PROMPT  # noqa: E402

MODELS = HERE.parent / "build" / "models"
CACHE = HERE.parent / "build" / "projector-cache"
PROJECTOR = HERE / "projector"


@dataclass
class Row:
    """One picture of the manifest with the tokens of its caption."""

    id: str
    caption: str
    tags: list[str]
    category: str
    drawing: str
    concept: str
    split: str
    tokens: list[int]


class LanguageModel:
    """SmolLM2, frozen, asked only for likelihoods of captions after image tokens."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device)
        self.model.requires_grad_(False)
        self.device = torch.device(device)
        self.embedding: Tensor = self.model.get_input_embeddings().weight
        self.bos: int = self.tokenizer.bos_token_id
        self.prompt: list[int] = self.tokenizer(PROMPT, add_special_tokens=False).input_ids

    def caption_tokens(self, caption: str) -> list[int]:
        tokens: list[int] = self.tokenizer(" " + caption, add_special_tokens=False).input_ids
        return tokens

    def log_likelihoods(self, image_tokens: Tensor, captions: list[list[int]]) -> Tensor:
        """Log-likelihood of every caption after every image: image tokens [B, 16, d] and C captions → [B, C].

        All captions share one pass: they sit one after another behind the prompt, with positions that start again, and
        see the image, the prompt and themselves. A caption's last token is only predicted, so it is not fed.
        """
        batch, count, width = image_tokens.shape
        shared = 1 + count + len(self.prompt)
        flat, owner, place, sources, targets, group = [], [], [], [], [], []
        for index, caption in enumerate(captions):
            sources += [0, *range(len(flat) + 1, len(flat) + len(caption))]
            targets += caption
            group += [index] * len(caption)
            flat += caption[:-1]
            owner += [index] * (len(caption) - 1)
            place += range(shared, shared + len(caption) - 1)
        length = shared + len(flat)
        owners = self._tensor([-1] * shared + owner)
        sees = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        sees &= (owners[None, :] == -1) | (owners[None, :] == owners[:, None])
        mask = torch.zeros(length, length, device=self.device).masked_fill(~sees, torch.finfo(torch.float32).min)
        head = self.embedding[self.bos].expand(batch, 1, width)
        tail = self.embedding[self._tensor(self.prompt + flat)].expand(batch, -1, width)
        positions = self._tensor([*range(shared), *place])
        hidden = self.model.model(
            inputs_embeds=torch.cat([head, image_tokens, tail], 1),
            attention_mask=mask[None, None].expand(batch, 1, -1, -1),
            position_ids=positions[None].expand(batch, -1),
            use_cache=False,
        ).last_hidden_state[:, shared - 1 :]
        logits = self.model.lm_head(hidden)
        normal = logits.logsumexp(-1)
        asked = self._tensor(sources)
        picked = logits[:, asked, self._tensor(targets)] - normal[:, asked]
        return picked.new_zeros(batch, len(captions)).index_add(1, self._tensor(group), picked)

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, device=self.device)


def read_rows(language: LanguageModel) -> list[Row]:
    """The pictures of the committed set, in the order of the archive."""
    rows = []
    for line in (HERE / "images" / "images.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        row.pop("file")
        rows.append(Row(**row, tokens=language.caption_tokens(row["caption"])))
    return rows


def altered(pictures: Tensor, seed: int) -> Tensor:
    """Pictures as :func:`preprocess` gives them [B, 3, s, s], each turned, scaled, moved, mirrored and tinted a little.

    What comes into the square from outside is white.
    """
    draw = torch.Generator().manual_seed(seed)
    count = len(pictures)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=draw)

    angle, size = between(-0.26, 0.26), between(0.9, 1.35)
    mirror = torch.where(torch.rand(count, generator=draw) < 0.5, -1.0, 1.0)
    rows = [size * angle.cos() * mirror, -size * angle.sin(), between(-0.15, 0.15)]
    rows += [size * angle.sin() * mirror, size * angle.cos(), between(-0.15, 0.15)]
    grid = functional.affine_grid(
        torch.stack(rows, 1).view(count, 2, 3).to(pictures.device), list(pictures.shape), align_corners=False
    )
    white = (255 - MEAN) / SCALE
    moved = functional.grid_sample(pictures - white, grid, align_corners=False)
    return white + moved * between(0.8, 1.2, 3, 1, 1).to(pictures.device)


@torch.no_grad()
def image_features(vision: EfficientNetLite0, size: int, cache: Path, views: int) -> Tensor:
    """Feature maps pooled to 4×4: [images, views, 1280, 4, 4] float16, computed once per archive, size and views.

    View 0 is the picture as it is, the others are `altered`.
    """
    archive = HERE / "images" / "images.zip"
    key = hashlib.sha256(archive.read_bytes() + f"{size} {views} altered".encode()).hexdigest()[:16]
    stored = cache / f"features-{key}.pt"
    device = vision._fc.weight.device
    if stored.exists():
        features: Tensor = torch.load(stored, weights_only=True, map_location=device)
        return features
    parts = []
    with zipfile.ZipFile(archive) as pictures:
        names = pictures.namelist()
        for start in range(0, len(names), 64):
            images = (Image.open(io.BytesIO(pictures.read(name))) for name in names[start : start + 64])
            plain = torch.stack([preprocess(np.asarray(image.convert("RGB")), size) for image in images]).to(device)
            seen = [plain, *(altered(plain, start * views + view) for view in range(1, views))]
            maps = [functional.adaptive_avg_pool2d(vision.features(view), 4).half() for view in seen]
            parts.append(torch.stack(maps, 1))
    features = torch.cat(parts)
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(features, stored)
    return features


def open_vision(models: Path, device: str = "cpu") -> EfficientNetLite0:
    vision = EfficientNetLite0().eval()
    vision.load_checkpoint(load_file(str(models / "efficientnet-lite0" / "model.safetensors")))
    return vision.to(device)
