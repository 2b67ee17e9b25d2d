"""EfficientNet-Lite0 against its published weights, and against convolutions padded by hand."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from auditor.models.networks.efficientnet_lite import (
    EfficientNetLite0,
    SameConv2d,
    preprocess,
    rename,
)

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "build" / "models" / "efficientnet-lite0"
IMAGES = ROOT / "sample_data" / "images"


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    if not (FOLDER / "model.safetensors").exists():
        pytest.skip("the sample models are not prepared (python sample_data/models.py build/models)")
    tensors: dict[str, torch.Tensor] = load_file(str(FOLDER / "model.safetensors"))
    return tensors


@pytest.fixture(scope="module")
def network(weights: dict[str, torch.Tensor]) -> EfficientNetLite0:
    built = EfficientNetLite0()
    built.load_checkpoint(weights)
    return built.eval()


def picture(name: str) -> np.ndarray:
    with zipfile.ZipFile(IMAGES / "images.zip") as archive:
        return np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))


def test_that_every_published_name_is_a_parameter_here_and_no_other(weights: dict[str, torch.Tensor]) -> None:
    ours = {name: tuple(value.shape) for name, value in EfficientNetLite0().state_dict().items()}
    assert {rename(name): tuple(value.shape) for name, value in weights.items()} == ours
    assert (
        sum(value.numel() for name, value in weights.items() if "running" not in name and "num_b" not in name)
        == 4_652_008
    )


@pytest.mark.parametrize(
    ("drawing", "expected", "least"),
    [
        ("openclipart-food-fruit-strawberry-01", "strawberry", 0.9),
        ("google-1f691", "ambulance", 0.9),
        ("twitter-1f9f7", "safety pin", 0.9),
        ("openclipart-animals-scorpion-md-v0-1", "scorpion", 0.85),
    ],
)
def test_that_a_drawing_gets_its_class(network: EfficientNetLite0, drawing: str, expected: str, least: float) -> None:
    names = json.loads((FOLDER / "classes.json").read_text())
    with torch.no_grad():
        shares = network(preprocess(picture(f"{drawing}.webp"))[None]).softmax(-1)[0]
    assert names[int(shares.argmax())] == expected
    assert shares.max() > least


def test_that_the_logits_are_the_head_on_the_mean_of_the_map_and_repeat(network: EfficientNetLite0) -> None:
    image = torch.from_numpy(np.random.default_rng().normal(size=(2, 3, 128, 128)).astype(np.float32))
    with torch.no_grad():
        maps, logits, again = network.features(image), network(image), network(image)
    assert maps.shape == (2, 1280, 4, 4)
    assert maps.min() >= 0 and maps.max() <= 6
    torch.testing.assert_close(logits, again, rtol=0, atol=0)
    expected = maps.numpy().mean((2, 3)) @ network._fc.weight.detach().numpy().T + network._fc.bias.detach().numpy()
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_that_a_hook_on_a_block_sees_its_output(network: EfficientNetLite0) -> None:
    seen = {}
    module = network.get_submodule("blocks.10")
    handle = module.register_forward_hook(lambda _m, _i, output: seen.update(shape=tuple(output.shape)))
    with torch.no_grad():
        network(torch.zeros(1, 3, 224, 224))
    handle.remove()
    assert seen["shape"] == (1, 112, 14, 14)


@pytest.mark.parametrize("size", [7, 8])
def test_that_strided_convolutions_pad_to_the_right_and_bottom_first(size: int) -> None:
    rng = np.random.default_rng()
    layer = SameConv2d(2, 3, 3, stride=2)
    x = torch.from_numpy(rng.normal(size=(1, 2, size, size)).astype(np.float32))
    before = 0 if size % 2 == 0 else 1
    padded = functional.pad(x, (before, 1, before, 1))
    expected = functional.conv2d(padded, layer.weight, stride=2)
    torch.testing.assert_close(layer(x), expected)


def test_that_a_picture_is_scaled_as_in_training_and_laid_on_white() -> None:
    rng = np.random.default_rng()
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    expected = (image.astype(np.float32).transpose(2, 0, 1) / 255 - 127 / 255) / (128 / 255)
    np.testing.assert_allclose(preprocess(image, 32).numpy(), expected, atol=1e-5)
    clear = np.zeros((20, 10, 4), dtype=np.uint8)
    assert preprocess(clear, 32).shape == (3, 32, 32)
    assert torch.all(preprocess(clear, 32) == 1)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8)]
)
def test_that_another_kind_of_array_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        preprocess(image)
