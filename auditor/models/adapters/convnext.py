"""ConvNeXt, ConvNeXt V2 and DINOv3's: blocks of one wide convolution and an MLP over channels (arXiv:2201.03545,
2301.00808, 2508.10104)."""

from __future__ import annotations

from typing import ClassVar

from auditor.models.adapters.convolutional import ConvolutionalAdapter
from auditor.models.pictures import CONVNEXT, DINOV3, IMAGENET_MEAN, IMAGENET_STD


class ConvnextAdapter(ConvolutionalAdapter):
    """What a stage's downsampling makes of the map before its first block is no hook point."""

    family = "convnext"
    config_class = "ConvNextConfig"
    architectures: ClassVar[tuple[str, ...]] = ("ConvNextForImageClassification", "ConvNextModel")
    body = "convnext"
    processor = CONVNEXT | {"size": {"shortest_edge": 224}, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}

    def blocks(self) -> list[str]:
        stages = self.listed(f"{self.at}encoder.stages")
        return [block for stage in stages for block in self.listed(f"{stage}.layers")]

    def width(self, block: str) -> int:
        return self.outputs(f"{block}.pwconv2")

    def input_width(self) -> int:
        return self.inputs(f"{self.paths[0]}.dwconv")


class Dinov3ConvnextAdapter(ConvnextAdapter):
    family = "dinov3_convnext"
    config_class = "DINOv3ConvNextConfig"
    architectures = ("DINOv3ConvNextModel",)
    processor = DINOV3

    def blocks(self) -> list[str]:
        return [block for stage in self.listed("model.stages") for block in self.listed(f"{stage}.layers")]

    def width(self, block: str) -> int:
        return self.outputs(f"{block}.pointwise_conv2")

    def input_width(self) -> int:
        return self.inputs(f"{self.paths[0]}.depthwise_conv")


class ConvnextV2Adapter(ConvnextAdapter):
    family = "convnextv2"
    config_class = "ConvNextV2Config"
    architectures = ("ConvNextV2ForImageClassification", "ConvNextV2Model")
    body = "convnextv2"
