"""EfficientNet B0 to B7: inverted bottlenecks with squeeze and excitation (Tan & Le 2019, arXiv:1905.11946)."""

from __future__ import annotations

from auditor.models.adapters.convolutional import ConvolutionalAdapter
from auditor.models.pictures import EFFICIENTNET


class EfficientnetAdapter(ConvolutionalAdapter):
    """Its Lite0, in plain torch, is in `auditor.models.adapters.efficientnet_lite`."""

    family = "efficientnet"
    config_class = "EfficientNetConfig"
    architectures = ("EfficientNetForImageClassification", "EfficientNetModel")
    body = "efficientnet"
    processor = EFFICIENTNET

    def blocks(self) -> list[str]:
        return self.listed(f"{self.at}encoder.blocks")

    def width(self, block: str) -> int:
        return self.outputs(f"{block}.projection.project_conv")

    def input_width(self) -> int:
        return self.outputs(f"{self.at}embeddings.convolution")

    def head(self) -> tuple[str, int]:
        return f"{self.at}encoder.top_activation", self.outputs(f"{self.at}encoder.top_conv")
