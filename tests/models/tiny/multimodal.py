"""Networks over text and pictures."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from auditor.data import ImageRef, PositionKind, Sample, text_sample
from auditor.models import Inputs
from auditor.models.adapters.gemma3n_sound import without_pictures
from tests.models.tiny.decoders import DELTA, EXPERTS, NO_DELTA, by_lane, mixed_sums, scaled_sums
from tests.models.tiny.encoders import GATED as GATED_T5
from tests.models.tiny.encoders import NO_HEAD, stack, two_sounds
from tests.models.tiny.entry import SIZES, TEXT, Softmaxes, Tiny, two_images, word_tokenizer
from tests.models.tiny.vision import (
    ALL_RUN,
    DENSE,
    PICTURE,
    SEES,
    SIGLIP_POOL,
    out_of_windows,
    pooling,
    resized,
    shapes,
    six_patches,
)

FITS = "its logits say how well a picture and a text fit"
SOUND_FITS = SEES | {"unembedding": "its logits say how well a sound and a text fit"}
PAIRS = SEES | {"unembedding": FITS}
READS = {"experts": DENSE, "given": ALL_RUN}
AGAIN = "pictures come in again after the first blocks"
PLAIN = READS | {"linearised": "its norms and activation functions are not frozen"}
MARKS = ["<fake_token_around_image>", "<global-img>", "<start>", "<end>"]
GEMMA = TEXT | {"head_dim": 8, "num_key_value_heads": 2}
GEMMA4_TOKENS = {
    "image_token_id": 3,
    "boi_token_id": 12,
    "eoi_token_id": 13,
    "video_token_id": 11,
    "audio_token_id": 10,
}


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


def whole_pictures(folder: Path) -> None:
    marks(folder)
    said = {"do_image_splitting": False, "size": {"longest_edge": 128}}
    (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")


def tiles(folder: Path) -> None:
    marks(folder)
    # Pictures of 20 × 24: two tiles down and two across, and the whole.
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"longest_edge": 64}}), encoding="utf-8")


def clip() -> Any:
    text = TEXT | {"max_position_embeddings": 20, "eos_token_id": 2}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=PICTURE, projection_dim=16))


def metaclip_2() -> Any:
    text = TEXT | {"max_position_embeddings": 20, "eos_token_id": 2}
    config = transformers.MetaClip2Config(text_config=text, vision_config=PICTURE, projection_dim=16)
    return transformers.MetaClip2Model(config)


CAPTIONS = TEXT | {"max_position_embeddings": 20}


def chinese_clip() -> Any:
    config = transformers.ChineseCLIPConfig(text_config=CAPTIONS, vision_config=PICTURE, projection_dim=16)
    return transformers.ChineseCLIPModel(config)


def clipseg() -> Any:
    config = transformers.CLIPSegConfig(
        text_config=CAPTIONS, vision_config=PICTURE, projection_dim=16, extract_layers=[0, 1], reduce_dim=8,
        decoder_num_attention_heads=2, decoder_intermediate_size=16,
    )  # fmt: skip
    return transformers.CLIPSegForImageSegmentation(config)


def clipseg_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    return tower_states(network.clip, inputs)


def clipseg_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    return tower_patterns(network.clip, inputs)


def owlvit() -> Any:
    config = transformers.OwlViTConfig(text_config=CAPTIONS, vision_config=PICTURE, projection_dim=16)
    return transformers.OwlViTForObjectDetection(config)


def owlvit_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    cells, _ = network.image_embedder(inputs.pixels)
    return tower_states(network.owlvit, inputs) | {"vision.head": cells.flatten(1, 2)}


def owlvit_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    return tower_patterns(network.owlvit, inputs)


def siglip() -> Any:
    text = TEXT | {"max_position_embeddings": 8, "projection_size": PICTURE["hidden_size"]}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=PICTURE))


def siglip2() -> Any:
    text = TEXT | {"max_position_embeddings": 8, "projection_size": SIZES["hidden_size"]}
    vision = SIZES | {"patch_size": 8, "num_patches": 16}
    return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))


def captioned_shapes() -> list[Sample]:
    texts = ("red cat", "one two three")
    return [replace(sample, text=text) for sample, text in zip(shapes(), texts, strict=True)]


def two_towers(network: Any, inputs: Inputs, **wanted: bool) -> Any:
    read = {"input_ids": inputs.ids.clamp(min=0), "pixel_values": inputs.pixels}
    return network(**read, **inputs.beside, **wanted)


def tower_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = two_towers(network, inputs, output_hidden_states=True)
    text, vision = told.text_model_output.hidden_states, told.vision_model_output.hidden_states
    named = {f"vision.blocks.{number}.resid_post": state for number, state in enumerate(vision[1:])}
    named |= {f"blocks.{number}.resid_post": state for number, state in enumerate(text[1:])}
    return named | {"vision.embed": vision[0], "embed": text[0]}


def tower_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = two_towers(network, inputs, output_attentions=True)
    named = {f"vision.blocks.{n}.pattern": x for n, x in enumerate(told.vision_model_output.attentions)}
    named |= {f"blocks.{n}.pattern": x for n, x in enumerate(told.text_model_output.attentions)}
    return named | pooling(network.vision_model, told.vision_model_output)


def clap(fused: bool) -> Callable[[], Any]:
    def build() -> Any:
        text = TEXT | {"max_position_embeddings": 20, "projection_dim": 16}
        # A second of sound, as 64 columns of 16 bands: two stretches of 4 by 8 patches each.
        audio = {
            "spec_size": 32, "num_mel_bins": 16, "window_size": 4, "depths": [2, 2], "num_attention_heads": [2, 4],
            "patch_embeds_hidden_size": 16, "hidden_size": 32, "projection_dim": 16, "mlp_ratio": 2.0,
            "enable_fusion": fused, "fusion_type": "aff_2d" if fused else None, "aff_block_r": 2,
        }  # fmt: skip
        config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=16)
        return transformers.ClapModel(config)

    return build


def one_second(fused: bool) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        said = {
            "sampling_rate": 16_000, "hop_length": 320, "fft_window_size": 512, "max_length_s": 1,
            "frequency_max": 8000, "truncation": "fusion" if fused else "rand_trunc",
        }  # fmt: skip
        (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")

    return write


def told_sounds() -> list[Sample]:
    texts = ("red cat", "one two three")
    return [replace(sample, text=text, labels={}) for sample, text in zip(two_sounds(), texts, strict=True)]


def clap_told(network: Any, inputs: Inputs, **wanted: bool) -> tuple[Any, Any]:
    text = network.text_model(inputs.ids, **wanted)
    longer = torch.zeros(1, 1, dtype=torch.bool)
    return network.audio_model(inputs.sound, is_longer=longer, **wanted), text


def clap_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    """The library has states of stages, after patches are merged, as maps."""
    sound, text = clap_told(network, inputs, output_hidden_states=True)
    named = {f"blocks.{number}.resid_post": state for number, state in enumerate(text.hidden_states[1:])}
    maps = [state.flatten(2).transpose(1, 2) for state in sound.hidden_states]
    names = ("audio.embed", "audio.blocks.2.resid_pre", "audio.blocks.3.resid_post")
    return named | {"embed": text.hidden_states[0]} | dict(zip(names, maps, strict=True))


def clap_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    tower, told = network.audio_model.audio_encoder, list[Tensor]()
    layers = [layer for stage in tower.layers for layer in stage.blocks]
    handles = [layer.attention.register_forward_hook(lambda *call: told.append(call[2][1])) for layer in layers]
    _, text = clap_told(network, inputs, output_attentions=True)
    for handle in handles:
        handle.remove()
    named = {f"blocks.{number}.pattern": pattern for number, pattern in enumerate(text.attentions)}
    for number, (layer, windows) in enumerate(zip(layers, told, strict=True)):
        named[f"audio.blocks.{number}.pattern"] = out_of_windows(layer, windows, 8 >> number // 2)
    return named


def qwen2_audio() -> Any:
    text = transformers.Qwen2Config(**TEXT | {"vocab_size": 12}, num_key_value_heads=2)
    audio = {
        "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "num_mel_bins": 8,
        "max_source_positions": 40,
    }  # fmt: skip
    config = transformers.Qwen2AudioConfig(
        text_config=text, audio_config=transformers.Qwen2AudioEncoderConfig(**audio), audio_token_index=3
    )
    return transformers.Qwen2AudioForConditionalGeneration(config)


def sound_names(folder: Path) -> None:
    word_tokenizer(folder, ends=False, more=["<|audio_bos|>", "<|audio_eos|>"])


def sounds_or_not() -> list[Sample]:
    """Sounds before a text, and where it says so, and a text alone between."""
    first, second = told_sounds()
    return [first, text_sample("one two three cat"), replace(second, text="one <image> red cat")]


def qwen2_audio_told(network: Any, inputs: Inputs, **wanted: bool) -> tuple[Any, Any]:
    """The text's and the tower's, of which the frames up to the sound's end."""
    tower, kept = network.model.audio_tower, dict[str, Any]()
    handle = tower.register_forward_pre_hook(lambda _, args, kwargs: kwargs.update(wanted), with_kwargs=True)
    after = tower.register_forward_hook(lambda _, args, output: kept.update(output=output))
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    told = network(
        input_ids=ids, attention_mask=torch.ones_like(ids), input_features=inputs.sound, **inputs.beside, **wanted
    )
    handle.remove()
    after.remove()
    return told, kept["output"]


