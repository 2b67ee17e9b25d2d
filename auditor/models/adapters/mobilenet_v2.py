"""MobileNetV2: inverted bottlenecks, added to their input where shapes agree (Sandler 2018, arXiv:1801.04381)."""

from __future__ import annotations

from auditor.models.adapters.convolutional import ConvolutionalAdapter
from auditor.models.pictures import MOBILENET


class MobilenetV2Adapter(ConvolutionalAdapter):
    family = "mobilenet_v2"
    config_class = "MobileNetV2Config"
    architectures = ("MobileNetV2ForImageClassification", "MobileNetV2Model")
    body = "mobilenet_v2"
    processor = MOBILENET

    def blocks(self) -> list[str]:
        return self.listed(f"{self.at}layer")

    def width(self, block: str) -> int:
        return self.outputs(f"{block}.reduce_1x1.convolution")

    def input_width(self) -> int:
        return self.inputs(f"{self.paths[0]}.expand_1x1.convolution")

    def head(self) -> tuple[str, int]:
        return f"{self.at}conv_1x1", self.outputs(f"{self.at}conv_1x1.convolution")
