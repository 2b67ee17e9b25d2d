"""Networks over text and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from auditor.data import Sample, text_sample
from auditor.models import Inputs
from tests.models.tiny.entry import TEXT, Tiny, two_images, word_tokenizer
from tests.models.tiny.vision import ALL_RUN, DENSE, PICTURE, SEES

FITS = "its logits say how well a picture and a text fit"
PAIRS = SEES | {"unembedding": FITS}
READS = {"experts": DENSE, "given": ALL_RUN}
PLAIN = READS | {"linearised": "its norms and activation functions are not frozen"}
MARKS = ["<fake_token_around_image>", "<global-img>", "<start>", "<end>"]
GEMMA = TEXT | {"head_dim": 8, "num_key_value_heads": 2}


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


def marks(folder: Path) -> None:
    """A tokenizer that also knows what stands around pictures."""
    word_tokenizer(folder, ends=False, more=MARKS)


def clip() -> Any:
    text = TEXT | {"max_position_embeddings": 20, "eos_token_id": 2}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=PICTURE, projection_dim=16))


def siglip() -> Any:
    text = TEXT | {"max_position_embeddings": 8, "projection_size": PICTURE["hidden_size"]}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=PICTURE))


def two_towers(network: Any, inputs: Inputs, **wanted: bool) -> Any:
    return network(input_ids=inputs.ids.clamp(min=0), pixel_values=inputs.pixels, **wanted)


def tower_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = two_towers(network, inputs, output_hidden_states=True)
    text, vision = told.text_model_output.hidden_states, told.vision_model_output.hidden_states
    named = {f"vision.blocks.{number}.resid_post": state for number, state in enumerate(vision[1:])}
    named |= {f"blocks.{number}.resid_post": state for number, state in enumerate(text[1:])}
    return named | {"vision.embed": vision[0], "embed": text[0]}


def tower_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = two_towers(network, inputs, output_attentions=True)
    named = {f"vision.blocks.{n}.pattern": x for n, x in enumerate(told.vision_model_output.attentions)}
    return named | {f"blocks.{n}.pattern": x for n, x in enumerate(told.text_model_output.attentions)}


def llava(strategy: str) -> Callable[[], Any]:
    def build() -> Any:
        text = transformers.LlamaConfig(**TEXT, num_key_value_heads=2)
        vision = transformers.CLIPVisionConfig(**PICTURE, hidden_act="silu", projection_dim=16)
        config = transformers.LlavaConfig(
            text_config=text, vision_config=vision, image_token_id=3, image_token_index=3,
            vision_feature_layer=-2, vision_feature_select_strategy=strategy,
        )  # fmt: skip
        return transformers.LlavaForConditionalGeneration(config)

    return build


def paligemma(text: Callable[..., Any]) -> Callable[[], Any]:
    def build() -> Any:
        width = TEXT["hidden_size"]
        vision = transformers.SiglipVisionConfig(**PICTURE, projection_dim=width, vision_use_head=False)
        config = transformers.PaliGemmaConfig(
            text_config=text(**GEMMA), vision_config=vision, image_token_index=3, projection_dim=width, vocab_size=10,
            hidden_size=width,
        )  # fmt: skip
        return transformers.PaliGemmaForConditionalGeneration(config)

    return build


def idefics(name: str) -> Callable[[], Any]:
    def build() -> Any:
        text = transformers.LlamaConfig(**TEXT | {"vocab_size": 14}, num_key_value_heads=2)
        config = getattr(transformers, f"{name}Config")(
            text_config=text, vision_config=PICTURE | {"image_size": 32, "hidden_act": "silu"}, image_token_id=3,
            scale_factor=2, pad_token_id=0,
        )  # fmt: skip
        return getattr(transformers, f"{name}ForConditionalGeneration")(config)

    return build


ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
NUMBERS = {"image_token_id": 3, "video_token_id": 9, "vision_start_token_id": 12, "vision_end_token_id": 13}


def qwen2_vl() -> Any:
    text = TEXT | {"vocab_size": 14, "num_key_value_heads": 2, "rope_parameters": ROPE}
    vision = {
        "depth": 3, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 4,
        "hidden_act": "silu",
    }  # fmt: skip
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **NUMBERS)
    return transformers.Qwen2VLForConditionalGeneration(config)


def qwen2_5_vl() -> Any:
    text = TEXT | {"vocab_size": 14, "num_key_value_heads": 2, "rope_parameters": ROPE}
    vision = {
        "depth": 3, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 48, "patch_size": 4,
        "window_size": 16, "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **NUMBERS)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen_files(folder: Path) -> None:
    marks(folder)
    # Pictures of 32 × 32: 8 × 8 patches, 4 × 4 tokens, and four windows of Qwen2.5-VL's.
    said = {"min_pixels": 64, "max_pixels": 32 * 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")


Given = Callable[[Any, Inputs], dict[str, Any]]
"""What the library's forward pass, and its reading of pictures, are called with for one sample."""


def stacked(network: Any, inputs: Inputs) -> dict[str, Any]:
    return {"pixel_values": inputs.pixels}


def in_lists(network: Any, inputs: Inputs) -> dict[str, Any]:
    """Idefics: some pictures a sample."""
    assert inputs.pixels is not None
    return {"pixel_values": inputs.pixels[:, None]}


