"""Pictures as a vision network wants them: resized, cropped and normalised as the folder's preprocessor config says.

The steps and their order are those of transformers' image processors (their Pillow variant; the tests compare the
two): resize, crop of the middle, scale, normalise. Pictures are RGB here already, transparency laid on white.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from auditor.models.sheets import Box

Three = tuple[float, float, float]
Size = tuple[int, int]
"""Rows and columns of pixels."""

HALF: Three = (0.5, 0.5, 0.5)
CLIP_MEAN: Three = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Three = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN: Three = (0.485, 0.456, 0.406)
IMAGENET_STD: Three = (0.229, 0.224, 0.225)
BILINEAR, BICUBIC = int(Image.Resampling.BILINEAR), int(Image.Resampling.BICUBIC)
LANCZOS = int(Image.Resampling.LANCZOS)

# What a family's own image processor does where the folder does not say otherwise; keys as in its config file
# (scaled_first is ours).
VIT: dict[str, Any] = {"size": {"height": 224, "width": 224}, "resample": BILINEAR, "image_mean": HALF,
                       "image_std": HALF}  # fmt: skip
SIGLIP: dict[str, Any] = VIT | {"resample": BICUBIC}
CLIP: dict[str, Any] = {"size": {"shortest_edge": 224}, "crop_size": 224, "do_center_crop": True, "resample": BICUBIC,
                        "image_mean": CLIP_MEAN, "image_std": CLIP_STD}  # fmt: skip
CONVNEXT: dict[str, Any] = {"size": {"shortest_edge": 384}, "crop_pct": 224 / 256, "resample": BICUBIC,
                            "image_mean": HALF, "image_std": HALF}  # fmt: skip
DEIT: dict[str, Any] = {"size": {"height": 256, "width": 256}, "crop_size": 224, "do_center_crop": True,
                        "resample": BICUBIC, "image_mean": HALF, "image_std": HALF}  # fmt: skip
MOBILENET: dict[str, Any] = {"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": True,
                             "resample": BILINEAR, "image_mean": HALF, "image_std": HALF}  # fmt: skip
EFFICIENTNET: dict[str, Any] = {"size": {"height": 346, "width": 346}, "crop_size": 289, "resample": BICUBIC,
                                "image_mean": HALF, "image_std": HALF, "include_top": True}  # fmt: skip
DINOV3: dict[str, Any] = {"size": {"height": 224, "width": 224}, "resample": BILINEAR, "image_mean": IMAGENET_MEAN,
                          "image_std": IMAGENET_STD, "scaled_first": True}  # fmt: skip
# Without a size: the network's own.
IDEFICS: dict[str, Any] = {"size": None, "resample": LANCZOS, "image_mean": HALF, "image_std": HALF}
QWEN: dict[str, Any] = {"size": None, "resample": BICUBIC, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}

LARGEST = 4096
# Of a resized picture: the shorter side is set, and the longer one follows.
_MOST_PIXELS = 64 << 20
# ConvNeXt's processor leaves out its crop from this size on.
_UNCROPPED = 384


@dataclass(frozen=True)
class PictureRule:
    """What becomes of a picture before it is given to a network.

    `size`: resized to rows and columns, or its shorter side to a number, or (None) left as it is; then the middle of
    `crop` is cut out, zeros around it where the picture is smaller. Values are multiplied by `factor`, less `offset`,
    less `mean`, over `std`, and with `again` over `std` once more (EfficientNet). With `as_numbers` they are scaled
    before they are resized, so that nothing is rounded between (DINOv3). `expects` is the size that has to come out,
    where the network or the rule knows one.
    """

    size: Size | int | None
    crop: Size | None
    mean: Three
    std: Three
    resample: int
    factor: float = 1 / 255
    offset: float = 0.0
    again: bool = False
    as_numbers: bool = False
    expects: Size | None = None

    def prepare(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [H, W, 3] → float32 [3, rows, columns]. AuditorError as by `must_take`."""
        self.must_take(pixels.shape[0], pixels.shape[1])
        rows, columns = self._resized(pixels.shape[0], pixels.shape[1])
        if self.as_numbers:
            resized = self._cropped(_interpolated(self._scaled(pixels), (rows, columns), self.resample))
            numbers = self._normed(resized).transpose(2, 0, 1)
        else:
            numbers = looked_up(self._cropped(resampled(pixels, (rows, columns), self.resample)), self._table)
        return torch.from_numpy(np.ascontiguousarray(numbers))

    def must_take(self, rows: int, columns: int) -> None:
        """AuditorError where a picture of so many pixels becomes too large, or not what the network reads."""
        resized = self._resized(rows, columns)
        if resized[0] * resized[1] > _MOST_PIXELS:
            raise AuditorError(
                f"A picture of {columns} × {rows} pixels is too long and narrow: resized as the model's "
                f"preprocessor config says, it would be {resized[1]:,} × {resized[0]:,}.",
                "Cut it, or leave it out.",
            )
        if self.expects is not None and (self.crop or resized) != self.expects:
            raise AuditorError(
                f"A picture of {columns} × {rows} pixels does not fit: the model's preprocessor "
                f"config does not resize, and the network reads {self.expects[1]} × {self.expects[0]}.",
                "Resize the pictures first.",
            )

    def batch(self, samples: Sequence[Sample]) -> Tensor | None:
        """float32 [B, 3, rows, columns], zeros for samples without an image; None if no sample has one."""
        prepared = [None if sample.image is None else self.prepare(sample.image.load()) for sample in samples]
        shapes = {tuple(one.shape) for one in prepared if one is not None}
        if not shapes:
            return None
        if len(shapes) > 1:
            raise AuditorError(
                "The pictures of a batch have different sizes, and the model's preprocessor config does not make them "
                "equal.",
                "Resize the pictures first, or record them one a batch.",
            )
        blank = torch.zeros(shapes.pop())
        return torch.stack([blank if one is None else one for one in prepared])

    def seen(self, rows: int, columns: int) -> Box:
        """The part of a picture of so many pixels that the network sees: what a grid of patches lies over."""
        if self.crop is None:
            return 0, 0, rows, columns
        ways = zip((rows, columns), self._resized(rows, columns), self.crop, strict=True)
        (top, bottom), (left, right) = (_middle(length, resized, kept) for length, resized, kept in ways)
        return top, left, bottom, right

    def grid(self, patch: Size) -> Size:
        """Rows and columns of patches of the pictures that `expects` means."""
        assert self.expects is not None
        return self.expects[0] // patch[0], self.expects[1] // patch[1]

    def _resized(self, rows: int, columns: int) -> Size:
        if self.size is None:
            return rows, columns
        if not isinstance(self.size, int):
            return self.size
        longer = int(self.size * max(rows, columns) / min(rows, columns))
        return (longer, self.size) if columns <= rows else (self.size, longer)

    @property
    def _table(self) -> npt.NDArray[np.float32]:
        """[3, 256]: what becomes of each value of each channel."""
        levels = np.arange(256, dtype=np.uint8)[:, None]
        return np.ascontiguousarray(self._normed(self._scaled(levels)).T)

    def _normed(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        std = np.asarray(self.std, np.float32)
        numbers = (values - np.asarray(self.mean, np.float32)) / std
        return numbers / std if self.again else numbers

    def _scaled(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        scaled = (values.astype(np.float64) * self.factor).astype(np.float32)
        return scaled - np.float32(self.offset) if self.offset else scaled

    def _cropped(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.crop is None:
            return values
        missing = [max(want - have, 0) for want, have in zip(self.crop, values.shape[:2], strict=True)]
        if any(missing):
            around = [(-(-gap // 2), gap // 2) for gap in missing]
            values = np.pad(values, [*around, (0, 0)])
        top, left = ((have - want) // 2 for want, have in zip(self.crop, values.shape[:2], strict=True))
        return values[top : top + self.crop[0], left : left + self.crop[1]]


def picture_rule(folder: Path, defaults: Mapping[str, Any], network: Size | None = None) -> PictureRule:
    """The rule of a folder's processor config over `defaults`.

    `network` is the one size that the network reads, if it has one: it goes before the size in the file. AuditorError
    for values that no picture can be resized to.
    """
    file, said = processor_config(folder, defaults)
    chosen = said["resample"]
    if not isinstance(chosen, int) or chosen not in {filter.value for filter in Image.Resampling}:
        raise AuditorError(f"{file} in “{folder.name}” names an unknown filter: {chosen}.", "Copy it again.")
    size: Size | int | None = None
    crop = _size(said.get("crop_size"), file, folder, square=True) if said.get("do_center_crop") else None
    crop = (crop, crop) if isinstance(crop, int) else crop
    if said.get("do_resize", True):
        told = defaults["size"]
        size = network if told is None else _size(said["size"], file, folder, square="height" in told)
    share = said.get("crop_pct")
    if share is not None and isinstance(size, int):
        # A crop that keeps this share of each side, after which nothing else is cropped; large pictures are warped.
        crop = (size, size)
        size = int(size / _share(share, file, folder)) if size < _UNCROPPED else crop
    if network is not None and size is not None:
        cropped = crop is not None and (isinstance(size, int) or size != crop)
        if cropped and crop is not None and not (folder / file).exists():
            # The family's own sizes are for its usual network: the share that is kept is what another one has of them.
            size = _by(size, network[0] / crop[0])
        size = _no_smaller(size, network) if cropped else network
        crop = network if cropped else None
    rescaled, normal = said.get("do_rescale", True), said.get("do_normalize", True)
    return PictureRule(
        size=size,
        crop=crop,
        mean=_three(said["image_mean"], file, folder) if normal else (0.0, 0.0, 0.0),
        std=_three(said["image_std"], file, folder, divides=True) if normal else (1.0, 1.0, 1.0),
        resample=int(chosen),
        factor=_number(said.get("rescale_factor", 1 / 255), file, folder) if rescaled else 1.0,
        offset=float(bool(said.get("rescale_offset")) and bool(rescaled)),
        again=bool(said.get("include_top", False)),
        as_numbers=bool(said.get("scaled_first", False)),
        expects=network or crop or (None if isinstance(size, int) else size),
    )


def processor_config(folder: Path, defaults: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of the file that says how, and what it says over `defaults`."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            said = read_config_json(folder / name)
            inner = said.get("image_processor")
            said = inner if isinstance(inner, dict) else said if name.startswith("pre") else {}
            return name, {**defaults, **{key: value for key, value in said.items() if value is not None}}
    return "preprocessor_config.json", dict(defaults)


def _size(value: Any, file: str, folder: Path, *, square: bool) -> Size | int:
    """Rows and columns, or the shorter side, from any of the forms that processor configs use."""
    if isinstance(value, dict):
        value = value.get("shortest_edge") or value.get("longest_edge") or (value.get("height"), value.get("width"))
        square = False
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    whole = all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= LARGEST for n in numbers)
    if len(numbers) not in (1, 2) or not whole:
        raise AuditorError(f"{file} in “{folder.name}” gives an impossible size: {value}.", "Copy it again.")
    if len(numbers) == 2:
        return numbers[0], numbers[1]
    return (numbers[0], numbers[0]) if square else int(numbers[0])


def longer_side(length: int, rows: int, columns: int) -> Size:
    """Rows and columns with the longer side `length`, the other one even (Idefics' rounding)."""
    shape = columns / rows
    if columns >= rows:
        other = int(length / shape)
        return max(other + other % 2, 1), length
    other = int(length * shape)
    return length, max(other + other % 2, 1)


def _middle(length: int, resized: int, kept: int) -> tuple[int, int]:
    """Where `kept` of `resized` pixels in the middle begin and end on a side of `length`."""
    start = max(resized - kept, 0) // 2
    first = round(start * length / resized)
    return first, max(round(min(start + kept, resized) * length / resized), first + 1)


def _by(size: Size | int, factor: float) -> Size | int:
    return round(size * factor) if isinstance(size, int) else (round(size[0] * factor), round(size[1] * factor))


def _no_smaller(size: Size | int, least: Size) -> Size | int:
    if isinstance(size, int):
        return max(size, *least)
    return max(size[0], least[0]), max(size[1], least[1])


def _share(value: Any, file: str, folder: Path) -> float:
    number = _number(value, file, folder)
    if not 0.1 <= number <= 1:
        raise AuditorError(f"{file} in “{folder.name}” has no usable crop_pct: {value}.", "Copy it again.")
    return number


def _finite(value: Any) -> bool:
    # JSON has integers of any length, and Python reads NaN in it.
    return isinstance(value, (int, float)) and -1e9 < value < 1e9


def _number(value: Any, file: str, folder: Path) -> float:
    if not _finite(value):
        raise AuditorError(f"{file} in “{folder.name}” has no usable scale: {value}.", "Copy it again.")
    return float(value)


def _three(value: Any, file: str, folder: Path, *, divides: bool = False) -> Three:
    numbers = list(value) if isinstance(value, (list, tuple)) else [value] * 3
    usable = len(numbers) == 3 and all(_finite(number) for number in numbers)
    if not usable or (divides and 0 in numbers):
        raise AuditorError(f"{file} in “{folder.name}” has no usable mean or deviation.", "Copy it again.")
    return (float(numbers[0]), float(numbers[1]), float(numbers[2]))


def looked_up(pixels: npt.NDArray[np.uint8], table: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """uint8 [H, W, 3] → float32 [3, H, W] by the values of `table` [3, 256]: the numbers that arithmetic would give, in
    a tenth of the time."""
    found = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel, values in enumerate(table):
        np.take(values, pixels[..., channel], out=found[channel], mode="clip")
    return found


def resampled(pixels: npt.NDArray[np.uint8], size: Size, resample: int) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] at so many rows and columns, by one of Pillow's filters."""
    if pixels.shape[:2] == size:
        return pixels
    picture = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling(resample))
    return np.asarray(picture)


def _interpolated(values: npt.NDArray[np.float32], size: Size, resample: int) -> npt.NDArray[np.float32]:
    mode = "bicubic" if resample == BICUBIC else "bilinear"
    stacked = torch.from_numpy(values).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(stacked, size=size, mode=mode, antialias=True, align_corners=False)
    return np.asarray(resized[0].permute(1, 2, 0))
