"""MobileNetV1: convolutions of each channel alone, and between them of all channels at one place (arXiv:1704.04861)."""

from __future__ import annotations

from auditor.models.adapters.convolutional import ConvolutionalAdapter
from auditor.models.pictures import MOBILENET


class MobilenetV1Adapter(ConvolutionalAdapter):
    """Each convolution of either kind is a block."""

    family = "mobilenet_v1"
    config_class = "MobileNetV1Config"
    architectures = ("MobileNetV1ForImageClassification", "MobileNetV1Model")
    body = "mobilenet_v1"
    processor = MOBILENET

    def blocks(self) -> list[str]:
        return self.listed(f"{self.at}layer")

    def width(self, block: str) -> int:
        return self.outputs(f"{block}.convolution")

    def input_width(self) -> int:
        return self.outputs(f"{self.at}conv_stem.convolution")
