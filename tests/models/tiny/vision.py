"""Networks over pictures."""

from __future__ import annotations

from typing import Any

import transformers

from auditor.data import Sample
from tests.models.tiny.entry import SIZES, Tiny, two_images

PICTURE = SIZES | {"image_size": 16, "patch_size": 8}


def pictures() -> list[Sample]:
    return [Sample(f"image {number}", image=image) for number, image in enumerate(two_images())]


def vit() -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**PICTURE, num_labels=4))


VISION: tuple[Tiny, ...] = (Tiny("vit", vit, samples=pictures, activation="gelu"),)
