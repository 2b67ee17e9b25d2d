"""LLaVA: a vision tower (CLIP or SigLIP), a projector and a Llama, Mistral or Qwen2 that reads image tokens in text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from auditor.base.errors import AuditorError
from auditor.data.image import Pixels
from auditor.intake.weights import ModelFacts
from auditor.models.adapters.clip import clip_vision_points, tower_points
from auditor.models.adapters.image_text import ImageTextAdapter
from auditor.models.adapters.llama import llama_linear_parts
from auditor.models.adapters.siglip import siglip_vision_blocks
from auditor.models.adapters.vision import pair
from auditor.models.hook_points import HookPoint
from auditor.models.inputs import Inputs
from auditor.models.linearise import LinearPart
from auditor.models.pictures import CLIP, SIGLIP, picture_rule
from auditor.models.sheets import Panel
from auditor.models.unpacked import nothing_packed

TOWER = "model.vision_tower."


class LlavaAdapter(ImageTextAdapter):
    """Its tower is read and its tokens are put among the text here, not by the library, so that edits are kept."""

    family = "llava"
    config_class = "LlavaConfig"
    architectures = ("LlavaForConditionalGeneration",)
    connector = "model.multi_modal_projector"
    inner = ("linear_1", "linear_2")

    def prepares(self, facts: ModelFacts) -> None:
        vision = self.whole.vision_config
        self.siglip = vision.model_type == "siglip_vision_model"
        self.rule = picture_rule(facts.folder, SIGLIP if self.siglip else CLIP, pair(vision.image_size))
        self.grid = self.rule.grid(pair(vision.patch_size))
        self.with_class = self.whole.vision_feature_select_strategy != "default"
        if self.siglip and not self.with_class:
            raise AuditorError(
                f"config.json in “{facts.name}” leaves out the tower's first token as its class token, and this tower "
                "has none: the first patch would be lost.",
                "Set vision_feature_select_strategy to “full”, or copy the folder again.",
            )

    @property
    def leading(self) -> int:
        return int(self.with_class and not self.siglip)

    def panels(self, rows: int, columns: int) -> tuple[Panel, ...]:
        self.rule.must_take(rows, columns)
        return (Panel(0, self.rule.seen(rows, columns), *self.grid),)

    def prepare(self, pixels: Pixels) -> Tensor:
        return self.rule.prepare(pixels)[None]

    def vision_points(self) -> list[HookPoint]:
        if self.siglip:
            return tower_points(siglip_vision_blocks(TOWER), self.whole.vision_config, leading=0)
        return clip_vision_points(self.whole.vision_config, TOWER)

    def forward(self, inputs: Inputs) -> Tensor:
        embedded = self.library.get_input_embeddings()(inputs.ids.clamp(min=0))
        if inputs.pixels is not None:
            tokens = self.library.model.multi_modal_projector(self._features(inputs.pixels.to(embedded.dtype)))
            is_image = (inputs.mask & (inputs.ids < 0))[..., None]
            embedded = embedded.masked_scatter(is_image, self.placed(tokens, inputs.beside).to(embedded.dtype))
        with nothing_packed():
            hidden = self.library.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        logits: Tensor = self.library.lm_head(hidden)
        return logits

    def placed(self, tokens: Tensor, beside: Mapping[str, Tensor]) -> Tensor:
        """What the projector gives [pictures, tokens, d_model], in the order of the text's image tokens."""
        return tokens

    def _features(self, pixels: Tensor) -> Tensor:
        """[B, patches, width]: hidden states of the layers that config.json names, side by side."""
        tower = self.library.model.vision_tower
        named = self.whole.vision_feature_layer
        count = len(tower.encoder.layers)
        layers = [layer % (count + 1) for layer in ([named] if isinstance(named, int) else named)]
        with hidden_states(tower.encoder.layers) as states:
            tower(pixel_values=pixels)
        chosen = [states[layer] if self.with_class else states[layer][:, 1:] for layer in layers]
        # As it lay in memory: other strides would choose other kernels, which round otherwise.
        return chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=-1)

    def linear_parts(self) -> list[LinearPart]:
        return llama_linear_parts(self.n_layers, self.language)


@contextlib.contextmanager
def hidden_states(layers: nn.ModuleList) -> Iterator[dict[int, Tensor]]:
    """Input of the first layer (0) and output of each, as edits left them.

    The library's own collection stands before hooks that were added later, so that it would miss their edits.
    """
    states: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            states[number] = output[0] if isinstance(output, tuple) else output

        return hook

    def first(module: nn.Module, args: Any, kwargs: Any) -> None:
        states[0] = args[0] if args else kwargs["hidden_states"]

    handles = [layers[0].register_forward_pre_hook(first, with_kwargs=True)]
    handles += [layer.register_forward_hook(keep(number)) for number, layer in enumerate(layers, 1)]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
