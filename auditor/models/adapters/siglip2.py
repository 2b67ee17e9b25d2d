"""SigLIP 2 for pictures of any shape (NaFlex), its towers together or its vision tower alone. (At fixed sizes it is
SigLIP by its config, and opened as that.)

Tschannen et al. 2025, arXiv:2502.14786.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from auditor.data.sample import PositionKind, Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.siglip import SiglipAdapter, SiglipVisionAdapter
from auditor.models.adapters.vision import require_images
from auditor.models.hook_points import HookPoint
from auditor.models.inputs import Inputs, Positions, image_row, padded
from auditor.models.naflex import NaflexRule, naflex_rule
from auditor.models.sheets import Sheet


def with_sheets(rule: NaflexRule, inputs: Inputs) -> Inputs:
    """The batch with what lies where on its pictures."""
    pictures = [None if sample.image is None else sample.image.load() for sample in inputs.samples]
    panels = [None if pixels is None else rule.panel(*pixels.shape[:2]) for pixels in pictures]
    held = [panel for panel in panels if panel is not None]
    if not held:
        return inputs
    return replace(
        inputs,
        sheets=tuple(None if panel is None else Sheet.of([panel]) for panel in panels),
        beside={
            "pixel_attention_mask": pad_sequence([torch.ones(len(one)) for one in held], batch_first=True).long(),
            "spatial_shapes": torch.tensor([[panel.rows, panel.columns] for panel in held]),
        },
    )


def with_patches(rule: NaflexRule, inputs: Inputs) -> Inputs:
    """The batch with the patches of its pictures [pictures, patches, patch² · 3], padded to the longest."""
    each = [rule.prepare(sample.image.load()) for sample in inputs.samples if sample.image is not None]
    return replace(inputs, pixels=pad_sequence(each, batch_first=True)) if each else inputs


def rows_of(inputs: Inputs) -> tuple[Tensor, Positions] | None:
    """Which rows of the tower's modules are whose: a picture has as many as the longest of the batch."""
    if not any(inputs.sheets):
        return None
    counts = [0 if sheet is None else len(sheet.panels[0]) for sheet in inputs.sheets]
    longest, device = max(counts), inputs.kind.device
    count = torch.tensor(counts, device=device)[:, None]
    place = torch.arange(longest, device=device)
    first = (torch.tensor([bool(n) for n in counts], device=device).cumsum(0) - 1)[:, None] * longest
    held = place < count
    unit = place.expand_as(held).masked_fill(~held, -1).to(torch.int32)
    kind = torch.where(held, int(PositionKind.IMAGE), int(PositionKind.PAD)).to(torch.uint8)
    grid = next(sheet.grid for sheet in inputs.sheets if sheet is not None)
    return (first + place).masked_fill(~held, -1), Positions(kind, unit, grid, inputs.sheets)


def pooled_rows_of(inputs: Inputs) -> tuple[Tensor, Positions] | None:
    """Which of the rows, one a picture, are whose."""
    if not any(inputs.sheets):
        return None
    held = inputs.has_image[:, None]
    kind = torch.where(held, int(PositionKind.IMAGE), int(PositionKind.PAD)).to(torch.uint8)
    rows = (held.cumsum(0) - 1).masked_fill(~held, -1)
    return rows, Positions(kind, rows.clamp(max=0).to(torch.int32), None)


class Siglip2VisionAdapter(SiglipVisionAdapter):
    family = "siglip2_vision"
    config_class = "Siglip2VisionConfig"
    architectures = ("Siglip2VisionModel",)

    def rule_of(self, facts: ModelFacts) -> NaflexRule:  # type: ignore[override]
        return naflex_rule(facts.folder, int(self.config.patch_size))

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        require_images(samples)
        return with_sheets(self.rule, padded([image_row(0) for _ in samples], samples, None, None))  # type: ignore[arg-type]

    def pictured(self, inputs: Inputs) -> Inputs:
        return with_patches(self.rule, inputs)  # type: ignore[arg-type]

    def laid(self, point: HookPoint, inputs: Inputs) -> tuple[Tensor, Positions] | None:
        return pooled_rows_of(inputs) if point.cells == "tokens" else rows_of(inputs)

    def grid_of(self, point: HookPoint) -> None:
        """Each picture has its own."""

    def forward(self, inputs: Inputs) -> None:
        assert inputs.pixels is not None
        self.network(pixel_values=inputs.pixels.to(self.dtype), **inputs.beside)


class Siglip2Adapter(SiglipAdapter):
    family = "siglip2"
    config_class = "Siglip2Config"
    architectures = ("Siglip2Model",)

    def rule_of(self, facts: ModelFacts) -> NaflexRule:  # type: ignore[override]
        return naflex_rule(facts.folder, int(self.config.vision_config.patch_size))

    def encode(self, samples: Sequence[Sample], max_tokens: int | None) -> Inputs:
        return with_sheets(self.rule, super().encode(samples, max_tokens))  # type: ignore[arg-type]

    def pictured(self, inputs: Inputs) -> Inputs:
        return with_patches(self.rule, inputs)  # type: ignore[arg-type]

    def laid(self, point: HookPoint, inputs: Inputs) -> tuple[Tensor, Positions] | None:
        if point.stream != "vision":
            return super().laid(point, inputs)
        return pooled_rows_of(inputs) if point.cells == "tokens" else rows_of(inputs)

    def grid_of(self, point: HookPoint) -> None:
        """Each picture has its own."""
