"""How a vision network wants its pictures: size, crop and normalisation, from preprocessor_config.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import Sample
from auditor.intake.weights import read_config_json

Three = tuple[float, float, float]
HALF: Three = (0.5, 0.5, 0.5)
CLIP_MEAN: Three = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Three = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PictureRule:
    """Resize to `size` px (with `crop`: the shorter side, then the middle square), divide by 255, normalise."""

    size: int
    crop: bool
    mean: Three
    std: Three
    resample: int

    def prepare(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [H, W, 3] → float32 [3, size, size]."""
        picture = Image.fromarray(pixels)
        side = Image.Resampling(self.resample)
        if self.crop:
            scale = self.size / min(picture.size)
            width, height = (max(self.size, int(length * scale)) for length in picture.size)
            left, top = (width - self.size) // 2, (height - self.size) // 2
            picture = picture.resize((width, height), side).crop((left, top, left + self.size, top + self.size))
        else:
            picture = picture.resize((self.size, self.size), side)
        values = np.asarray(picture, dtype=np.float32) / 255
        values = (values - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return torch.from_numpy(values).permute(2, 0, 1).contiguous()

    def batch(self, samples: Sequence[Sample]) -> Tensor | None:
        """float32 [B, 3, size, size], zeros for samples without an image; None if no sample has one."""
        if all(sample.image is None for sample in samples):
            return None
        blank = torch.zeros(3, self.size, self.size)
        return torch.stack([blank if s.image is None else self.prepare(s.image.load()) for s in samples])


def picture_rule(folder: Path, size: int, *, crop: bool, mean: Three, std: Three, resample: int) -> PictureRule:
    """The folder's rule, at the network's own `size`; the arguments are the family's defaults."""
    file = folder / "preprocessor_config.json"
    said: dict[str, Any] = read_config_json(file) if file.exists() else {}
    filters = {filter.value for filter in Image.Resampling}
    chosen = said.get("resample", resample)
    if chosen not in filters:
        raise AuditorError(f"{file.name} in “{folder.name}” names an unknown filter: {chosen}.", "Copy it again.")
    return PictureRule(
        size=size,
        crop=bool(said.get("do_center_crop", crop)),
        mean=_three(said.get("image_mean", mean), file),
        std=_three(said.get("image_std", std), file),
        resample=int(chosen),
    )


def _three(value: Any, file: Path) -> Three:
    numbers = list(value) if isinstance(value, (list, tuple)) else []
    if len(numbers) != 3 or not all(isinstance(number, (int, float)) for number in numbers):
        raise AuditorError(f"{file.name} in “{file.parent.name}” has no usable mean or deviation.", "Copy it again.")
    return (float(numbers[0]), float(numbers[1]), float(numbers[2]))
