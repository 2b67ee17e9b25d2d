"""Networks that read pictures only: how they are fed, and what vision transformers have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, ClassVar

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.data.sample import Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.adapter import Adapter, heads_of
from auditor.models.hook_points import Blocks, HookPoint, Site, block_points
from auditor.models.inputs import Inputs, image_row, padded
from auditor.models.pictures import VIT, PictureRule, Size, picture_rule
from auditor.models.sheets import Box
from auditor.models.weights import load_transformers


def require_images(samples: Sequence[Sample]) -> None:
    for sample in samples:
        if sample.image is None:
            raise AuditorError(
                f"Sample “{sample.id}” has no image, and this model reads images only.",
                "Choose samples of images, or a model that reads text.",
            )


def pair(value: Any) -> Size:
    """Rows and columns from a number or two."""
    return (int(value[0]), int(value[1])) if isinstance(value, (list, tuple)) else (int(value), int(value))


def projections(attention: str, out: str = "o_proj") -> dict[str, Site]:
    """Sites inside an attention module with three projections and one for its output, `out`."""
    inside: dict[str, Site] = {name: Site(f"{attention}.{name}_proj") for name in "qkv"}
    pattern = Site(attention, "inside", inside="dropout")
    return inside | {"pattern": pattern, "z": Site(f"{attention}.{out}", "input")}


class PictureAdapter(Adapter):
    """A transformers network over pictures, with or without a classifier: logits [B, classes] or none."""

    modalities = frozenset({"image"})
    config_class: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]]
    """Classes of transformers that may be built; the first is taken where config.json names none of them."""
    body: ClassVar[str] = ""
    """Where a classifier keeps the network that it stands on."""
    processor: ClassVar[Mapping[str, Any]] = VIT
    """What the family's image processor does where the folder does not say."""
    inner: ClassVar[str] = ""
    """Where (a path) its config keeps that of the part that reads pictures, if the network is more than that."""
    any_size: ClassVar[bool] = False
    """Whether the network reads pictures of other sizes than config.json names."""
    rule: PictureRule

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        network: Any = load_transformers(facts, self.config_class, self.architectures, dtype)
        self.network, self.dtype = network, dtype
        self.config = attrgetter(self.inner)(network.config) if self.inner else network.config
        self.at = f"{self.body}." if self.body and hasattr(network, self.body) else ""
        self.rule = self.rule_of(facts)

    def rule_of(self, facts: ModelFacts) -> PictureRule:
        rule = picture_rule(facts.folder, self.processor, None if self.any_size else pair(self.config.image_size))
        if rule.expects is None and hasattr(self.config, "image_size"):
            return picture_rule(facts.folder, self.processor, pair(self.config.image_size))
        return rule

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        require_images(samples)
        return padded([image_row(0) for _ in samples], samples, None, None)

    def must_take(self, rows: int, columns: int) -> None:
        self.rule.must_take(rows, columns)

    def pictured(self, inputs: Inputs) -> Inputs:
        return replace(inputs, pixels=self.rule.batch(inputs.samples))

    def seen(self, rows: int, columns: int) -> Box:
        return self.rule.seen(rows, columns)

    def forward(self, inputs: Inputs) -> Tensor | None:
        if inputs.pixels is None:
            return None
        logits: Tensor | None = getattr(self.network(pixel_values=inputs.pixels.to(self.dtype)), "logits", None)
        return logits


class VisionTransformerAdapter(PictureAdapter):
    """Blocks over a sequence of `leading()` tokens (class, registers) and the patches, row by row."""

    def __init__(self, facts: ModelFacts, dtype: torch.dtype) -> None:
        super().__init__(facts, dtype)
        self.n_layers, self.d_model = int(self.config.num_hidden_layers), int(self.config.hidden_size)
        if self.d_model % int(self.config.num_attention_heads):
            raise AuditorError(
                f"config.json in “{facts.name}” splits {self.d_model} channels into "
                f"{self.config.num_attention_heads} heads.",
                "Copy the folder from its source again.",
            )

    @abstractmethod
    def table(self) -> Blocks:
        """The sites, below `self.at`."""

    def leading(self) -> int:
        return 1

    def mlp_width(self) -> int:
        return int(self.config.intermediate_size)

    def hook_points(self) -> list[HookPoint]:
        return block_points(
            self.table(), self.n_layers, self.d_model, self.mlp_width(), heads=heads_of(self.config), prefix="vision.",
            stream="vision", leading=self.leading(),
        )  # fmt: skip

    def grid_of(self, point: HookPoint) -> tuple[int, int] | None:
        return self.rule.grid(pair(self.config.patch_size))
