"""Gemma 4 with pictures: a tower over pictures of any shape, squares of whose patches are averaged to a token, or
(unified) none: patches go through one linear layer.

Google DeepMind 2026, https://ai.google.dev/gemma/docs/core.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from auditor.base.errors import AuditorError
from auditor.data.image import Pixels
from auditor.data.sample import PositionKind
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.clip import tower_points
from auditor.models.adapters.gemma4_sound import HearingAdapter
from auditor.models.adapters.gemma4_text import Gemma4Language, gemma4_blocks
from auditor.models.adapters.post_norm import SANDWICHED
from auditor.models.hook_points import TOKENS, Blocks, HookPoint, Site
from auditor.models.inputs import Inputs
from auditor.models.pictures import BICUBIC, HALF, PictureRule, picture_rule, processor_config
from auditor.models.sheets import Panel, Sheet

TOWER = "model.vision_tower."
TOWER_BLOCKS = replace(
    SANDWICHED,
    stack=f"{TOWER}encoder.layers",
    embed=Site(f"{TOWER}patch_embedder"),
    final_norm=None,
    v=Site("self_attn.v_norm"),
)
_MOST = 1120
"""Tokens of a picture, in the family's largest setting."""
_PLAIN: dict[str, Any] = {
    "size": None, "resample": BICUBIC, "do_normalize": False, "image_mean": HALF, "image_std": HALF,
}  # fmt: skip


