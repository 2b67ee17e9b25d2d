"""PaliGemma and PaliGemma 2: a SigLIP tower, one linear layer, and a Gemma (Gemma 2) that reads picture and prompt in
both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from auditor.data.image import Pixels
from auditor.data.sample import Sample
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.clip import tower_points
from auditor.models.adapters.image_text import ImageTextAdapter
from auditor.models.adapters.llama import GATED
from auditor.models.adapters.post_norm import GEMMA, SANDWICHED, gemma_linear_parts
from auditor.models.adapters.siglip import siglip_vision_blocks
from auditor.models.adapters.vision import pair
from auditor.models.hook_points import Blocks, HookPoint
from auditor.models.inputs import Inputs
from auditor.models.linearise import LinearPart
from auditor.models.pictures import SIGLIP, picture_rule
from auditor.models.sheets import Panel, Sheet


class PaligemmaAdapter(ImageTextAdapter):
    """The sample's text is the prompt: pictures, begin token, text and a line's end, as the library's processor has it.

    All of it is the prefix, in which every position sees every other (Beyer et al. 2024, arXiv:2407.07726).
    """

    family = "paligemma"
    config_class = "PaliGemmaConfig"
    architectures = ("PaliGemmaForConditionalGeneration",)
    connector = "model.multi_modal_projector"
    causal = False

    def table(self) -> Blocks:
        plain = super().table()
        if self.config.model_type == "gemma":
            return plain
        return replace(SANDWICHED, stack=plain.stack, embed=plain.embed, final_norm=plain.final_norm)

    def prepares(self, facts: ModelFacts) -> None:
        self.rule = picture_rule(facts.folder, SIGLIP, pair(self.whole.vision_config.image_size))

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        self.rule.must_take(rows, columns)
        return (Panel(0, self.rule.seen(rows, columns), *self.rule.grid(pair(self.whole.vision_config.patch_size))),)

    def prepare(self, pixels: Pixels) -> Tensor:
        return self.rule.prepare(pixels)[None]

    def vision_points(self) -> list[HookPoint]:
        return tower_points(siglip_vision_blocks("model.vision_tower."), self.whole.vision_config, leading=0)

    def behind(self) -> str:
        return getattr(self.tokenizer, "bos_token", None) or ""

    def written(self, sample: Sample, sheet: Sheet | None) -> list[str]:
        *pieces, last = super().written(sample, sheet)
        return [*pieces, f"{last}\n"]

    def numbers(self, texts: Sequence[str], max_tokens: int | None) -> list[list[int]]:
        if self.tokenizer is None:
            return super().numbers(texts, max_tokens)
        rows: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return rows

    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        return {"token_type_ids": torch.zeros_like(inputs.ids)}

    def linear_parts(self) -> list[LinearPart]:
        frozen = GATED if self.config.model_type == "gemma" else GEMMA
        return gemma_linear_parts(self.n_layers, self.language, frozen)

    def norm_gain(self) -> Tensor:
        # Gemma keeps its norms' weights less one.
        weight: Any = self.final_norm().weight
        gain: Tensor = 1.0 + weight
        return gain

    def readout(self, normed: Tensor) -> Tensor:
        logits, cap = super().readout(normed), getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap
