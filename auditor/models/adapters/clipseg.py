"""CLIPSeg: a CLIP, of which a small decoder makes segments; the CLIP is run.

Lüddecke and Ecker 2021, arXiv:2112.10003.
"""

from __future__ import annotations

from auditor.intake.weights import ModelFacts
from auditor.models.adapters.clip import ClipAdapter
from auditor.models.pictures import IMAGENET_MEAN, IMAGENET_STD, VIT, PictureRule, picture_rule


class ClipSegAdapter(ClipAdapter):
    """Pictures are read at the size that the folder's processor config says, whatever the CLIP was trained with."""

    family = "clipseg"
    config_class = "CLIPSegConfig"
    architectures = ("CLIPSegForImageSegmentation",)
    at = "clip."
    processor = VIT | {"size": {"height": 352, "width": 352}, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}

    def rule_of(self, facts: ModelFacts) -> PictureRule:
        return picture_rule(facts.folder, self.processor)
