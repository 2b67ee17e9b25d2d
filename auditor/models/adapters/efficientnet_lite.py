"""EfficientNet-Lite0: an image classifier whose hook points are maps (y, x, channel).

Their names are those of all convolutional networks (`auditor.models.adapters.convolutional`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import Adapter
from auditor.models.adapters.vision import require_images
from auditor.models.hook_points import MAP, HookPoint
from auditor.models.inputs import Inputs, image_row, padded
from auditor.models.networks import efficientnet_lite as lite
from auditor.models.networks.paired import VisionTower
from auditor.models.weights import read_tensors


def load_tower(facts: ModelFacts, dtype: torch.dtype) -> VisionTower:
    """The classifier of a checked folder. AuditorError if the weights are another network's."""
    network = lite.EfficientNetLite0(int(facts.config.get("num_labels", 1000)))
    try:
        network.load_checkpoint(read_tensors(facts, dtype))
    except RuntimeError as error:
        raise AuditorError(
            f"The weights in “{facts.name}” are not those of an EfficientNet-Lite0.", "Prepare the sample models again."
        ) from error
    return VisionTower(network).to(dtype).eval().requires_grad_(False)


def map_points(tower: VisionTower, prefix: str) -> list[HookPoint]:
    """Hook points of the tower, whose modules are below `prefix`."""
    blocks: Sequence[lite.MBConv] = list(tower.network.blocks)  # type: ignore[arg-type]
    widths = [block._project_conv.out_channels for block in blocks]
    rows = [("vision.embed", f"{prefix}network.blocks.0", lite_input_width(blocks[0]), "input")]
    rows += [
        (f"vision.blocks.{number}.resid_post", f"{prefix}network.blocks.{number}", width, "output")
        for number, width in enumerate(widths)
    ]
    rows.append(("vision.head", f"{prefix}head", lite.FEATURE_CHANNELS, "output"))
    return [
        HookPoint(name, width, MAP, module, depth, "input" if tensor == "input" else "output", "vision")
        for depth, (name, module, width, tensor) in enumerate(rows)
    ]


def lite_input_width(block: lite.MBConv) -> int:
    return int(block._depthwise_conv.in_channels)


def pixels_of(samples: Sequence[Sample], size: int) -> Tensor | None:
    """float32 [B, 3, size, size] as the network was trained; zeros for samples without an image; None if none has."""
    if all(sample.image is None for sample in samples):
        return None
    blank = torch.zeros(3, size, size)
    return torch.stack([blank if s.image is None else lite.preprocess(s.image.load(), size) for s in samples])


class EfficientNetLiteAdapter(Adapter):
    family = "efficientnet_lite"
    modalities = frozenset({"image"})

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        self.network: VisionTower = load_tower(facts, dtype)
        self.dtype = dtype
        self.size = int(facts.config.get("image_size", lite.IMAGE_SIZE))
        self.n_layers = len(self.network.network.blocks)
        self.d_model = lite.FEATURE_CHANNELS

    def hook_points(self) -> list[HookPoint]:
        return map_points(self.network, "")

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        require_images(samples)
        return padded([image_row(0) for _ in samples], samples, None, None)

    def pictured(self, inputs: Inputs) -> Inputs:
        return replace(inputs, pixels=pixels_of(inputs.samples, self.size))

    def forward(self, inputs: Inputs) -> Tensor | None:
        if inputs.pixels is None:
            return None
        logits: Tensor = self.network(inputs.pixels.to(self.dtype))
        return logits