def patched(network: Any, inputs: Inputs) -> dict[str, Any]:
    """Qwen: patches as the library's own processor cuts them."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    assert inputs.pixels is not None
    patches, rows, columns = Qwen2VLImageProcessorPil().patchify(inputs.pixels[0].numpy(), 4, 2, 2)
    return {"pixel_values": torch.tensor(patches), "image_grid_thw": torch.tensor([[1, rows, columns]])}


def whole(network: Any, inputs: Inputs, given: Given, **wanted: bool) -> Any:
    """The library's forward pass over one sample with a picture."""
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    more = {"mm_token_type_ids": (ids == 3).int()} if given is patched else {}
    more |= {"token_type_ids": torch.zeros_like(ids)} if network.config.model_type == "paligemma" else {}
    return network(input_ids=ids, attention_mask=torch.ones_like(ids), **given(network, inputs), **more, **wanted)


def in_rows(network: Any, inputs: Inputs) -> Tensor | None:
    """Where the library's tower has each patch, found by sending numbers in the place of colours through its code."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.vision_utils import get_vision_window_index

    numbers = torch.arange(64.0).reshape(1, 8, 8).repeat_interleave(4, 1).repeat_interleave(4, 2).expand(3, -1, -1)
    sent, rows, columns = Qwen2VLImageProcessorPil().patchify(numbers.numpy(), 4, 2, 2)
    held = torch.tensor(sent[:, 0]).long()
    if network.config.model_type == "qwen2_5_vl":
        window, _ = get_vision_window_index(torch.tensor([[1, rows, columns]]), 2, 16, 4)
        held = held.reshape(-1, 4)[window].flatten()
    return held.argsort()


def image_text_states(given: Given) -> Callable[[Any, Inputs], Mapping[str, Tensor]]:
    def states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
        text = whole(network, inputs, given, output_hidden_states=True).hidden_states
        vision = network.model.get_image_features(**given(network, inputs), output_hidden_states=True).hidden_states
        if given is patched:
            vision = [state[in_rows(network, inputs)][None] for state in vision]
        named = {f"blocks.{number}.resid_post": state for number, state in enumerate(text[1:-1])}
        # Qwen's tower gives its last state after the merger, the others before any norm.
        last = len(vision) - 1 if given is patched else len(vision)
        named |= {f"vision.blocks.{number}.resid_post": state for number, state in enumerate(vision[1:last])}
        return named | {"embed": text[0], "final_norm": text[-1], "vision.embed": vision[0]}

    return states


def image_text_patterns(given: Given) -> Callable[[Any, Inputs], Mapping[str, Tensor]]:
    def patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
        text = whole(network, inputs, given, output_attentions=True).attentions
        named = {f"blocks.{number}.pattern": pattern for number, pattern in enumerate(text)}
        if given is patched:
            return named
        vision = network.model.get_image_features(**given(network, inputs), output_attentions=True).attentions
        return named | {f"vision.blocks.{number}.pattern": pattern for number, pattern in enumerate(vision)}

    return patterns


def image_text(
    name: str, build: Callable[[], Any], given: Given, *, lacks: Mapping[str, str] = READS, **more: Any
) -> Tiny:
    return Tiny(
        name, build, samples=with_places, states=image_text_states(given), patterns=image_text_patterns(given),
        lacks=lacks, **more,
    )  # fmt: skip


def llava_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    text = whole(network, inputs, stacked, output_hidden_states=True).hidden_states
    vision = network.model.vision_tower(inputs.pixels, output_hidden_states=True).hidden_states
    named = {f"blocks.{number}.resid_post": state for number, state in enumerate(text[1:-1])}
    named |= {f"vision.blocks.{number}.resid_post": state for number, state in enumerate(vision[1:])}
    return named | {"embed": text[0], "final_norm": text[-1], "vision.embed": vision[0]}


def llava_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    text = whole(network, inputs, stacked, output_attentions=True).attentions
    vision = network.model.vision_tower(inputs.pixels, output_attentions=True).attentions
    named = {f"blocks.{number}.pattern": pattern for number, pattern in enumerate(text)}
    return named | {f"vision.blocks.{number}.pattern": pattern for number, pattern in enumerate(vision)}


MULTIMODAL: tuple[Tiny, ...] = (
    Tiny(
        "clip", clip, samples=captioned, ends=True, states=tower_states, patterns=tower_patterns,
        activation="quick_gelu", lacks=PAIRS, unread=("vision.",),
    ),
    Tiny(
        "siglip", siglip, samples=captioned, ends=True, states=tower_states, patterns=tower_patterns,
        activation="gelu_pytorch_tanh", lacks=PAIRS, unread=("vision.",),
    ),
    Tiny(
        "llava", llava("default"), samples=with_places, states=llava_states, patterns=llava_patterns,
        lacks=READS, unread=("vision.blocks.2.",),
    ),
    Tiny(
        "llava full", llava("full"), samples=with_places, states=llava_states, patterns=llava_patterns,
        lacks=READS, unread=("vision.blocks.2.",),
    ),
    image_text(
        "paligemma", paligemma(transformers.GemmaConfig), stacked, activation="gelu_pytorch_tanh", lacks=PLAIN
    ),
    image_text(
        "paligemma 2", paligemma(transformers.Gemma2Config), stacked, activation="gelu_pytorch_tanh", lacks=PLAIN
    ),
    image_text("idefics3", idefics("Idefics3"), in_lists, finish=marks),
    image_text("smolvlm", idefics("SmolVLM"), in_lists, finish=marks),
    image_text("qwen2_vl", qwen2_vl, patched, finish=qwen_files),
    image_text("qwen2_5_vl", qwen2_5_vl, patched, finish=qwen_files),
)  # fmt: skip
