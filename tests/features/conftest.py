"""A small store whose activations are known number by number, its dictionary, and an index built from both."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from auditor.features.build import BuildConfig, build
from auditor.features.index import Index
from auditor.sae.sae import Sae
from auditor.store import Store, StoredSample, StoreWriter

WIDTH = 24
HOOK = "blocks.1.resid_post"
TEXT, IMAGE, SPECIAL = 1, 2, 3
WORDS = ["river", "stone", "cloud", "apple", "horse", "window", "garden", "paper", "light", "music", "winter", "copper"]
PLANTED, GENERIC, DEAD, TEXT_ONLY, IMAGE_ONLY = 3, 4, 5, 6, 7


@dataclass(frozen=True)
class Planted:
    """A store at `path`, the activations `z` [rows, WIDTH] that `sae` finds in it, and what stands at each row."""

    store: Store
    sae: Sae
    z: NDArray[np.float32]
    kind: NDArray[np.uint8]
    sample: NDArray[np.int64]
    token: NDArray[np.int64]


def relu_identity(width: int = WIDTH, hook: str = HOOK) -> Sae:
    """A dictionary that reads each coordinate as a feature, so that its codes are the store's positive part."""
    directions = torch.eye(width) + 0.1 * torch.randn(width, width, generator=torch.Generator().manual_seed(1))
    return Sae("relu", torch.eye(width), directions, torch.zeros(width), torch.zeros(width), hook=hook)


def picture(seed: int) -> bytes:
    """A small WebP."""
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=50)
    return buffer.getvalue()


def write_store(path: Path, seed: int = 0, n_text: int = 60, n_image: int = 24) -> Planted:
    """Texts of random words with «padlock» here and there, and captioned pictures, a third of which show a padlock.

    Feature PLANTED fires on the word padlock and on padlock pictures; GENERIC everywhere; DEAD never.
    """
    rng = np.random.default_rng(seed)
    writer = StoreWriter(path, {HOOK: WIDTH}, {"model": {"name": "hand-made"}}, dtype="float32")
    all_z, kinds, numbers, tokens = [], [], [], []
    for s in range(n_text + n_image):
        image = s >= n_text
        if image:
            locked = s % 3 == 0
            words = ["<s>", *[""] * 4, " a", " padlock" if locked else " " + WORDS[s % len(WORDS)]]
            kind = np.array([SPECIAL, *[IMAGE] * 4, TEXT, TEXT], np.uint8)
            unit = np.array([-1, 0, 1, 2, 3, 0, 1], np.int32)
            told = StoredSample(f"picture-{s}", "pictures", caption="a " + words[-1].strip(), tokens=words,
                                image=picture(s), grid=(2, 2))
        else:
            locked = False
            words = ["<s>", *[" " + WORDS[i] for i in rng.integers(0, len(WORDS), 40)]]
            for at in rng.integers(1, 41, 2 if s % 2 else 0):
                words[at] = " padlock"
            kind = np.array([SPECIAL, *[TEXT] * 40], np.uint8)
            unit = np.arange(-1, 40, dtype=np.int32)
            told = StoredSample(f"text-{s}", "texts", text="".join(words[1:]), tokens=words)
        z = np.maximum(rng.normal(-1.0, 0.8, (len(kind), WIDTH)), 0).astype(np.float32)
        z[:, PLANTED] = np.where([w == " padlock" for w in words], rng.uniform(4, 9, len(kind)), 0)
        if locked:
            z[1:5, PLANTED] = rng.uniform(3, 8, 4)
        z[:, GENERIC] = rng.uniform(0.5, 20, len(kind))
        z[:, DEAD] = 0
        z[kind == IMAGE, TEXT_ONLY] = 0
        z[kind == TEXT, IMAGE_ONLY] = 0
        z[kind == SPECIAL] = 50.0
        token = np.array([-1 if k == IMAGE else hash_word(w) for w, k in zip(words, kind, strict=True)], np.int32)
        writer.append([told], {HOOK: z}, np.zeros(len(kind), np.int32), unit, kind, token)
        all_z.append(z)
        kinds.append(kind)
        numbers.append(np.full(len(kind), s))
        tokens.append(token)
    store = writer.finish()
    z = np.concatenate(all_z)
    kind = np.concatenate(kinds)
    z[kind == SPECIAL] = 0
    return Planted(store, relu_identity(), z, kind, np.concatenate(numbers), np.concatenate(tokens))


def hash_word(word: str) -> int:
    """A token number for a word."""
    known = ["<s>", "", " a", " padlock", *[" " + w for w in WORDS]]
    return known.index(word)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return write_store(tmp_path_factory.mktemp("stores") / "planted.store")


@pytest.fixture(scope="session")
def index(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Index:
    out = tmp_path_factory.mktemp("indices") / "planted.index"
    return build(BuildConfig(batch_size=500), planted.store, planted.sae, None, out)
