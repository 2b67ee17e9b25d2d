"""EfficientNet-Lite0 for ImageNet-1k in plain torch, with the parameter names of its published checkpoint.

The Lite family (Tan & Le 2019, arXiv:1905.11946; Liu 2020, "Higher accuracy on vision models with
EfficientNet-Lite") leaves out squeeze-and-excitation and uses ReLU6. Strided convolutions pad as TensorFlow does
("same"): the extra pixel goes to the right and the bottom.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

IMAGE_SIZE = 224
FEATURE_CHANNELS = 1280
MEAN, SCALE = 127.0, 128.0
BATCH_NORM_EPS = 1e-3

# Each row: how often, kernel, stride of the first, expansion, output channels (arXiv:1905.11946, table 1).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv2d(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow's "same" does."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """[B, inputs, h, w] → [B, outputs, ⌈h/stride⌉, ⌈w/stride⌉]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        missing = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in input.shape[-2:]]
        top, left = missing[0] // 2, missing[1] // 2
        padded = functional.pad(input, (left, missing[1] - left, top, missing[0] - top))
        outputs: Tensor = self._conv_forward(padded, self.weight, self.bias)
        return outputs


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, momentum=0.01)


class MBConv(nn.Module):
    """Inverted bottleneck: expand (1×1), depthwise, project (1×1); adds its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self._expand_conv: nn.Module | None = None
        if expansion != 1:
            self._expand_conv = SameConv2d(inputs, middle, 1)
            self._bn0 = batch_norm(middle)
        self._depthwise_conv = SameConv2d(middle, middle, kernel, stride, groups=middle)
        self._bn1 = batch_norm(middle)
        self._project_conv = SameConv2d(middle, outputs, 1)
        self._bn2 = batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] → [B, outputs, h/stride, w/stride]."""
        y = x
        if self._expand_conv is not None:
            y = functional.relu6(self._bn0(self._expand_conv(y)))
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        projected: Tensor = self._bn2(self._project_conv(y))
        return x + projected if self.residual else projected


class EfficientNetLite0(nn.Module):
    """The classifier. `blocks` is the list of its 16 MBConv blocks, so that hooks can sit on ``blocks.N``.

    In memory the blocks are ``blocks.N…``; :meth:`load_checkpoint` reads the published names (``_blocks.N…``).
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, 2)
        self._bn0 = batch_norm(32)
        self.blocks = nn.ModuleList()
        channels = 32
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for repeat in range(repeats):
                self.blocks.append(MBConv(channels, outputs, kernel, stride if repeat == 0 else 1, expansion))
                channels = outputs
        self._conv_head = SameConv2d(channels, FEATURE_CHANNELS, 1)
        self._bn1 = batch_norm(FEATURE_CHANNELS)
        self._fc = nn.Linear(FEATURE_CHANNELS, classes)

    def features(self, images: Tensor) -> Tensor:
        """The last feature map: [B, 3, s, s] → [B, 1280, ⌈s/32⌉, ⌈s/32⌉] (7×7 at 224 px, 4×4 at 128 px)."""
        # Channels last: a CPU does depthwise convolutions faster so.
        images = images.contiguous(memory_format=torch.channels_last)
        x = functional.relu6(self._bn0(self._conv_stem(images)))
        for block in self.blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x)))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits: [B, 3, s, s], as :func:`preprocess` gives them, → [B, classes]."""
        logits: Tensor = self._fc(self.features(images).mean((2, 3)))
        return logits

    def load_checkpoint(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights under their published names; every key must match. Raises RuntimeError as torch does."""
        self.load_state_dict({rename(name): value for name, value in weights.items()})


def rename(name: str) -> str:
    """The published name of a parameter → this module's."""
    return name[1:] if name.startswith("_blocks.") else name


def preprocess(image: npt.NDArray[np.uint8], size: int = IMAGE_SIZE) -> Tensor:
    """A picture uint8 [H, W, 3] (or [H, W, 4], laid on white) → float32 [3, size, size], scaled as in training.

    The picture is resized to the square (bicubic, Pillow), without a crop. Raises ValueError for another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise ValueError(f"an image must be uint8 [height, width, 3 or 4], not {image.dtype} {list(image.shape)}")
    picture = Image.fromarray(np.ascontiguousarray(image))
    if picture.mode == "RGBA":
        ground = Image.new("RGBA", picture.size, "white")
        ground.alpha_composite(picture)
        picture = ground.convert("RGB")
    picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    values = (np.asarray(picture, dtype=np.float32) - MEAN) / SCALE
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()
