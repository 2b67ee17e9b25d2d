"""RegNet: ResNet's blocks in groups of channels, with or without an attention over channels (arXiv:2003.13678)."""

from __future__ import annotations

from auditor.models.adapters.resnet import ResnetAdapter


class RegnetAdapter(ResnetAdapter):
    family = "regnet"
    config_class = "RegNetConfig"
    architectures = ("RegNetForImageClassification", "RegNetModel")
    body = "regnet"

    def blocks(self) -> list[str]:
        stages = self.listed(f"{self.at}encoder.stages")
        return [block for stage in stages for block in self.listed(f"{stage}.layers")]
