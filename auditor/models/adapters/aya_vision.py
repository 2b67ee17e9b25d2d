"""Aya Vision: a SigLIP tower over tiles of a picture, whose patches are joined by squares, and a Cohere.

Dash et al. 2025, arXiv:2505.08751.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from auditor.models.adapters.clip import tower_points
from auditor.models.adapters.internvl import TOWER, InternVlAdapter
from auditor.models.adapters.llava import hidden_states
from auditor.models.adapters.siglip import siglip_vision_blocks
from auditor.models.hook_points import Blocks, HookPoint, Part
from auditor.models.inputs import Inputs
from auditor.models.linearise import LinearPart
from auditor.models.marks import MARK
from auditor.models.sheets import Panel

START, END = "<|START_OF_IMG|>", "<|END_OF_IMG|>"
TILE, WHOLE = "TILE", "TILE_GLOBAL"


class AyaVisionAdapter(InternVlAdapter):
    """Tiles are named in the text, each before its tokens. Attention and MLP of the Cohere read the same normed
    residual stream. The projector's MLP is gated by the second half of its first projection."""

    family = "aya_vision"
    config_class = "AyaVisionConfig"
    architectures = ("AyaVisionForConditionalGeneration",)
    strategy = "full"

    @property
    def joined(self) -> int:
        return int(self.whole.downsample_factor)

    def table(self) -> Blocks:
        return replace(super().table(), resid_mid=None)

    def vision_points(self) -> list[HookPoint]:
        return tower_points(siglip_vision_blocks(TOWER), self.whole.vision_config, leading=0)

    def projector_points(self, name: str = "projector", at: str = "") -> list[HookPoint]:
        before, hidden = super().projector_points(name, at)
        width = before.width // 2
        gate, linear = (replace(before, width=width, part=Part(1, 2, half, half + 1)) for half in (1, 0))
        return [gate, replace(linear, name=f"{name}.mlp_linear"), replace(hidden, width=width)]

    def spelled(self, panels: Sequence[Panel]) -> str:
        token, told = self._name(self.image_id), START
        for number, panel in enumerate(panels, 1):
            told += (f"{TILE}_{number}" if number < len(panels) else WHOLE) + token * len(panel)
        return told + END

    def features(self, inputs: Inputs) -> Any:
        """The library's own way would miss edits of the tower's last block."""
        assert inputs.pixels is not None
        tower = self.library.model.vision_tower
        with hidden_states(tower.encoder.layers) as states:
            read = tower(inputs.pixels.to(self.dtype))
        read.pooler_output = self.library.model.multi_modal_projector(states[len(tower.encoder.layers)]).flatten(1, -2)
        return read

    def marks(self) -> Sequence[str]:
        return [MARK]

    def linear_parts(self) -> list[LinearPart]:
        return []
