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
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from auditor.models.networks.efficientnet_lite import EfficientNetLite0, preprocess  # noqa: E402
from auditor.models.networks.projector import PROMPT  # noqa: E402

MODELS = HERE.parent / "build" / "models"
CACHE = HERE.parent / "build" / "projector-cache"
PROJECTOR = HERE / "projector"
VIEWS = 3


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

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.model.requires_grad_(False)
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
        owners = torch.tensor([-1] * shared + owner)
        sees = torch.ones(length, length, dtype=torch.bool).tril()
        sees &= (owners[None, :] == -1) | (owners[None, :] == owners[:, None])
        mask = torch.zeros(length, length).masked_fill(~sees, torch.finfo(torch.float32).min)
        head = self.embedding[torch.tensor([self.bos])].expand(batch, 1, width)
        tail = self.embedding[torch.tensor(self.prompt + flat)].expand(batch, -1, width)
        positions = torch.tensor([*range(shared), *place])
        hidden = self.model.model(
            inputs_embeds=torch.cat([head, image_tokens, tail], 1),
            attention_mask=mask[None, None].expand(batch, 1, -1, -1),
            position_ids=positions[None].expand(batch, -1),
            use_cache=False,
        ).last_hidden_state[:, shared - 1 :]
        logits = self.model.lm_head(hidden)
        normal = logits.logsumexp(-1)
        picked = logits[:, torch.tensor(sources), torch.tensor(targets)] - normal[:, torch.tensor(sources)]
        return picked.new_zeros(batch, len(captions)).index_add(1, torch.tensor(group), picked)


def read_rows(language: LanguageModel) -> list[Row]:
    """The pictures of the committed set, in the order of the archive."""
    rows = []
    for line in (HERE / "images" / "images.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        row.pop("file")
        rows.append(Row(**row, tokens=language.caption_tokens(row["caption"])))
    return rows


def views(picture: Image.Image) -> list[Image.Image]:
    """The picture, its mirror image, and the picture a little smaller and turned on more white."""
    side = picture.width
    smaller = ImageOps.expand(picture, round(side * 0.1), "white").rotate(
        8, Image.Resampling.BICUBIC, fillcolor="white"
    )
    return [picture, ImageOps.mirror(picture), smaller]


@torch.no_grad()
def image_features(vision: EfficientNetLite0, size: int, cache: Path) -> Tensor:
    """Feature maps pooled to 4×4: [images, views, 1280, 4, 4] float16, computed once per archive and size."""
    archive = HERE / "images" / "images.zip"
    key = hashlib.sha256(archive.read_bytes() + f"{size} {VIEWS}".encode()).hexdigest()[:16]
    stored = cache / f"features-{key}.pt"
    if stored.exists():
        features: Tensor = torch.load(stored, weights_only=True)
        return features
    parts, waiting = [], []
    with zipfile.ZipFile(archive) as pictures:
        names = pictures.namelist()
        for number, name in enumerate(names):
            picture = Image.open(io.BytesIO(pictures.read(name))).convert("RGB")
            waiting += [preprocess(np.asarray(view), size) for view in views(picture)]
            if len(waiting) >= 48 or number == len(names) - 1:
                parts.append(functional.adaptive_avg_pool2d(vision.features(torch.stack(waiting)), 4).half())
                waiting = []
    features = torch.cat(parts).unflatten(0, (-1, VIEWS))
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(features, stored)
    return features


def open_vision(models: Path) -> EfficientNetLite0:
    vision = EfficientNetLite0().eval()
    vision.load_checkpoint(load_file(str(models / "efficientnet-lite0" / "model.safetensors")))
    return vision
