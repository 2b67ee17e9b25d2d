"""Networks over text and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import transformers
from torch import Tensor

from auditor.data import Sample, text_sample
from auditor.models import Inputs
from tests.models.tiny.entry import TEXT, Tiny, two_images
from tests.models.tiny.vision import PICTURE


def captioned() -> list[Sample]:
    images = two_images()
    return [Sample("a", text="red cat", image=images[0]), Sample("b", text="one two three", image=images[1])]


def with_places() -> list[Sample]:
    """Texts that say where the picture is, that have none, and that leave it to the model."""
    images = two_images()
    return [
        Sample("a", text="red <image> cat", image=images[0]),
        text_sample("one two three cat sat one"),
        Sample("c", text="two", image=images[1]),
    ]


def clip() -> Any:
    text = TEXT | {"max_position_embeddings": 20, "eos_token_id": 2}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=PICTURE, projection_dim=16))


def clip_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = network(input_ids=inputs.ids, pixel_values=inputs.pixels, output_hidden_states=True)
    text, vision = told.text_model_output.hidden_states, told.vision_model_output.hidden_states
    named = {f"vision.blocks.{number}.resid_post": state for number, state in enumerate(vision[1:])}
    return named | {f"blocks.{number}.resid_post": state for number, state in enumerate(text[1:])}


def llava(strategy: str) -> Callable[[], Any]:
    def build() -> Any:
        text = transformers.LlamaConfig(**TEXT, num_key_value_heads=2)
        vision = transformers.CLIPVisionConfig(**PICTURE, projection_dim=16)
        config = transformers.LlavaConfig(
            text_config=text, vision_config=vision, image_token_id=3, image_token_index=3,
            vision_feature_layer=-2, vision_feature_select_strategy=strategy,
        )  # fmt: skip
        return transformers.LlavaForConditionalGeneration(config)

    return build


MULTIMODAL: tuple[Tiny, ...] = (
    Tiny("clip", clip, samples=captioned, ends=True, states=clip_states, activation="quick_gelu"),
)