def qwen2_audio_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    text, sound = qwen2_audio_told(network, inputs, output_hidden_states=True)
    named = {f"blocks.{number}.resid_post": state for number, state in enumerate(text.hidden_states[1:-1])}
    # 0.5 s: 50 columns of the spectrum, 25 frames, 12 tokens.
    first, second, normed = sound.hidden_states
    named |= {"audio.embed": first[:, :25], "audio.blocks.0.resid_post": second[:, :25]}
    named |= {"embed": text.hidden_states[0], "final_norm": text.hidden_states[-1]}
    return named | {"audio.final_norm": normed[:, :12]}


def qwen2_audio_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    text, sound = qwen2_audio_told(network, inputs, output_attentions=True)
    named = {f"blocks.{number}.pattern": pattern for number, pattern in enumerate(text.attentions)}
    return named | {
        f"audio.blocks.{number}.pattern": pattern[:, :, :25, :25] for number, pattern in enumerate(sound.attentions)
    }


def blip() -> Any:
    text = TEXT | {
        "encoder_hidden_size": 32, "projection_dim": 16, "num_hidden_layers": 2, "max_position_embeddings": 20,
        "sep_token_id": 2, "is_decoder": True,
    }  # fmt: skip
    config = transformers.BlipConfig(
        text_config=text, vision_config=PICTURE | {"projection_dim": 16}, projection_dim=16, image_text_hidden_size=16
    )
    return transformers.BlipForConditionalGeneration(config)


def blip_told(network: Any, inputs: Inputs, **wanted: bool) -> tuple[Any, Any]:
    vision = network.vision_model(inputs.pixels, **wanted)
    seen = vision.last_hidden_state
    return vision, network.text_decoder(inputs.ids, encoder_hidden_states=seen, use_cache=False, **wanted)


def blip_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    vision, text = blip_told(network, inputs, output_hidden_states=True)
    named = {f"vision.blocks.{number}.resid_post": state for number, state in enumerate(vision.hidden_states[1:])}
    named |= {f"blocks.{number}.resid_post": state for number, state in enumerate(text.hidden_states[1:])}
    named |= {"vision.embed": vision.hidden_states[0], "vision.final_norm": vision.last_hidden_state}
    return named | {"embed": text.hidden_states[0]}


def blip_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    vision, text = blip_told(network, inputs, output_attentions=True)
    named = {f"vision.blocks.{number}.pattern": pattern for number, pattern in enumerate(vision.attentions)}
    named |= {f"blocks.{number}.pattern": pattern for number, pattern in enumerate(text.attentions)}
    return named | {f"blocks.{number}.cross_pattern": pattern for number, pattern in enumerate(text.cross_attentions)}


