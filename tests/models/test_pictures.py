"""How pictures are prepared, against transformers' own image processors (their Pillow variants)."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.data import ImageRef, Sample
from auditor.models import pictures
from auditor.models.pictures import BICUBIC, PictureRule, picture_rule


def picture(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


def processor(family: str, name: str, **settings: Any) -> Any:
    module = importlib.import_module(f"transformers.models.{family}.image_processing_pil_{family}")
    return getattr(module, f"{name}ImageProcessorPil")(**settings)


# Family of the processor, its class, what the rule starts from, and what differs from the class's own settings.
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "ViT": ("vit", "ViT", pictures.VIT, {"size": {"height": 24, "width": 24}}),
    "not square": ("vit", "ViT", pictures.VIT, {"size": {"height": 24, "width": 32}, "resample": 0}),
    "a number for a size": ("vit", "ViT", pictures.VIT, {"size": 20}),
    "no resizing": ("vit", "ViT", pictures.VIT, {"do_resize": False}),
    "neither scaled nor normalised": (
        "vit", "ViT", pictures.VIT, {"size": {"height": 9, "width": 9}, "do_rescale": False, "do_normalize": False}
    ),
    "DeiT": ("deit", "DeiT", pictures.DEIT, {"size": {"height": 32, "width": 32}, "crop_size": 24}),
    "CLIP": ("clip", "CLIP", pictures.CLIP, {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}),
    "an odd crop": ("clip", "CLIP", pictures.CLIP, {"size": 30, "crop_size": {"height": 21, "width": 28}}),
    "a crop larger than the picture": ("clip", "CLIP", pictures.CLIP, {"do_resize": False, "crop_size": 71}),
    "DINOv2": ("bit", "Bit", pictures.CLIP, {"size": {"shortest_edge": 26}, "crop_size": 24}),
    "SigLIP": ("siglip", "Siglip", pictures.SIGLIP, {"size": {"height": 24, "width": 24}}),
    "ConvNeXt": ("convnext", "ConvNext", pictures.CONVNEXT, {"size": {"shortest_edge": 30}, "crop_pct": 0.9}),
    "ConvNeXt, large": ("convnext", "ConvNext", pictures.CONVNEXT, {"size": {"shortest_edge": 384}}),
    "MobileNetV2": ("mobilenet_v2", "MobileNetV2", pictures.MOBILENET, {"size": {"shortest_edge": 30}, "crop_size": 9}),
    "EfficientNet": (
        "efficientnet", "EfficientNet", pictures.EFFICIENTNET,
        {"size": {"height": 24, "width": 24}, "rescale_offset": True, "rescale_factor": 1 / 127.5},
    ),
    "BEiT": ("beit", "Beit", pictures.SIGLIP, {"size": {"height": 24, "width": 24}}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_that_a_folders_processor_config_is_followed_to_the_bit(case: str, tmp_path: Path) -> None:
    family, name, defaults, settings = CASES[case]
    told = processor(family, name, **settings)
    told.save_pretrained(tmp_path)
    rule = picture_rule(tmp_path, defaults)
    for rows, columns in ((40, 40), (37, 58), (58, 37)):
        expected = told(picture(rows, columns), return_tensors="pt")["pixel_values"][0]
        assert torch.equal(rule.prepare(picture(rows, columns)), torch.as_tensor(expected)), (rows, columns)


@pytest.mark.parametrize(
    ("family", "name", "defaults"), sorted({case[:2]: case[:3] for case in CASES.values()}.values(), key=str)
)
def test_that_a_folder_without_a_config_gets_the_familys_own(
    family: str, name: str, defaults: dict[str, Any], tmp_path: Path
) -> None:
    expected = processor(family, name)(picture(50, 70), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(picture_rule(tmp_path, defaults).prepare(picture(50, 70)), torch.as_tensor(expected))


def test_that_a_processor_saved_inside_another_is_found(tmp_path: Path) -> None:
    inner = {"size": {"height": 8, "width": 12}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1], "resample": 0}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": inner}), encoding="utf-8")
    rule = picture_rule(tmp_path, pictures.VIT)
    assert rule.expects == (8, 12) and rule.resample == 0
    assert float(rule.prepare(np.full((5, 5, 3), 255, np.uint8)).mean()) == 1.0


@pytest.mark.parametrize(
    ("settings", "network", "size", "crop"),
    [
        ({"size": {"height": 20, "width": 20}}, (16, 16), (16, 16), None),
        ({"size": {"shortest_edge": 20}, "crop_size": 18, "do_center_crop": True}, (16, 16), 20, (16, 16)),
        ({"size": {"shortest_edge": 12}, "crop_size": 12, "do_center_crop": True}, (16, 16), 16, (16, 16)),
        ({"size": {"height": 20, "width": 20}, "crop_size": 18, "do_center_crop": True}, (16, 24), (20, 24), (16, 24)),
        ({"size": {"shortest_edge": 20}}, (16, 16), (16, 16), None),
    ],
)
def test_that_the_one_size_a_network_reads_goes_before_the_files(
    tmp_path: Path, settings: dict[str, Any], network: tuple[int, int], size: Any, crop: Any
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    rule = picture_rule(tmp_path, pictures.VIT, network)
    assert (rule.size, rule.crop, rule.expects) == (size, crop, network)
    assert rule.prepare(picture(33, 21)).shape == (3, *network)
    assert rule.grid((8, 4)) == (network[0] // 8, network[1] // 4)


def test_that_numbers_are_resized_unrounded_where_the_family_does_so(tmp_path: Path) -> None:
    """Against Pillow's bilinear filter on floats, which is the same triangle."""
    from PIL import Image

    rule = picture_rule(tmp_path, pictures.DINOV3 | {"size": {"height": 12, "width": 16}})
    seen = picture(40, 31)
    expected = np.stack(
        [
            np.asarray(Image.fromarray(seen[..., channel].astype(np.float32) / 255).resize((16, 12), 2))
            for channel in range(3)
        ]
    )
    expected = (expected - np.array(rule.mean)[:, None, None]) / np.array(rule.std)[:, None, None]
    np.testing.assert_allclose(rule.prepare(seen).numpy(), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": {"height": 10**9, "width": 10}}, "impossible size"), ({"size": -3}, "impossible size"),
        ({"size": "large"}, "impossible size"), ({"size": {}}, "impossible size"),
        ({"resample": 99}, "unknown filter"), ({"resample": []}, "unknown filter"),
        ({"rescale_factor": 10**400}, "scale"), ({"image_mean": [float("nan"), 0, 0]}, "mean or deviation"),
        ({"image_mean": [0.5, 0.5]}, "mean or deviation"),
        ({"image_std": [0, 1, 1]}, "mean or deviation"), ({"rescale_factor": "x"}, "scale"),
        ({"size": {"shortest_edge": 20}, "crop_pct": 0}, "crop_pct"),
    ],
)  # fmt: skip
def test_that_a_config_that_no_picture_can_follow_is_refused(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(AuditorError, match=said):
        picture_rule(tmp_path, pictures.VIT)


def test_that_pictures_of_other_sizes_are_refused_where_nothing_resizes_them(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_resize": False}), encoding="utf-8")
    samples = [Sample(str(rows), image=ImageRef.of(picture(rows, 16))) for rows in (16, 20)]
    fixed, free = picture_rule(tmp_path, pictures.VIT, (16, 16)), picture_rule(tmp_path, pictures.VIT)
    with pytest.raises(AuditorError, match="16 × 20 pixels does not fit"):
        fixed.batch(samples)
    with pytest.raises(AuditorError, match="different sizes"):
        free.batch(samples)
    batch = free.batch([samples[1], Sample("text", text="red")])
    assert batch is not None and batch.shape == (2, 3, 20, 16) and not batch[1].any()


def test_that_a_picture_that_would_fill_the_memory_is_refused_before_it_is_resized(tmp_path: Path) -> None:
    rule = picture_rule(tmp_path, pictures.CLIP)
    with pytest.raises(AuditorError, match="1000000 × 1 pixels is too long and narrow"):
        rule.prepare(np.zeros((1, 1_000_000, 3), np.uint8))
    assert rule.prepare(np.zeros((4, 400, 3), np.uint8)).shape == (3, 224, 224)


def test_that_what_a_network_sees_of_a_picture_is_told(tmp_path: Path) -> None:
    cropped = picture_rule(tmp_path, pictures.CLIP | {"size": {"shortest_edge": 20}, "crop_size": 20})
    assert cropped.seen(40, 80) == (0, 20, 40, 60) and cropped.seen(90, 30) == (30, 0, 60, 30)
    part = picture_rule(tmp_path, pictures.CONVNEXT | {"size": {"shortest_edge": 28}, "crop_pct": 0.875})
    assert part.seen(64, 64) == (4, 4, 60, 60)
    assert picture_rule(tmp_path, pictures.VIT).seen(40, 80) == (0, 0, 40, 80)
    # What is seen, prepared as it is, is what is prepared of the whole.
    whole = np.broadcast_to(np.arange(98, dtype=np.uint8)[None, :, None] * 2, (56, 98, 3))
    middle = np.ascontiguousarray(whole[:, 20:76])
    assert cropped.seen(56, 98) == (0, 20, 56, 76)
    assert float((cropped.prepare(np.ascontiguousarray(whole)) - cropped.prepare(middle)).abs().mean()) < 0.05


@pytest.mark.parametrize(
    ("defaults", "size"), [(pictures.CLIP, 32), (pictures.DEIT, (37, 37)), (pictures.VIT, (32, 32))]
)
def test_that_a_small_network_without_a_config_sees_the_same_share_of_a_picture(
    defaults: dict[str, Any], size: Any, tmp_path: Path
) -> None:
    assert picture_rule(tmp_path, defaults, (32, 32)).size == size


def test_that_values_are_looked_up_to_the_bits_that_arithmetic_gives() -> None:
    rng = np.random.default_rng(5)
    pixels = rng.permuted(np.arange(3600).reshape(40, 30, 3) % 256).astype(np.uint8)  # all values in each channel
    for again, offset, factor in ((False, 0.0, 1 / 255), (True, 1.0, 1 / 127.5), (False, 0.0, 1.0)):
        mean, std = (tuple(rng.uniform(0.2, 0.9, 3).tolist()) for _ in range(2))
        rule = PictureRule(None, (44, 30), mean, std, BICUBIC, factor, offset, again)  # type: ignore[arg-type]
        cropped = np.pad(pixels, [(2, 2), (0, 0), (0, 0)])
        numbers = (cropped.astype(np.float64) * factor).astype(np.float32) - np.float32(offset)
        numbers = (numbers - np.float32(mean)) / np.float32(std)
        wanted = numbers / np.float32(std) if again else numbers
        assert np.array_equal(rule.prepare(pixels).numpy(), wanted.transpose(2, 0, 1))
