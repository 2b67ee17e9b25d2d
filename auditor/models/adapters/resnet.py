"""ResNet: blocks of two or three convolutions, added to their input (He et al. 2016, arXiv:1512.03385)."""

from __future__ import annotations

from auditor.models.adapters.convolutional import ConvolutionalAdapter
from auditor.models.pictures import CONVNEXT, IMAGENET_MEAN, IMAGENET_STD


class ResnetAdapter(ConvolutionalAdapter):
    family = "resnet"
    config_class = "ResNetConfig"
    architectures = ("ResNetForImageClassification", "ResNetModel")
    body = "resnet"
    processor = CONVNEXT | {"size": {"shortest_edge": 224}, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}

    def blocks(self) -> list[str]:
        stages = self.listed(f"{self.at}encoder.stages")
        return [block for stage in stages for block in self.listed(f"{stage}.layers")]

    def width(self, block: str) -> int:
        return self.outputs(f"{self.listed(f'{block}.layer')[-1]}.convolution")

    def input_width(self) -> int:
        return self.inputs(f"{self.paths[0]}.layer.0.convolution")
