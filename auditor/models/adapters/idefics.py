"""Idefics: a Llama with layers between its blocks that look at pictures (Laurençon et al. 2023, arXiv:2306.16527)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from auditor.data.image import Pixels
from auditor.data.sample import Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.clip import clip_vision_points
from auditor.models.adapters.idefics2 import AROUND
from auditor.models.adapters.image_text import ImageTextAdapter
from auditor.models.adapters.llama import llama_blocks
from auditor.models.adapters.vision import pair
from auditor.models.hook_points import Blocks, HookPoint
from auditor.models.inputs import Inputs
from auditor.models.pictures import CLIP, picture_rule
from auditor.models.sheets import Panel, Sheet

IMAGE = "<image>"


class IdeficsAdapter(ImageTextAdapter):
    """A picture has one token in the text, which is special. Positions from there to the next picture look at what the
    tower makes of it, in layers of their own: what these add stands between a block's `resid_post` and the `resid_pre`
    of the next, and before the first block."""

    family = "idefics"
    config_class = "IdeficsConfig"
    architectures = ("IdeficsForVisionText2Text",)
    language = "model."

    def image_number(self) -> int:
        known = self.tokenizer.get_vocab() if self.tokenizer is not None else {}
        return int(known.get(IMAGE, self.whole.vocab_size + self.whole.additional_vocab_size - 1))

    def prepares(self, facts: ModelFacts) -> None:
        vision, side = self.whole.vision_config, pair(self.whole.vision_config.image_size)
        usual = CLIP | {"size": {"height": side[0], "width": side[1]}, "do_center_crop": False}
        self.rule = picture_rule(facts.folder, usual, side)
        self.grid = self.rule.grid(pair(vision.patch_size))

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        return (Panel(0, self.rule.seen(rows, columns), *self.grid),)

    def prepare(self, pixels: Pixels) -> Tensor:
        return self.rule.prepare(pixels)[None]

    def table(self) -> Blocks:
        return llama_blocks(self.language)

    def vision_points(self) -> list[HookPoint]:
        return clip_vision_points(self.whole.vision_config, "model.vision_model.")

    def hook_points(self) -> list[HookPoint]:
        return [*self.vision_points(), *super(ImageTextAdapter, self).hook_points()]

    def spelled(self, panels: Sequence[Panel]) -> str:
        return f"{AROUND}{self._name(self.image_id)}{AROUND}"

    def written(self, sample: Sample, sheet: Sheet | None) -> list[str]:
        """As the processor does, without spaces around pictures."""
        pieces = super().written(sample, sheet)
        token = re.escape(self.spelled(()))
        for at in range(0, len(pieces), 2):
            pieces[at] = re.sub(f" *({token}) *", r"\1", pieces[at]).replace(AROUND + AROUND, AROUND)
        return pieces

    def must_fit(self, sample: Sample, sizes: Sequence[tuple[int, int]]) -> None:
        """Any number of pictures: each is one token."""

    def _cells(self, sheet: Sheet | None) -> list[int]:
        return [-1] * (0 if sheet is None else len(sheet.panels))

    def _inside(self, places: Sequence[int], sheet: Sheet | None) -> int:
        return len(places)

    def forward(self, inputs: Inputs) -> Tensor:
        marks = (inputs.ids < 0) & inputs.mask
        ids = inputs.ids.masked_fill(marks, self.image_id).clamp(min=0)
        counts = marks.sum(1)
        most = max(1, int(counts.max()))
        seen = self._seen(inputs, counts, most)
        # Of each position the last picture before it, which alone it looks at.
        last = marks.cumsum(1) - 1
        looks = (last[..., None] == torch.arange(most, device=last.device)).to(torch.int64)
        logits: Tensor = self.library(
            input_ids=ids, attention_mask=inputs.mask.to(torch.int64), image_encoder_embeddings=seen,
            image_attention_mask=looks, use_cache=False,
        ).logits  # fmt: skip
        return logits

    def _seen(self, inputs: Inputs, counts: Tensor, most: int) -> Tensor:
        """[B, pictures, 1 + patches, width]: what the tower makes of the pictures, zeros where a sample has fewer."""
        width, rows = int(self.whole.vision_config.embed_dim), 1 + self.grid[0] * self.grid[1]
        empty = torch.zeros(len(counts), most, rows, width, dtype=self.dtype, device=counts.device)
        if inputs.pixels is None:
            return empty
        states = self.library.model.vision_model(pixel_values=inputs.pixels.to(self.dtype)).last_hidden_state
        held = torch.arange(most, device=counts.device) < counts[:, None]
        return empty.masked_scatter(held[..., None, None], states)

    def unembed(self) -> Tensor | None:
        head = self.library.lm_head
        more = [head.additional_fc.weight] if self.whole.additional_vocab_size > 0 else []
        return torch.cat([head.weight, *more]).T

    def final_norm(self) -> nn.Module:
        return self.network.get_submodule("model.norm")