def blip_2_opt() -> Any:
    text = transformers.OPTConfig(
        vocab_size=10, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32,
        max_position_embeddings=40, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return blip_2(text)


def blip_2_t5() -> Any:
    return blip_2(transformers.T5Config(**GATED_T5 | {"num_layers": 2, "num_decoder_layers": 1}))


def blip_2(text: Any) -> Any:
    former = SIZES | {"hidden_size": 24, "encoder_hidden_size": 32, "num_hidden_layers": 2}
    config = transformers.Blip2Config(
        vision_config=PICTURE, qformer_config=former, text_config=text, num_query_tokens=3, image_token_index=3
    )
    return transformers.Blip2ForConditionalGeneration(config)


def instructblip(text: Any) -> Callable[[], Any]:
    def build() -> Any:
        former = SIZES | {"hidden_size": 24, "encoder_hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 10,
                          "max_position_embeddings": 20, "pad_token_id": 0}  # fmt: skip
        config = transformers.InstructBlipConfig(
            vision_config=PICTURE | {"num_hidden_layers": 2}, qformer_config=former, text_config=text,
            num_query_tokens=3, image_token_index=3,
        )  # fmt: skip
        return transformers.InstructBlipForConditionalGeneration(config)

    return build


def asking(folder: Path) -> None:
    """The Q-Former has a tokenizer of its own."""
    (folder / "qformer_tokenizer").mkdir()
    word_tokenizer(folder / "qformer_tokenizer", ends=True)


def captioned_or_not() -> list[Sample]:
    first, second = captioned()
    return [first, text_sample("one two three cat sat one"), second]


def translated_or_not() -> list[Sample]:
    """As `captioned_or_not`, with what is written of two of them."""
    first, second, third = captioned_or_not()
    return [replace(first, labels={"target": "two three sat"}), replace(second, labels={"target": "red"}), third]


def blip_2_told(network: Any, inputs: Inputs) -> Any:
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    written = {"decoder_input_ids": inputs.target.ids} if inputs.target is not None else {}
    more = {"output_hidden_states": True, "use_cache": False, **inputs.beside}
    return network(input_ids=ids, pixel_values=inputs.pixels, **more, **written).language_model_outputs


def blip_2_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = blip_2_told(network, inputs)
    vision = network.vision_model(inputs.pixels, output_hidden_states=True)
    words = {"input_ids": inputs.beside["qformer_input_ids"]} if inputs.beside else {}
    former = network.qformer(
        query_embeds=network.query_tokens, encoder_hidden_states=vision.last_hidden_state, output_hidden_states=True,
        **words,
    ).hidden_states  # fmt: skip
    former = [state[:, :3] for state in former]
    if inputs.target is None:
        text = told.hidden_states
        named = {f"blocks.{number}.resid_post": state for number, state in enumerate(text[1:-1])}
        named |= {"embed": text[0], "final_norm": text[-1]}
    else:
        named = stack("encoder", told.encoder_hidden_states) | stack("decoder", told.decoder_hidden_states)
    named |= {f"vision.blocks.{number}.resid_post": state for number, state in enumerate(vision.hidden_states[1:])}
    named |= {f"qformer.blocks.{number}.resid_post": state for number, state in enumerate(former[1:])}
    named |= {"vision.embed": vision.hidden_states[0], "vision.final_norm": vision.last_hidden_state}
    return named | {"qformer.embed": former[0]}


def blip_2_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    with Softmaxes() as seen:
        blip_2_told(network, inputs)
    names = [f"vision.blocks.{number}.pattern" for number in range(network.config.vision_config.num_hidden_layers)]
    names += ["qformer.blocks.0.pattern", "qformer.blocks.0.cross_pattern", "qformer.blocks.1.pattern"]
    if inputs.target is None:
        names += [f"blocks.{number}.pattern" for number in range(network.config.text_config.num_hidden_layers)]
    else:
        names += [f"encoder.blocks.{number}.pattern" for number in range(2)]
        names += [f"decoder.blocks.0.{site}pattern" for site in ("", "cross_")]
    # Of an InstructBLIP's Q-Former the queries, which look at words too.
    told = dict(zip(names, seen.held, strict=True))
    return {name: held[:, :, :3] if name.startswith("qformer.") else held for name, held in told.items()}


def llava(strategy: str, tower: str = "CLIP", reader: str = "Llama") -> Callable[[], Any]:
    def build() -> Any:
        text = getattr(transformers, f"{reader}Config")(**TEXT, num_key_value_heads=2)
        settings = {"projection_dim": 16} if tower == "CLIP" else {"vision_use_head": False}
        vision = getattr(transformers, f"{tower}VisionConfig")(**PICTURE, hidden_act="silu", **settings)
        config = transformers.LlavaConfig(
            text_config=text, vision_config=vision, image_token_id=3, image_token_index=3,
            vision_feature_layer=-2, vision_feature_select_strategy=strategy,
        )  # fmt: skip
        return transformers.LlavaForConditionalGeneration(config)

    return build


def llava_next() -> Any:
    text = transformers.MistralConfig(**TEXT, num_key_value_heads=2)
    vision = transformers.CLIPVisionConfig(**PICTURE, hidden_act="silu", projection_dim=16)
    config = transformers.LlavaNextConfig(
        text_config=text, vision_config=vision, image_token_id=3, image_token_index=3, vision_feature_layer=-2,
        vision_feature_select_strategy="default", image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
    )  # fmt: skip
    return transformers.LlavaNextForConditionalGeneration(config)


def llava_onevision() -> Any:
    text = transformers.Qwen2Config(**TEXT, num_key_value_heads=2)
    vision = transformers.SiglipVisionConfig(**PICTURE, hidden_act="silu", vision_use_head=False)
    config = transformers.LlavaOnevisionConfig(
        text_config=text, vision_config=vision, image_token_index=3, video_token_index=2, vision_feature_layer=-2,
        image_grid_pinpoints=[[16, 32], [32, 16], [32, 32], [64, 64]], vision_aspect_ratio="anyres_max_3",
    )  # fmt: skip
    return transformers.LlavaOnevisionForConditionalGeneration(config)


def shieldgemma2() -> Any:
    told = gemma3().config
    config = transformers.ShieldGemma2Config(
        text_config=told.text_config, vision_config=told.vision_config, mm_tokens_per_image=told.mm_tokens_per_image,
        image_token_index=3, boi_token_index=told.boi_token_id, eoi_token_index=told.eoi_token_id, yes_token_index=4,
        no_token_index=5,
    )  # fmt: skip
    return transformers.ShieldGemma2ForImageClassification(config)


def crops(folder: Path) -> None:
    """Pictures of 20 × 24 are read whole and in two crops."""
    marks(folder)
    said = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 8, "pan_and_scan_max_num_crops": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")


def crops_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    """The rows of all parts of a picture, one part after the other."""
    told = image_text_states(stacked)(network, inputs)
    return {name: x.flatten(0, 1)[None] if name.startswith("vision.") else x for name, x in told.items()}


def crops_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = image_text_patterns(stacked)(network, inputs)
    return {
        name: side_by_side(x, [(part, row) for part in range(len(x)) for row in range(x.shape[-1])])
        if name.startswith("vision.")
        else x
        for name, x in told.items()
    }


def gemma3n() -> Any:
    text = transformers.Gemma3nTextConfig(
        **GEMMA | {"vocab_size": 17, "num_hidden_layers": 3}, sliding_window=4, vocab_size_per_layer_input=10,
        hidden_size_per_layer_input=6, num_kv_shared_layers=1, laurel_rank=4, altup_num_inputs=3,
        activation_sparsity_pattern=[0.5, 0.0, 0.0],
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    )  # fmt: skip
    audio = transformers.Gemma3nAudioConfig(
        hidden_size=16, input_feat_size=12, conf_num_attention_heads=2, conf_num_hidden_layers=2, vocab_size=2,
        vocab_offset=15, sscp_conv_channel_size=[4, 2], conf_attention_chunk_size=4, conf_attention_context_left=5,
    )  # fmt: skip
    vision = {"model_type": "gemma3n_vision", "hidden_size": 8, "vocab_size": 1, "vocab_offset": 14,
              "label_names": ["a", "b"]}  # fmt: skip
    config = transformers.Gemma3nConfig(
        text_config=text, vision_config=vision, audio_config=audio, boi_token_id=10, eoi_token_id=11, boa_token_id=12,
        eoa_token_id=16, image_token_id=14, audio_token_id=15, audio_soft_tokens_per_image=6,
    )  # fmt: skip
    return without_pictures()(config)


def heard(folder: Path) -> None:
    """Its weights have a tower for pictures, too, which is not read."""
    word_tokenizer(folder, ends=False, more=[*MARKS, "<picture>", "<sound>", "<heard>"])
    file = folder / "model.safetensors"
    held = load_file(file) | {"model.vision_tower.timm_model.conv.weight": torch.zeros(3)}
    save_file(held, file, metadata={"format": "pt"})


def sounds_in_texts() -> list[Sample]:
    first, second = two_sounds()
    return [
        replace(first, text="red <sound> cat", labels={}),
        text_sample("one two three cat sat one"),
        replace(second, labels={}),
    ]


def heard_by(network: Any, inputs: Inputs, **wanted: bool) -> Any:
    ids = torch.where(inputs.ids < 0, 15, inputs.ids)
    return network(input_ids=ids, input_features=inputs.sound, **inputs.beside, **wanted)


def gemma3n_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    """The conformer's states are those that the library's blocks give, which it does not tell."""
    blocks, found = network.model.audio_tower.conformer, {}
    handles = [
        block.register_forward_hook(lambda _, __, output, at=number: found.update({at: output}))
        for number, block in enumerate(blocks)
    ]
    try:
        told = heard_by(network, inputs, output_hidden_states=True).hidden_states
    finally:
        for handle in handles:
            handle.remove()
    # Half a second of sound: 47 columns of the spectrum, of which four make a frame.
    named = {f"audio.blocks.{number}.resid_post": state[:, :13] for number, state in found.items()}
    return by_lane(told, network.config.text_config) | named


def gemma3n_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = heard_by(network, inputs, output_attentions=True).attentions
    return {f"blocks.{number}.pattern": pattern for number, pattern in enumerate(told)}


def gemma4(hears: bool = False) -> Any:
    """One that hears is smaller elsewhere."""
    layers = 2 if hears else 3
    text = transformers.Gemma4TextConfig(
        **GEMMA | {"vocab_size": 17, "num_hidden_layers": layers}, global_head_dim=12, sliding_window=4,
        use_bidirectional_attention="vision",
        hidden_size_per_layer_input=6, vocab_size_per_layer_input=17, num_kv_shared_layers=layers - 2,
        layer_types=["sliding_attention", "full_attention", "full_attention"][:layers],
    )  # fmt: skip
    vision = transformers.Gemma4VisionConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=layers - 1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, patch_size=4, pooling_kernel_size=2, position_embedding_size=32,
    )  # fmt: skip
    audio = transformers.Gemma4AudioConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, subsampling_conv_channels=[8, 8],
        attention_chunk_size=4, attention_context_left=5, output_proj_dims=20,
    )  # fmt: skip
    audio = audio if hears else None
    config = transformers.Gemma4Config(text_config=text, vision_config=vision, audio_config=audio, **GEMMA4_TOKENS)
    config.audio_token_id, config.boa_token_id, config.eoa_token_index = 15, 14, 16
    network = transformers.Gemma4ForConditionalGeneration(config)
    network.model.language_model.layers[1].layer_scalar.fill_(0.75)
    return network


def gemma4_unified() -> Any:
    text = transformers.Gemma4UnifiedTextConfig(
        **GEMMA | {"vocab_size": 17}, global_head_dim=12, sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    )  # fmt: skip
    vision = transformers.Gemma4UnifiedVisionConfig(
        patch_size=4, pooling_kernel_size=2, mm_embed_dim=24, mm_posemb_size=16, output_proj_dims=24
    )
    audio = transformers.Gemma4UnifiedAudioConfig(audio_embed_dim=640)
    config = transformers.Gemma4UnifiedConfig(
        text_config=text, vision_config=vision, audio_config=audio, **GEMMA4_TOKENS
    )
    config.audio_token_id, config.boa_token_id, config.eoa_token_index = 15, 14, 16
    return transformers.Gemma4UnifiedForConditionalGeneration(config)