@dataclass(frozen=True)
class ShapedRule:
    """A picture keeps its shape about, and becomes as large as it can with at most `most` tokens of `cell` × `cell`
    pixels, whole ones along both sides; it is cut into patches of side `patch`."""

    plain: PictureRule
    cell: int
    patch: int
    most: int

    def panel(self, rows: int, columns: int) -> Panel:
        """The tokens of a picture of so many pixels."""
        # In the order in which the library computes, which rounds down what comes out.
        factor = math.sqrt(self.most * self.cell**2 / (rows * columns))
        high, wide = (math.floor(factor * side / self.cell) for side in (rows, columns))
        if not high and wide:
            high, wide = 1, min(columns // rows, self.most)
        elif high and not wide:
            high, wide = min(rows // columns, self.most), 1
        return Panel(0, (0, 0, rows, columns), high, wide)

    def prepare(self, pixels: Pixels) -> Tensor:
        """uint8 [H, W, 3] → float32 [patches, patch² · 3], patches row by row, channels last in each."""
        panel, side = self.panel(*pixels.shape[:2]), self.patch
        high, wide = panel.rows * self.cell, panel.columns * self.cell
        plain = replace(self.plain, size=(high, wide)).prepare(pixels)
        cut = plain.reshape(3, high // side, side, wide // side, side).permute(1, 3, 2, 4, 0)
        return cut.reshape(high * wide // side**2, -1)


class Gemma4Adapter(HearingAdapter, Gemma4Language):
    """Pictures keep their shape. Where the config says so, a picture's tokens see each other both ways in the blocks
    with a window. Films are not read."""

    family = "gemma4"
    config_class = "Gemma4Config"
    architectures = ("Gemma4ForConditionalGeneration",)
    connector = "model.embed_vision"
    stripped: ClassVar[bool] = True
    """Whether the connector has only tokens that are no padding."""

    def table(self) -> Blocks:
        return gemma4_blocks(super().table())

    def prepares(self, facts: ModelFacts) -> None:
        vision, (file, said) = self.whole.vision_config, processor_config(facts.folder, {})
        if vision is None:
            raise AuditorError(
                f"config.json in “{facts.name}” describes no tower for pictures (vision_config).",
                "Open the language model alone, whose model_type is gemma4_text.",
            )
        patch, side = int(vision.patch_size), int(vision.pooling_kernel_size)
        most = said.get("max_soft_tokens", 280)
        told = said.get("patch_size", patch), said.get("pooling_kernel_size", side)
        if told != (patch, side) or not isinstance(most, int) or not 1 <= most <= _MOST or patch < 1 or side < 1:
            raise AuditorError(
                f"{file} in “{facts.name}” cuts pictures otherwise than the network reads them: {most} tokens of "
                f"{told[1]} × {told[1]} patches of side {told[0]}.",
                "Copy the folder from its source again.",
            )
        plain = picture_rule(facts.folder, {**_PLAIN, "do_resize": False})
        plain = replace(plain, size=None, expects=None, crop=None)
        self.rule = ShapedRule(plain, patch * side, patch * side // self.joined, most)
        self.hears(facts)

    @property
    def joined(self) -> int:
        return int(self.whole.vision_config.pooling_kernel_size)

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        return (self.rule.panel(rows, columns),)

    def prepare(self, pixels: Pixels) -> Tensor:
        return self.rule.prepare(pixels)

    def together(self, prepared: Sequence[Tensor]) -> Tensor:
        """[pictures, patches of the largest, patch² · 3]."""
        return pad_sequence(list(prepared), batch_first=True)

    def room(self, panel: Panel, cells: str, most: int) -> int:
        return len(panel) if cells == "tokens" and self.stripped else most

    def beside(self, sheets: Sequence[Sheet | None]) -> Mapping[str, Tensor]:
        """[pictures, patches of the largest, 2]: each patch's column and row, −1 at padding."""
        found = []
        for panel in (panel for sheet in sheets if sheet is not None for panel in sheet.panels):
            high, wide = panel.rows * self.joined, panel.columns * self.joined
            y, x = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
            found.append(torch.stack([x, y], dim=-1).flatten(0, 1))
        return {"image_position_ids": pad_sequence(found, batch_first=True, padding_value=-1)} if found else {}

    def vision_points(self) -> list[HookPoint]:
        return tower_points(TOWER_BLOCKS, self.whole.vision_config, leading=0)

    def hook_points(self) -> list[HookPoint]:
        # Pictures are read first.
        points, heard = super().hook_points(), self.audio_points()
        first = next(number for number, point in enumerate(points) if point.name == "embed")
        return [*points[:first], *heard, *points[first:]]

    def around(self) -> tuple[str, str]:
        begin, end = (self._name(int(number)) for number in (self.whole.boi_token_id, self.whole.eoi_token_id))
        return begin, end

    def marks(self) -> Sequence[str]:
        # Its chat template writes the picture's token alone.
        name = self._name(self.image_id)
        return [*super().marks(), *([name] if name else [])]

    def features(self, inputs: Inputs) -> Any:
        assert inputs.pixels is not None
        places = inputs.beside["image_position_ids"]
        return self.library.model.get_image_features(inputs.pixels.to(self.dtype), places)

    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        given = super().arguments(inputs)
        if inputs.pixels is None:
            return given
        return {**given, "mm_token_type_ids": (inputs.kind == int(PositionKind.IMAGE)).to(torch.int32)}

    def before(self, hook: str) -> list[str]:
        return []

    def readout(self, normed: Tensor) -> Tensor:
        logits, cap = super().readout(normed), self.config.final_logit_softcapping
        return logits if cap is None else torch.tanh(logits / cap) * cap


class Gemma4UnifiedAdapter(Gemma4Adapter):
    """``vision.patches`` are the patches behind their linear layer and its norm, ``vision.embed`` with their places;
    ``audio_tokens`` are made of pieces of the sound itself."""

    family = "gemma4_unified"
    config_class = "Gemma4UnifiedConfig"
    architectures = ("Gemma4UnifiedForConditionalGeneration",)
    connector = "model.embed_vision.multimodal_embedder"
    stripped = False
    strides = ()

    def extracts(self, facts: ModelFacts) -> Any:
        from transformers import Gemma4UnifiedAudioFeatureExtractor

        size = self.hop()
        return Gemma4UnifiedAudioFeatureExtractor(feature_size=size, audio_samples_per_token=size)

    def listened(self, sounds: Sequence[Any]) -> Any:
        return self.extractor(sounds, return_tensors="pt")

    def hop(self) -> int:
        return int(self.tower.audio_embed_dim)

    def conformer_points(self) -> list[HookPoint]:
        return []

    @property
    def joined(self) -> int:
        return 1

    def vision_points(self) -> list[HookPoint]:
        width, at = int(self.whole.vision_config.mm_embed_dim), "model.embed_vision."
        return [
            HookPoint(name, width, TOKENS, f"{at}{module}", 0, "output", "vision", cells="tokens")
            for name, module in (("vision.patches", "patch_ln2"), ("vision.embed", "pos_norm"))
        ]