def six_tokens(folder: Path) -> None:
    marks(folder)
    said = {"max_soft_tokens": 6, "patch_size": 4, "pooling_kernel_size": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")


def places_and_shapes() -> list[Sample]:
    """Pictures of two shapes, so that one is padded."""
    generator = np.random.default_rng(4)
    tall, wide = (ImageRef.of(generator.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in ((36, 15), (20, 24)))
    return [
        Sample("a", text="red <image> cat", image=tall),
        text_sample("one two three cat sat one"),
        Sample("c", text="two", image=wide),
    ]


def six_tokens_or_heard(folder: Path) -> None:
    six_tokens(folder)
    word_tokenizer(folder, ends=False, more=[*MARKS, "<begin>", "<sound>", "<heard>"])


def sounds_and_pictures() -> list[Sample]:
    first, second = two_sounds()
    tall, plain, wide = places_and_shapes()
    return [
        replace(first, text="red <sound> <image> cat", image=tall.image, labels={}),
        plain,
        replace(second, text="one", image=wide.image, labels={}),
    ]


def gemma4_sound_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    """As `gemma4_states`; the conformer's last state is made into another, so that its blocks are looked at."""
    layers, found = network.model.audio_tower.layers, {}
    handles = [
        layer.register_forward_hook(lambda _, __, output, at=number: found.update({at: output}))
        for number, layer in enumerate(layers)
    ]
    try:
        named = dict(gemma4_states(network, inputs))
    finally:
        for handle in handles:
            handle.remove()
    # Half a second of sound: 50 columns of the spectrum.
    return named | {f"audio.blocks.{number}.resid_post": state[:, :13] for number, state in found.items()}


def gemma4_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    text = whole(network, inputs, patched, output_hidden_states=True).hidden_states
    named = {f"blocks.{number}.resid_post": state for number, state in enumerate(text[1:-1])}
    named |= {"embed": text[0], "final_norm": text[-1]}
    tower, places = getattr(network.model, "vision_tower", None), inputs.beside["image_position_ids"]
    if tower is None:
        return named | {"vision.embed": network.model.embed_vision(inputs.pixels, places).last_hidden_state}
    # The last of its states is what is made of it; so many are no padding that none is told of.
    told = tower(inputs.pixels, places, output_hidden_states=True).hidden_states
    whole_tower = tower.encoder(told[0], torch.ones(told[0].shape[:2], dtype=torch.bool), pixel_position_ids=places)
    vision = [*told[:-1], whole_tower.last_hidden_state]
    named |= {f"vision.blocks.{number}.resid_post": state for number, state in enumerate(vision[1:])}
    return named | {"vision.embed": vision[0]}


def gemma4_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    text = whole(network, inputs, patched, output_attentions=True).attentions
    named = {f"blocks.{number}.pattern": pattern for number, pattern in enumerate(text)}
    if (tower := getattr(network.model, "vision_tower", None)) is None:
        return named
    vision = tower(inputs.pixels, inputs.beside["image_position_ids"], output_attentions=True).attentions
    return named | {f"vision.blocks.{number}.pattern": pattern for number, pattern in enumerate(vision)}


def sized(network: Any, inputs: Inputs) -> dict[str, Any]:
    """LLaVA-NeXT: the tiles of one picture, with its size."""
    image = inputs.samples[0].image
    assert image is not None and inputs.pixels is not None
    return {"pixel_values": inputs.pixels[None], "image_sizes": torch.tensor([image.load().shape[:2]])}


def next_places(network: Any, inputs: Inputs, leading: int) -> list[tuple[int, int]]:
    """The tile and the row there of what is recorded of a picture of 20 × 24 pixels in 2 × 2 tiles of 2 × 2 patches,
    found by the library's own way to cut off what it filled up."""
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    tile = torch.arange(1, 5).view(2, 2).repeat_interleave(2, 0).repeat_interleave(2, 1)
    place = torch.arange(4).view(2, 2).repeat(2, 2)
    size = sized(network, inputs)["image_sizes"][0]
    kept = [unpad_image(cells[None], size).flatten().tolist() for cells in (tile, place)]
    whole = [(0, row) for row in range(leading + 4)]
    inside = [(at, leading + row) for at, row in zip(*kept, strict=True)]
    beside = [(at, row) for at in range(1, 5) for row in range(leading + 4) if (at, row) not in inside]
    return [*whole, *inside, *beside]


def llava_next_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    text = whole(network, inputs, sized, output_hidden_states=True).hidden_states
    vision = network.model.vision_tower(inputs.pixels, output_hidden_states=True).hidden_states
    places = next_places(network, inputs, int(network.config.model_type == "llava_next"))
    vision = [torch.stack([state[at] for at in places])[None] for state in vision]
    named = {f"blocks.{number}.resid_post": state for number, state in enumerate(text[1:-1])}
    named |= {f"vision.blocks.{number}.resid_post": state for number, state in enumerate(vision[1:])}
    return named | {"embed": text[0], "final_norm": text[-1], "vision.embed": vision[0]}


def llava_next_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    text = whole(network, inputs, sized, output_attentions=True).attentions
    vision = network.model.vision_tower(inputs.pixels, output_attentions=True).attentions
    places = next_places(network, inputs, int(network.config.model_type == "llava_next"))
    named = {f"blocks.{number}.pattern": pattern for number, pattern in enumerate(text)}
    return named | {f"vision.blocks.{number}.pattern": side_by_side(one, places) for number, one in enumerate(vision)}


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


def gemma3() -> Any:
    text = transformers.Gemma3TextConfig(
        **GEMMA | {"vocab_size": 14}, query_pre_attn_scalar=8, sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    vision = transformers.SiglipVisionConfig(**PICTURE | {"image_size": 32}, vision_use_head=False)
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=3, boi_token_index=12,
        eoi_token_index=13,
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(config)


def idefics(name: str) -> Callable[[], Any]:
    def build() -> Any:
        text = transformers.LlamaConfig(**TEXT | {"vocab_size": 14}, num_key_value_heads=2)
        config = getattr(transformers, f"{name}Config")(
            text_config=text, vision_config=PICTURE | {"image_size": 32, "hidden_act": "silu"}, image_token_id=3,
            scale_factor=2, pad_token_id=0,
        )  # fmt: skip
        return getattr(transformers, f"{name}ForConditionalGeneration")(config)

    return build


def idefics2() -> Any:
    text = transformers.MistralConfig(**TEXT | {"vocab_size": 14}, num_key_value_heads=2)
    latents = {"resampler_n_latents": 3, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 8}
    config = transformers.Idefics2Config(
        text_config=text, vision_config=PICTURE | {"image_size": 32, "hidden_act": "silu"}, image_token_id=3,
        perceiver_config=latents | {"num_key_value_heads": 2, "hidden_act": "silu"},
    )  # fmt: skip
    return transformers.Idefics2ForConditionalGeneration(config)


def idefics1(**settings: Any) -> Callable[[], Any]:
    def build() -> Any:
        vision = {**PICTURE, "embed_dim": 24, "hidden_act": "silu"}
        del vision["hidden_size"]
        latents = {"resampler_n_latents": 3, "resampler_depth": 2, "resampler_n_heads": 2, "resampler_head_dim": 8}
        config = transformers.IdeficsConfig(
            **TEXT | {"additional_vocab_size": 4, "vision_config": vision, "alpha_initializer": "ones"} | settings,
            perceiver_config=latents | {"use_resampler": settings["use_resampler"]},
        )  # fmt: skip
        return transformers.IdeficsForVisionText2Text(config)

    return build


RESAMPLED = {"use_resampler": True, "qk_layer_norms": True, "alpha_type": "vector"}
SECOND = {"use_resampler": False, "num_hidden_layers": 4, "cross_layer_interval": 2}


def looked_at(network: Any, inputs: Inputs) -> dict[str, Any]:
    """Idefics: one picture, which positions look at from its token on."""
    assert inputs.pixels is not None
    behind = (inputs.ids < 0).cumsum(1)
    return {"pixel_values": inputs.pixels[None], "image_attention_mask": behind[..., None]}


def idefics1_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    """Of the tower and what stands between blocks, whose states the library does not give, what its modules give."""
    tower, every = network.model.vision_model, network.config.cross_layer_interval
    named, handles = dict[str, Tensor](), []
    places = {"vision.embed": tower.pre_layrnorm, "embed": network.model.embed_tokens}
    crossing = enumerate(network.model.gated_cross_attn_layers)
    places |= {f"blocks.{number * every}.cross_resid_post": layer for number, layer in crossing}
    if network.config.use_resampler:
        places["resampler.final_norm"] = network.model.perceiver_resampler
    places |= {f"vision.blocks.{number}.resid_post": layer for number, layer in enumerate(tower.encoder.layers)}
    for name, module in places.items():
        handles.append(module.register_forward_hook(lambda _, __, output, name=name: named.update({name: output})))
    text = whole(network, inputs, looked_at, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    named |= {f"blocks.{number}.resid_post": state for number, state in enumerate(text[1:-1])}
    return named | {"final_norm": text[-1]}


def idefics1_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    said = network.config
    with Softmaxes() as seen:
        whole(network, inputs, looked_at)
    names = [f"vision.blocks.{number}.pattern" for number in range(said.vision_config.num_hidden_layers)]
    depth = said.perceiver_config.resampler_depth if said.use_resampler else 0
    names += [f"resampler.blocks.{number}.pattern" for number in range(depth)]
    for number in range(said.num_hidden_layers):
        crossing = [f"blocks.{number}.cross_pattern"] if number % said.cross_layer_interval == 0 else []
        names += [*crossing, f"blocks.{number}.pattern"]
    return dict(zip(names, seen.held, strict=True))


TILES = ["<|image_start|>", "<|image_end|>", "<|image|>", "<|tile_x_separator|>", "<|tile_y_separator|>"]


def llama4() -> Any:
    text = TEXT | {
        "vocab_size": 15, "num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2,
        "intermediate_size_mlp": 40, "moe_layers": [0, 2], "attention_chunk_size": 16, "no_rope_layer_interval": 2,
    }  # fmt: skip
    vision = SIZES | {
        "image_size": 16, "patch_size": 4, "intermediate_size": 128, "projector_input_dim": 24,
        "projector_output_dim": 24, "vision_output_dim": 24,
    }  # fmt: skip
    config = transformers.Llama4Config(text_config=text, vision_config=vision, image_token_index=3)
    return transformers.Llama4ForConditionalGeneration(config)


def tile_names(folder: Path) -> None:
    word_tokenizer(folder, ends=False, more=TILES)


def of_classed(frames: int) -> list[tuple[int, int]]:
    """Llama 4: as `of_tiles`, with class tokens, which come last in a tile, behind the patches of tiles and whole."""
    held = of_tiles(frames)
    return [*held[:-16], *((tile, 16) for tile in range(frames - 1)), *held[-16:], (frames - 1, 16)]


def llama4_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    text = whole(network, inputs, stacked, output_hidden_states=True).hidden_states
    vision = network.vision_model(inputs.pixels, output_hidden_states=True).hidden_states
    vision = [torch.stack([state[at] for at in of_classed(len(state))])[None] for state in vision]
    named = {f"blocks.{number}.resid_post": state for number, state in enumerate(text[1:-1])}
    named |= {f"vision.blocks.{number}.resid_post": state for number, state in enumerate(vision[1:])}
    return named | {"embed": text[0], "final_norm": text[-1], "vision.embed": vision[0]}


def llama4_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    with Softmaxes() as seen:
        whole(network, inputs, stacked)
    vision = [side_by_side(held, of_classed(len(held))) for held in seen.held[:3]]
    named = {f"vision.blocks.{number}.pattern": held for number, held in enumerate(vision)}
    return named | {f"blocks.{number}.pattern": held for number, held in enumerate(seen.held[3:])}


def tile_side(folder: Path) -> None:
    marks(folder)
    said = {"size": {"height": 16, "width": 16}, "max_image_tiles": 4}
    (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")


def mllama() -> Any:
    text = TEXT | {"vocab_size": 14, "num_hidden_layers": 4, "num_key_value_heads": 2, "cross_attention_layers": [1, 3]}
    vision = {
        "hidden_size": 32, "num_hidden_layers": 3, "num_global_layers": 2, "attention_heads": 4,
        "intermediate_size": 48, "image_size": 16, "patch_size": 8, "hidden_act": "silu",
        "intermediate_layers_indices": [0, 1],
        "vision_output_dim": 96,
    }  # fmt: skip
    config = transformers.MllamaConfig(text_config=text, vision_config=vision, image_token_index=3)
    return transformers.MllamaForConditionalGeneration(config)


def in_canvas(network: Any, inputs: Inputs) -> dict[str, Any]:
    """Llama 3.2: a picture in four tiles; positions look at it as the library's processor says."""
    from transformers.models.mllama import processing_mllama as library

    assert inputs.pixels is not None
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)[0].tolist()
    spans = [library.get_cross_attention_token_mask(ids, 3)]
    looks = library.convert_sparse_cross_attention_mask_to_dense(spans, [[4]], 4, len(ids))
    return {
        "pixel_values": inputs.pixels[None, None], "aspect_ratio_ids": torch.tensor([[6]]),
        "aspect_ratio_mask": torch.ones(1, 1, 4).long(), "cross_attention_mask": torch.tensor(looks),
    }  # fmt: skip


def in_four_tiles(each: int) -> list[int]:
    """Of a picture of 2 × 2 tiles of 2 × 2 patches, `each` rows a tile: its patches row by row, its class tokens, and
    the rest."""
    patches = [(y // 2 * 2 + x // 2) * each + 1 + y % 2 * 2 + x % 2 for y in range(4) for x in range(4)]
    held = [*patches, *(tile * each for tile in range(4))]
    return held + [row for row in range(4 * each) if row not in held]


def mllama_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    tower, named, handles = network.model.vision_model, dict[str, Tensor](), []
    places = {f"vision.blocks.{number}.resid_post": layer for number, layer in enumerate(tower.transformer.layers)}
    places |= {
        f"vision.global.blocks.{number}.resid_post": layer
        for number, layer in enumerate(tower.global_transformer.layers)
    }
    places["vision.final_norm"] = tower.layernorm_post
    for name, module in places.items():
        keep = lambda _, __, output, name=name: named.update({name: output[:, in_four_tiles(8)]})  # noqa: E731
        handles.append(module.register_forward_hook(keep))
    text = whole(network, inputs, in_canvas, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    named |= {f"blocks.{number}.resid_post": state for number, state in enumerate(text[1:-1])}
    return named | {"embed": text[0], "final_norm": text[-1]}


def mllama_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    with Softmaxes() as seen:
        whole(network, inputs, in_canvas)
    tower = in_four_tiles(8)
    names = [f"vision.blocks.{number}.pattern" for number in range(3)]
    names += [f"vision.global.blocks.{number}.pattern" for number in range(2)]
    names += [f"blocks.{number}.{'cross_' if number in (1, 3) else ''}pattern" for number in range(4)]
    named = dict(zip(names, seen.held, strict=True))
    for name, held in named.items():
        if name.startswith("vision."):
            named[name] = held[:, :, tower][..., tower]
    return named


def quarters(folder: Path) -> None:
    """Pictures are read in quarters and then whole, each of 16 to 24 pixels a side."""
    marks(folder)
    said = {"size": {"shortest_edge": 16, "longest_edge": 24}, "do_image_splitting": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")


# Given as a copy: the library writes more into the one it gets.
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
NUMBERS = {"image_token_id": 3, "video_token_id": 9, "vision_start_token_id": 12, "vision_end_token_id": 13}


def qwen2_vl() -> Any:
    text = TEXT | {"vocab_size": 14, "num_key_value_heads": 2, "rope_parameters": dict(ROPE)}
    vision = {
        "depth": 3, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 4,
        "hidden_act": "silu",
    }  # fmt: skip
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **NUMBERS)
    return transformers.Qwen2VLForConditionalGeneration(config)


def qwen2_5_vl() -> Any:
    text = TEXT | {"vocab_size": 14, "num_key_value_heads": 2, "rope_parameters": dict(ROPE)}
    vision = {
        "depth": 3, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 48, "patch_size": 4,
        "window_size": 16, "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **NUMBERS)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl(moe: bool) -> Callable[[], Any]:
    def build() -> Any:
        name = "Qwen3VLMoe" if moe else "Qwen3VL"
        text = TEXT | {"vocab_size": 14, "num_key_value_heads": 2, "rope_parameters": dict(ROPE), "head_dim": 8}
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24} if moe else {}
        vision = {
            "depth": 3, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 48,
            "patch_size": 4, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1], "hidden_act": "silu",
        }  # fmt: skip
        config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision, **NUMBERS)
        return getattr(transformers, f"{name}ForConditionalGeneration")(config)

    return build


SPARSE = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_shared_experts": 1, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "rope_parameters": ROPE | {"partial_rotary_factor": 1.0},
}  # fmt: skip


def glm4v(name: str, kind: str = "glm4v", **settings: Any) -> Callable[[], Any]:
    def build() -> Any:
        text = TEXT | {"vocab_size": 14, "num_key_value_heads": 2, "rope_parameters": dict(ROPE),
                       "model_type": f"{kind}_text", "num_hidden_layers": 2} | settings  # fmt: skip
        vision = {
            "depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 48,
            "patch_size": 4, "image_size": 32, "model_type": f"{kind}_vision",
        }  # fmt: skip
        numbers = {
            "image_token_id": 3, "video_token_id": 9, "image_start_token_id": 12, "image_end_token_id": 13,
            "video_start_token_id": 10, "video_end_token_id": 11,
        }  # fmt: skip
        config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision, **numbers)
        return getattr(transformers, f"{name}ForConditionalGeneration")(config)

    return build


def internvl() -> Any:
    text = transformers.Qwen2Config(**TEXT | {"vocab_size": 14}, num_key_value_heads=2)
    vision = PICTURE | {"patch_size": 4, "hidden_act": "silu", "use_qk_norm": False}
    config = transformers.InternVLConfig(
        text_config=text, vision_config=vision, image_token_id=3, image_seq_length=4, tie_word_embeddings=False
    )
    return transformers.InternVLForConditionalGeneration(config)


AYA = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", *(f"TILE_{number}" for number in range(1, 5)), "TILE_GLOBAL"]


def aya_vision() -> Any:
    text = transformers.Cohere2Config(
        **TEXT | {"vocab_size": 17}, num_key_value_heads=2, head_dim=8, sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    vision = transformers.SiglipVisionConfig(
        **PICTURE | {"image_size": 16, "patch_size": 4, "hidden_act": "silu"}, vision_use_head=False
    )
    config = transformers.AyaVisionConfig(
        text_config=text, vision_config=vision, image_token_index=3, alignment_intermediate_size=40,
        tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.AyaVisionForConditionalGeneration(config)


def named_tiles(folder: Path) -> None:
    several_tiles(folder)
    word_tokenizer(folder, ends=False, more=AYA)


def several_tiles(folder: Path) -> None:
    """Pictures of 20 × 24: two tiles down and two across, and the whole."""
    word_tokenizer(folder, ends=False, more=["<img>", "</img>"])
    said = {"size": {"height": 16, "width": 16}, "min_patches": 2, "max_patches": 4}
    (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")


def internvl_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    """A picture's tiles stand one after the other, each with a class token of its own."""
    text = whole(network, inputs, stacked, output_hidden_states=True).hidden_states
    vision = network.model.vision_tower(inputs.pixels, output_hidden_states=True).hidden_states
    named = {f"blocks.{number}.resid_post": state for number, state in enumerate(text[1:-1])}
    first, *others = (state.flatten(0, 1)[None] for state in vision)
    named |= {f"vision.blocks.{number}.resid_post": state for number, state in enumerate(others)}
    return named | {"embed": text[0], "final_norm": text[-1], "vision.embed": first}


def internvl_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    text = whole(network, inputs, stacked, output_attentions=True).attentions
    vision = network.model.vision_tower(inputs.pixels, output_attentions=True).attentions
    places = [(tile, row) for tile in range(len(vision[0])) for row in range(vision[0].shape[-1])]
    named = {f"blocks.{number}.pattern": pattern for number, pattern in enumerate(text)}
    return named | {f"vision.blocks.{number}.pattern": side_by_side(one, places) for number, one in enumerate(vision)}


def mistral3() -> Any:
    text = transformers.MistralConfig(**TEXT | {"vocab_size": 14}, num_key_value_heads=2)
    vision = transformers.PixtralVisionConfig(**SIZES, image_size=32, patch_size=4, hidden_act="silu")
    config = transformers.Mistral3Config(
        text_config=text, vision_config=vision, image_token_index=3, spatial_merge_size=2, tie_word_embeddings=False
    )
    return transformers.Mistral3ForConditionalGeneration(config)


def lighton_ocr() -> Any:
    text = transformers.Qwen3Config(**TEXT | {"vocab_size": 14}, num_key_value_heads=2, head_dim=8)
    vision = transformers.PixtralVisionConfig(**SIZES, image_size=32, patch_size=4, hidden_act="silu")
    config = transformers.LightOnOcrConfig(
        text_config=text, vision_config=vision, image_token_id=3, spatial_merge_size=2, tie_word_embeddings=False
    )
    return transformers.LightOnOcrForConditionalGeneration(config)


def in_lines(folder: Path) -> None:
    """Pictures of 20 × 24: three lines of three tokens."""
    word_tokenizer(folder, ends=False, more=["[IMG_BREAK]", "[IMG_END]"])
    said = {"size": {"longest_edge": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")


def with_sizes(network: Any, inputs: Inputs) -> dict[str, Any]:
    return {"pixel_values": inputs.pixels, **inputs.beside}


def qwen3_5(moe: bool) -> Callable[[], Any]:
    def build() -> Any:
        name = "Qwen3_5Moe" if moe else "Qwen3_5"
        text = TEXT | {"vocab_size": 14, "num_key_value_heads": 2, "rope_parameters": dict(ROPE)} | DELTA
        text |= EXPERTS | {"shared_expert_intermediate_size": 24} if moe else {}
        vision = {
            "depth": 3, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 48,
            "patch_size": 4, "num_position_embeddings": 64, "hidden_act": "silu",
        }  # fmt: skip
        config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision, **NUMBERS)
        return getattr(transformers, f"{name}ForConditionalGeneration")(config)

    return build


def qwen_files(folder: Path) -> None:
    marks(folder)
    # Pictures of 20 × 24: 4 × 6 patches, 2 × 3 tokens, and two windows of Qwen2.5-VL's.
    said = {"min_pixels": 64, "max_pixels": 32 * 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")


Given = Callable[[Any, Inputs], dict[str, Any]]
"""What the library's forward pass, and its reading of pictures, are called with for one sample."""


def stacked(network: Any, inputs: Inputs) -> dict[str, Any]:
    return {"pixel_values": inputs.pixels}


def in_lists(network: Any, inputs: Inputs) -> dict[str, Any]:
    """Idefics: some pictures, or tiles of one, a sample."""
    assert inputs.pixels is not None
    return {"pixel_values": inputs.pixels[None]}


def in_parts(network: Any, inputs: Inputs) -> dict[str, Any]:
    """Idefics2: parts of one picture, as the library's own processor makes them."""
    from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

    image = inputs.samples[0].image
    assert image is not None
    size = {"shortest_edge": 16, "longest_edge": 24}
    make = Idefics2ImageProcessorPil(size=size, do_image_splitting=True)
    return dict(make(images=[[image.load()]], return_tensors="pt").items())


def of_parts(network: Any, inputs: Inputs) -> list[tuple[int, int]]:
    """Idefics2: the part and the patch there of each patch that is no padding."""
    mask = in_parts(network, inputs)["pixel_attention_mask"][0]
    held = mask.unfold(1, 8, 8).unfold(2, 8, 8).all(-1).all(-1).flatten(1)
    return [(part, place) for part, place in held.nonzero().tolist()]


def patched(network: Any, inputs: Inputs) -> dict[str, Any]:
    """Qwen: patches of all pictures in turn, which tests compare with those of the library's own processor."""
    return {"pixel_values": inputs.pixels, **inputs.beside}


def whole(network: Any, inputs: Inputs, given: Given, **wanted: bool) -> Any:
    """The library's forward pass over one sample with a picture."""
    ids = torch.where(inputs.ids < 0, 3, inputs.ids).masked_fill(inputs.kind == int(PositionKind.AUDIO), 15)
    more = {"mm_token_type_ids": (ids == 3).int()} if given is patched else {}
    more |= {} if inputs.sound is None else {"input_features": inputs.sound}
    more |= {"token_type_ids": torch.zeros_like(ids)} if network.config.model_type == "paligemma" else {}
    more |= {"token_type_ids": (ids == 3).long()} if network.config.model_type in ("gemma3", "shieldgemma2") else {}
    return network(input_ids=ids, attention_mask=torch.ones_like(ids), **given(network, inputs), **more, **wanted)


def in_rows(network: Any, inputs: Inputs) -> Tensor:
    """Where the library's tower has each patch, found by sending numbers in the place of colours through its code."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.vision_utils import get_vision_window_index

    _, high, wide = inputs.beside["image_grid_thw"][0].tolist()
    numbers = torch.arange(1.0 * high * wide).reshape(1, high, wide)
    numbers = numbers.repeat_interleave(4, 1).repeat_interleave(4, 2).expand(3, -1, -1)
    sent, rows, columns = Qwen2VLImageProcessorPil().patchify(numbers.numpy(), 4, 2, 2)
    held = torch.tensor(sent[:, 0]).long()
    if network.config.model_type == "qwen2_5_vl":
        window, _ = get_vision_window_index(torch.tensor([[1, rows, columns]]), 2, 16, 4)
        held = held.reshape(-1, 4)[window].flatten()
    return held.argsort()


def of_tiles(frames: int) -> list[tuple[int, int]]:
    """Idefics, whose tiles have 4 × 4 patches, two tiles a side: the tile and the patch there of each of a picture's
    patches, row by row, and then those of the whole."""
    if frames == 1:
        return [(0, place) for place in range(16)]
    tiled = [(y // 4 * 2 + x // 4, y % 4 * 4 + x % 4) for y in range(8) for x in range(8)]
    return [*tiled, *((4, place) for place in range(16))]


def image_text_states(given: Given) -> Callable[[Any, Inputs], Mapping[str, Tensor]]:
    def states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
        text = whole(network, inputs, given, output_hidden_states=True).hidden_states
        vision = network.model.get_image_features(**given(network, inputs), output_hidden_states=True).hidden_states
        if given is patched:
            # GLM's tower gives its last state after squares of patches are joined.
            rows = in_rows(network, inputs)
            vision = [state[rows if len(state) == len(rows) else slice(None)][None] for state in vision]
        if given is in_parts:
            vision = [torch.stack([state[at] for at in of_parts(network, inputs)])[None] for state in vision]
        if given is in_lists:
            vision = [torch.stack([state[at] for at in of_tiles(len(state))])[None] for state in vision]
        named = {f"blocks.{number}.resid_post": state for number, state in enumerate(text[1:-1])}
        # Qwen's tower gives its last state after the merger, the others before any norm.
        last = len(vision) - 1 if given is patched else len(vision)
        named |= {f"vision.blocks.{number}.resid_post": state for number, state in enumerate(vision[1:last])}
        return named | {"embed": text[0], "final_norm": text[-1], "vision.embed": vision[0]}

    return states


def image_text_patterns(given: Given) -> Callable[[Any, Inputs], Mapping[str, Tensor]]:
    def patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
        text = whole(network, inputs, given, output_attentions=True).attentions
        kinds = getattr(network.config.text_config, "layer_types", None) or [""] * len(text)
        attending = [number for number, kind in enumerate(kinds) if kind != "linear_attention"]
        named = {f"blocks.{number}.pattern": pattern for number, pattern in zip(attending, text, strict=True)}
        if given is patched:
            return named | qwen_tower_patterns(network, inputs)
        vision = network.model.get_image_features(**given(network, inputs), output_attentions=True).attentions
        if given is in_lists:
            vision = [side_by_side(pattern, of_tiles(len(pattern))) for pattern in vision]
        if given is in_parts:
            named |= latents_patterns(network, inputs, len(vision))
            vision = [side_by_side(pattern, of_parts(network, inputs)) for pattern in vision]
        return named | {f"vision.blocks.{number}.pattern": pattern for number, pattern in enumerate(vision)}

    return patterns


def latents_patterns(network: Any, inputs: Inputs, before: int) -> Mapping[str, Tensor]:
    """Idefics2: the softmaxes of the resampler, which come after those of the tower; of the patches that a part's
    latents look at without padding, and behind them of the latents."""
    with Softmaxes() as seen:
        network.model.get_image_features(**in_parts(network, inputs))
    places, named = of_parts(network, inputs), {}
    for number, held in enumerate(seen.held[before:]):
        latents, patches = held.shape[2], held.shape[3] - held.shape[2]
        parts = [
            torch.cat([held[part][:, :, [place for at, place in places if at == part]], held[part][:, :, patches:]], -1)
            for part in range(len(held))
        ]
        whole = torch.stack([torch.block_diag(*heads) for heads in zip(*parts, strict=True)])
        assert whole.shape[1] == len(held) * latents
        named[f"resampler.blocks.{number}.pattern"] = whole[None]
    return named


def qwen_tower_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    """The library's tower has a pattern for each picture or window, which it does not give: the softmaxes of its plain
    attention, in the order of its patches."""
    with Softmaxes() as seen:
        network.model.get_image_features(**patched(network, inputs))
    named, order, number = {}, in_rows(network, inputs), 0
    while seen.held:
        parts: list[Tensor] = []
        while sum(part.shape[-1] for part in parts) < len(order):
            parts.append(seen.held.pop(0)[0])
        whole = torch.stack([torch.block_diag(*heads) for heads in zip(*parts, strict=True)])
        named[f"vision.blocks.{number}.pattern"] = whole[:, order][:, :, order][None]
        number += 1
    return named


def side_by_side(pattern: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
    """The patterns [tiles, head, patches, patches] of one picture as one."""
    found = pattern.new_zeros(1, pattern.shape[1], len(places), len(places))
    for i, (tile, query) in enumerate(places):
        for j, (other, key) in enumerate(places):
            if tile == other:
                found[0, :, i, j] = pattern[tile, :, query, key]
    return found


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
        "metaclip_2", metaclip_2, samples=captioned, ends=True, states=tower_states, patterns=tower_patterns,
        activation="quick_gelu", lacks=PAIRS, unread=("vision.",),
    ),
    Tiny(
        "chinese_clip", chinese_clip, samples=captioned, ends=True, states=tower_states, patterns=tower_patterns,
        activation="gelu", others={"vision.": "quick_gelu"}, lacks=PAIRS, unread=("vision.",), normed=("blocks.",),
    ),
    Tiny(
        "clipseg", clipseg, samples=captioned, ends=True, states=clipseg_states, patterns=clipseg_patterns,
        activation="quick_gelu", lacks=PAIRS, unread=("vision.",), finish=resized(24),
        remark="what makes segments has no hook points",
    ),
    Tiny(
        "owlvit", owlvit, samples=captioned, ends=True, states=owlvit_states, patterns=owlvit_patterns,
        activation="quick_gelu", lacks=SEES | {"unembedding": "its classes are told of every patch"},
        unread=("vision.",), remark="boxes and classes have no hook points",
    ),
    Tiny(
        "siglip", siglip, samples=captioned, ends=True, states=tower_states, patterns=tower_patterns,
        activation="gelu_pytorch_tanh", lacks=PAIRS, unread=("vision.",), others=SIGLIP_POOL,
    ),
    Tiny(
        "siglip2", siglip2, samples=captioned_shapes, ends=True, states=tower_states, patterns=tower_patterns,
        activation="gelu_pytorch_tanh", lacks=PAIRS, unread=("vision.",), others=SIGLIP_POOL, finish=six_patches,
        remark="pictures keep their shape (NaFlex); at fixed sizes its model_type is siglip",
    ),
    Tiny(
        "clap", clap(False), samples=told_sounds, ends=True, states=clap_states, patterns=clap_patterns,
        activation="gelu", lacks=SOUND_FITS, finish=one_second(False), normed=("blocks.",), unread=("audio.",),
        remark="positions of sounds are patches of a spectrum that is cut into stretches",
    ),
    Tiny(
        "clap fused", clap(True), samples=told_sounds, ends=True, states=clap_states, patterns=clap_patterns,
        activation="gelu", lacks=SOUND_FITS, finish=one_second(True), normed=("blocks.",), unread=("audio.",),
        remark="as clap; nothing of longer sounds is joined",
    ),
    Tiny(
        "qwen2_audio", qwen2_audio, samples=sounds_or_not, states=qwen2_audio_states, patterns=qwen2_audio_patterns,
        lacks=PLAIN, others={"audio.": "gelu"}, finish=sound_names,
        remark="a tower built like Whisper's, two of whose frames become one token of the text",
    ),
    Tiny(
        "blip", blip, samples=captioned, ends=True, states=blip_states, patterns=blip_patterns, activation="gelu",
        lacks=PLAIN | {"unembedding": NO_HEAD}, normed=("blocks.",),
        remark="every block of the text looks at the patches",
    ),
    Tiny(
        "blip-2", blip_2_opt, samples=captioned_or_not, states=blip_2_states, patterns=blip_2_patterns, lacks=PLAIN,
        activation="relu", others={"vision.": "gelu", "qformer.": "gelu"}, normed=("qformer.",),
        remark="a few queries read the picture in blocks of their own, which have a norm after each sum",
    ),
    Tiny(
        "blip-2 t5", blip_2_t5, samples=translated_or_not, ends=True, states=blip_2_states, patterns=blip_2_patterns,
        lacks=PLAIN, activation="gelu_new", others={"vision.": "gelu", "qformer.": "gelu"}, normed=("qformer.",),
        remark="as blip-2; a T5 reads the queries and the text, and writes",
    ),
    Tiny(
        "instructblip",
        instructblip(transformers.LlamaConfig(**TEXT | {"num_hidden_layers": 2}, num_key_value_heads=2)), finish=asking,
        samples=captioned_or_not, states=blip_2_states, patterns=blip_2_patterns, lacks=PLAIN, normed=("qformer.",),
        others={"vision.": "gelu", "qformer.": "gelu"},
        remark="as blip-2; the queries also look at the words, whose keys and values stand behind theirs",
    ),
    Tiny(
        "instructblip t5",
        instructblip(transformers.T5Config(**GATED_T5 | {"num_layers": 2, "num_decoder_layers": 1})), finish=asking,
        samples=translated_or_not, ends=True, states=blip_2_states, patterns=blip_2_patterns, lacks=PLAIN,
        activation="gelu_new", others={"vision.": "gelu", "qformer.": "gelu"}, normed=("qformer.",),
        remark="as instructblip and blip-2 t5",
    ),
    Tiny(
        "llava", llava("default"), samples=with_places, states=llava_states, patterns=llava_patterns,
        lacks=READS, unread=("vision.blocks.2.",),
    ),
    Tiny(
        "llava full", llava("full"), samples=with_places, states=llava_states, patterns=llava_patterns,
        lacks=READS, unread=("vision.blocks.2.",),
    ),
    Tiny(
        "llava with siglip", llava("full", "Siglip", "Qwen2"), samples=with_places, states=llava_states,
        patterns=llava_patterns, lacks=READS, unread=("vision.blocks.2.", "vision.final_norm"),
    ),
    Tiny(
        "llava_next", llava_next, samples=with_places, states=llava_next_states, patterns=llava_next_patterns,
        lacks=READS, unread=("vision.blocks.2.",), remark="a picture is read whole and in tiles",
    ),
    Tiny(
        "llava_onevision", llava_onevision, samples=with_places, states=llava_next_states,
        patterns=llava_next_patterns, lacks=READS, unread=("vision.blocks.2.", "vision.final_norm"),
        remark="as llava_next; many tokens are resampled to fewer",
    ),
    image_text(
        "paligemma", paligemma(transformers.GemmaConfig), stacked, activation="gelu_pytorch_tanh", lacks=READS
    ),
    image_text(
        "paligemma 2", paligemma(transformers.Gemma2Config), stacked, activation="gelu_pytorch_tanh", lacks=READS
    ),
    image_text(
        "gemma3", gemma3, stacked, activation="gelu_pytorch_tanh", lacks=READS, finish=marks,
        remark="squares of the tower's patches are averaged to a token",
    ),
    Tiny(
        "gemma3 crops", gemma3, with_places, states=crops_states, patterns=crops_patterns, finish=crops, lacks=READS,
        activation="gelu_pytorch_tanh", remark="long pictures are read whole and in crops (pan and scan)",
    ),
    Tiny(
        "shieldgemma2", shieldgemma2, with_places, finish=marks, lacks=READS, activation="gelu_pytorch_tanh",
        states=lambda network, inputs: image_text_states(stacked)(network.model, inputs),
        patterns=lambda network, inputs: image_text_patterns(stacked)(network.model, inputs),
        remark="a Gemma 3, whose logits are those of its language model",
    ),
    Tiny(
        "gemma3n", gemma3n, sounds_in_texts, states=gemma3n_states, patterns=gemma3n_patterns, sums=mixed_sums,
        written=2**-0.5, activation="gelu_pytorch_tanh", others={"audio.": "silu"}, normed=("audio.",), lacks=READS,
        finish=heard, remark="with sounds, of which a conformer makes tokens; pictures are not read",
    ),
    Tiny(
        "gemma4", gemma4, places_and_shapes, states=gemma4_states, patterns=gemma4_patterns, sums=scaled_sums,
        activation="gelu_pytorch_tanh", lacks=READS, finish=six_tokens,
        remark="pictures keep their shape; squares of the tower's patches are averaged to a token",
    ),
    Tiny(
        "gemma4 with sounds", functools.partial(gemma4, hears=True), sounds_and_pictures, states=gemma4_sound_states,
        patterns=gemma4_patterns, sums=scaled_sums, activation="gelu_pytorch_tanh", others={"audio.": "silu"},
        normed=("audio.",), lacks=READS, finish=six_tokens_or_heard,
        remark="as gemma4; a conformer makes tokens of sounds",
    ),
    Tiny(
        "gemma4_unified", gemma4_unified, sounds_and_pictures, states=gemma4_states, patterns=gemma4_patterns,
        sums=scaled_sums, activation="gelu_pytorch_tanh", lacks=READS, finish=six_tokens_or_heard,
        remark="it has no towers: patches and pieces of sound go through one linear layer",
    ),
    Tiny(
        "idefics", idefics1(**RESAMPLED), samples=with_places, states=idefics1_states, patterns=idefics1_patterns,
        lacks=PLAIN, finish=marks, others={"resampler.": "relu"},
        remark="gated blocks before a block look at latents of the pictures; their hook points are the block's cross_…",
    ),
    Tiny(
        "idefics second blocks", idefics1(**SECOND), samples=with_places, states=idefics1_states,
        patterns=idefics1_patterns, lacks=PLAIN, finish=marks,
        remark="as idefics, without latents, before every second block",
    ),
    Tiny(
        "mllama", mllama, samples=with_places, states=mllama_states, patterns=mllama_patterns, lacks=PLAIN,
        finish=tile_side,
        remark="some blocks look at pictures in the place of the text before; pictures are read in tiles",
    ),
    Tiny(
        "llama4", llama4, samples=with_places, states=llama4_states, patterns=llama4_patterns,
        lacks={"given": ALL_RUN, "linearised": PLAIN["linearised"]}, finish=tile_names, reads_weighted=True,
        others={"vision.": "gelu"}, remark="a picture is read in tiles, each with a class token, and whole",
    ),
    image_text(
        "idefics2", idefics2, in_parts, finish=quarters, others={"projector.": "silu"},
        remark="its picture's tokens are latents, which are no places in the picture",
    ),
    image_text("idefics3", idefics("Idefics3"), in_lists, finish=whole_pictures),
    image_text("smolvlm", idefics("SmolVLM"), in_lists, finish=tiles),
    Tiny(
        "internvl", internvl, samples=with_places, states=internvl_states, patterns=internvl_patterns, lacks=READS,
        finish=several_tiles, remark="a picture is read in tiles, each with a class token, and whole",
    ),
    Tiny(
        "aya_vision", aya_vision, samples=with_places, states=internvl_states, patterns=internvl_patterns,
        lacks=READS | {"linearised": PLAIN["linearised"]}, finish=named_tiles, others={"projector.": "silu"},
        unread=("vision.final_norm",), remark="a picture is read in tiles, and whole",
    ),
    image_text("mistral3", mistral3, with_sizes, finish=in_lines),
    image_text("lighton_ocr", lighton_ocr, with_sizes, finish=in_lines),
    image_text("qwen2_vl", qwen2_vl, patched, finish=qwen_files),
    image_text("qwen2_5_vl", qwen2_5_vl, patched, finish=qwen_files),
    image_text(
        "glm4v", glm4v("Glm4v"), patched, finish=qwen_files, others={"projector.": "silu"},
        lacks=READS | {"linearised": PLAIN["linearised"]},
    ),
    image_text(
        "glm46v", glm4v("Glm46V"), patched, finish=qwen_files, others={"projector.": "silu"},
        lacks=READS | {"linearised": PLAIN["linearised"]},
    ),
    image_text(
        "glm4v_moe", glm4v("Glm4vMoe", "glm4v_moe", **SPARSE), patched, finish=qwen_files,
        others={"projector.": "silu"},
        lacks={"given": ALL_RUN, "linearised": PLAIN["linearised"]},
        remark="mixtures of experts after the first blocks",
    ),
    image_text(
        "glm_ocr", glm4v("GlmOcr", "glm_ocr"), patched, finish=qwen_files, others={"projector.": "silu"},
        lacks=READS | {"linearised": PLAIN["linearised"]},
    ),
    image_text(
        "qwen3_vl", qwen3_vl(False), patched, finish=qwen_files, lacks=READS | {"linearised": AGAIN},
        remark="deeper states of the tower are added after the first blocks",
    ),
    image_text(
        "qwen3_vl_moe", qwen3_vl(True), patched, finish=qwen_files,
        lacks={"given": ALL_RUN, "linearised": AGAIN}, remark="as qwen3_vl",
    ),
    image_text(
        "qwen3_5", qwen3_5(False), patched, finish=qwen_files, lacks=READS | {"linearised": NO_DELTA},
        remark="blocks without attention mix positions by a gated delta rule",
    ),
    image_text(
        "qwen3_5_moe", qwen3_5(True), patched, finish=qwen_files, lacks={"given": ALL_RUN, "linearised": NO_DELTA},
        remark="as qwen3_5",
    ),
)  # fmt: skip
