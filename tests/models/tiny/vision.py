"""Networks over pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from auditor.data import ImageRef, Sample
from auditor.models import Inputs
from tests.models.tiny.entry import SIZES, Softmaxes, Tiny, arguments, two_images

PICTURE = SIZES | {"image_size": 16, "patch_size": 8}
SIGLIP_POOL = {"vision.pool.": "gelu_pytorch_tanh"}
POOLED = "its classes are read off one vector, not off every position"
ONE = "linearised runs are of language models"
DENSE = "it is no mixture of experts"
MAPS = "its hook points are maps, without attention"
BRANCHES = "its blocks' branches are no hook points"
ALL_RUN = "its blocks are always all run"
SEES = {"linearised": ONE, "experts": DENSE, "given": ALL_RUN}
HEADLESS = SEES | {"unembedding": "it has no head"}
CLASSES = SEES | {"unembedding": POOLED}
CONVOLUTIONS = CLASSES | {"sums": BRANCHES, "mlp": BRANCHES, "pattern": MAPS, "heads": MAPS, "frozen": MAPS}


def pictures() -> list[Sample]:
    return [Sample(f"image {number}", image=image) for number, image in enumerate(two_images())]


def resized(side: int) -> Callable[[Path], None]:
    """Writes a processor config that makes every picture `side` pixels wide and high, whatever the family does."""

    def write(folder: Path) -> None:
        said = {"size": {"height": side, "width": side}, "do_center_crop": False, "crop_pct": None, "resample": 3}
        (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")

    return write


def vit() -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**PICTURE, num_labels=4))


def vit_msn() -> Any:
    return transformers.ViTMSNForImageClassification(transformers.ViTMSNConfig(**PICTURE, num_labels=4))


def vit_mae() -> Any:
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    return transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(**PICTURE, **decoder, decoder_intermediate_size=16)
    )


def unmasked(network: Any, inputs: Inputs, **wanted: bool) -> Any:
    """What the library says where nothing is masked, and patches are not shuffled."""
    network.config.mask_ratio = 0.0
    return network.vit(inputs.pixels, noise=torch.arange(4.0)[None], **wanted)


def unmasked_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = unmasked(network, inputs, output_hidden_states=True).hidden_states
    return {"vision.embed": told[0]} | {f"vision.blocks.{n}.resid_post": state for n, state in enumerate(told[1:-1])}


def unmasked_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = unmasked(network, inputs, output_attentions=True).attentions
    return {f"vision.blocks.{number}.pattern": pattern for number, pattern in enumerate(told)}


def ijepa() -> Any:
    return transformers.IJepaForImageClassification(transformers.IJepaConfig(**PICTURE, num_labels=4))


def deit() -> Any:
    return transformers.DeiTForImageClassification(transformers.DeiTConfig(**PICTURE, num_labels=4))


def beit() -> Any:
    config = transformers.BeitConfig(
        **PICTURE, num_labels=4, use_absolute_position_embeddings=True, use_relative_position_bias=True
    )
    return transformers.BeitForImageClassification(config)


def dinov2(gated: bool) -> Callable[[], Any]:
    def build() -> Any:
        sizes = {name: value for name, value in PICTURE.items() if name != "intermediate_size"}
        config = transformers.Dinov2Config(**sizes, num_labels=4, mlp_ratio=2, use_swiglu_ffn=gated)
        return transformers.Dinov2ForImageClassification(config)

    return build


def dinov2_with_registers() -> Any:
    sizes = {name: value for name, value in PICTURE.items() if name != "intermediate_size"}
    config = transformers.Dinov2WithRegistersConfig(**sizes, mlp_ratio=2, num_register_tokens=3)
    return transformers.Dinov2WithRegistersModel(config)


def dinov3(gated: bool) -> Callable[[], Any]:
    def build() -> Any:
        config = transformers.DINOv3ViTConfig(**PICTURE, num_register_tokens=2, use_gated_mlp=gated)
        return transformers.DINOv3ViTModel(config)

    return build


def swin(name: str) -> Callable[[], Any]:
    def build() -> Any:
        config = getattr(transformers, f"{name}Config")(
            image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, mlp_ratio=2.0,
            num_labels=4,
        )  # fmt: skip
        return getattr(transformers, f"{name}ForImageClassification")(config)

    return build


def segformer(head: str) -> Callable[[], Any]:
    def build() -> Any:
        config = transformers.SegformerConfig(
            num_encoder_blocks=2, depths=[2, 1], hidden_sizes=[16, 32], num_attention_heads=[2, 4], sr_ratios=[2, 1],
            patch_sizes=[7, 3], strides=[4, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, num_labels=4,
        )  # fmt: skip
        return getattr(transformers, f"SegformerFor{head}")(config)

    return build


def segformer_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    """The library has maps behind the norm at each stage's end, of which the last is a hook point, and their input."""
    first, last = network.segformer(inputs.pixels, output_hidden_states=True).hidden_states
    norms, held = [stage.layer_norm for stage in network.segformer.stages], []
    handles = [norm.register_forward_hook(lambda *call: held.append((call[1][0], call[2]))) for norm in norms]
    network.segformer(inputs.pixels)
    for handle in handles:
        handle.remove()
    for (_, normed), told in zip(held, (first, last), strict=True):
        assert torch.equal(normed, told.flatten(2).transpose(1, 2))
    return {"vision.blocks.1.resid_post": held[0][0], "vision.blocks.2.resid_post": held[1][0],
            "vision.final_norm": held[1][1]}  # fmt: skip


SAM = {key: value for key, value in PICTURE.items() if key != "intermediate_size"} | {
    "image_size": 32, "patch_size": 4, "mlp_dim": 48, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 8,
    "output_channels": 16,
}  # fmt: skip


def sam(name: str) -> Callable[[], Any]:
    def build() -> Any:
        prompts = {"hidden_size": 16, "image_size": 32, "patch_size": 4, "mask_input_channels": 4}
        masks = {"hidden_size": 16, "mlp_dim": 24, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
        masks |= {"vit_dim": 32} if name == "SamHQ" else {}
        config = getattr(transformers, f"{name}Config")(
            vision_config=SAM, prompt_encoder_config=prompts, mask_decoder_config=masks
        )
        return getattr(transformers, f"{name}Model")(config)

    return build


def sam_vision(name: str) -> Callable[[], Any]:
    return lambda: getattr(transformers, f"{name}VisionModel")(getattr(transformers, f"{name}VisionConfig")(**SAM))


def sam_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = network.vision_encoder(inputs.pixels, output_hidden_states=True)
    named = {f"vision.blocks.{number}.resid_post": state for number, state in enumerate(told.hidden_states[1:])}
    named = {name: state.flatten(1, 2) for name, state in named.items()}
    return named | {"vision.neck": told.last_hidden_state.permute(0, 2, 3, 1)}


def sam_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    """The plain attention is another class of the library's; windows are found by sending numbers of patches."""
    told, named, layers = [], {}, network.vision_encoder.layers
    kinds = [type(layer.attn) for layer in layers]
    for layer in layers:
        layer.attn.__class__ = type(layer.attn).__bases__[0]
    handles = [layer.attn.register_forward_hook(lambda *call: told.append(call[2][1])) for layer in layers]
    network.vision_encoder(inputs.pixels)
    for layer, kind, handle in zip(layers, kinds, handles, strict=True):
        layer.attn.__class__ = kind
        handle.remove()
    cells = torch.arange(64.0).view(1, 8, 8, 1)
    for number, (layer, windows) in enumerate(zip(layers, told, strict=True)):
        held = layer.window_partition(cells, layer.window_size)[0] if layer.window_size else cells
        whole = torch.zeros(1, 4, 64, 64)
        for patches, pattern in zip(held.flatten(1).long(), windows.unflatten(0, (-1, 4)), strict=True):
            whole[0][:, patches[:, None], patches] = pattern
        named[f"vision.blocks.{number}.pattern"] = whole
    return named


HIERA = {
    "hidden_size": 16, "image_size": [64, 64], "blocks_per_stage": [1, 2, 2, 1],
    "embed_dim_per_stage": [16, 24, 32, 40],
    "num_attention_heads_per_stage": [2, 2, 4, 4], "window_size_per_stage": [4, 2, 4, 2], "num_attention_heads": 2,
    "global_attention_blocks": [4], "mlp_ratio": 2.0, "window_positional_embedding_background_size": [4, 4],
}  # fmt: skip


def sam2_vision() -> Any:
    return transformers.Sam2VisionModel(sam2_config())


def sam2_config() -> Any:
    return transformers.Sam2VisionConfig(
        backbone_config=transformers.Sam2HieraDetConfig(**HIERA), backbone_channel_list=[40, 32, 24, 16],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]], fpn_hidden_size=16,
    )  # fmt: skip


def sam2(name: str) -> Callable[[], Any]:
    def build() -> Any:
        prompts = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
        masks = {"hidden_size": 16, "mlp_dim": 24, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
        video = {
            "image_size": 64, "memory_attention_hidden_size": 16, "memory_attention_num_layers": 1,
            "memory_attention_feed_forward_hidden_size": 16, "memory_encoder_hidden_size": 16,
            "memory_encoder_output_channels": 8, "mask_downsampler_embed_dim": 16, "memory_fuser_embed_dim": 16,
            "memory_fuser_intermediate_dim": 16, "memory_fuser_num_layers": 1,
        }  # fmt: skip
        config = getattr(transformers, f"{name}Config")(
            vision_config=sam2_config(), prompt_encoder_config=prompts, mask_decoder_config=masks,
            **(video if name == "Sam2Video" else {}),
        )  # fmt: skip
        return getattr(transformers, f"{name}Model")(config)

    return build


def hiera_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    tower = getattr(network, "vision_encoder", network)
    told = tower(inputs.pixels, output_hidden_states=True)
    first, *others = tower.backbone(inputs.pixels, output_hidden_states=True).hidden_states
    named = {f"vision.blocks.{number}.resid_post": state.flatten(1, 2) for number, state in enumerate(others)}
    neck = told.fpn_hidden_states[-1].permute(0, 2, 3, 1)
    return named | {"vision.embed": first.flatten(1, 2), "vision.neck": neck}


def hiera_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    """Of the blocks that do not pool their queries; windows are found by sending numbers of patches."""
    from transformers.models.sam2.modeling_sam2 import window_partition

    tower, named = getattr(network, "vision_encoder", network).backbone, dict[str, Tensor]()
    sides = [16, 8, 8, 4, 4, 2]
    with Softmaxes() as seen:
        tower(inputs.pixels)
    # Each block computes another softmax first, of which nothing is made.
    for number, (layer, windows) in enumerate(zip(tower.blocks, seen.held[1::2], strict=True)):
        if layer.query_stride:
            continue
        side = sides[number]
        cells = torch.arange(float(side**2)).view(1, side, side, 1)
        held = window_partition(cells, layer.window_size)[0] if layer.window_size else cells
        whole = torch.zeros(1, windows.shape[1], side**2, side**2)
        for patches, pattern in zip(held.flatten(1).long(), windows, strict=True):
            whole[0][:, patches[:, None], patches] = pattern
        named[f"vision.blocks.{number}.pattern"] = whole
    return named


def clip_vision() -> Any:
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**PICTURE))


def clip_vision_projected() -> Any:
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**PICTURE, projection_dim=16))


def metaclip_2_vision() -> Any:
    config = transformers.MetaClip2VisionConfig(**PICTURE, projection_dim=16)
    return transformers.MetaClip2VisionModelWithProjection(config)


def aimv2_vision() -> Any:
    return transformers.Aimv2VisionModel(transformers.Aimv2VisionConfig(**PICTURE))


def siglip_vision() -> Any:
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**PICTURE))


def pooling(tower: Any, told: Any) -> dict[str, Tensor]:
    """Of SigLIP's head, what torch's own attention says of each of its heads."""
    if not hasattr(tower, "head"):
        return {}
    x = told.last_hidden_state
    probe = tower.head.probe.repeat(len(x), 1, 1)
    return {"vision.pool.pattern": tower.head.attention(probe, x, x, average_attn_weights=False)[1]}


def pooled_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    told = network(**arguments(inputs), output_attentions=True)
    named = {f"vision.blocks.{number}.pattern": pattern for number, pattern in enumerate(told.attentions)}
    return named | pooling(network, told)


def siglip2_vision() -> Any:
    return transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**SIZES, patch_size=8, num_patches=16))


def shapes() -> list[Sample]:
    """Pictures of several shapes."""
    wide, second = two_images()
    tall = ImageRef.of(second.load()[:, :10])
    return [Sample("wide", image=wide), Sample("tall", image=tall)]


def six_patches(folder: Path) -> None:
    """Each picture keeps its shape, in at most six patches."""
    said = {"max_num_patches": 6, "patch_size": 8}
    (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")


def resnet(kind: str) -> Callable[[], Any]:
    def build() -> Any:
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[16, 24], depths=[2, 1], layer_type=kind, num_labels=4
        )
        return transformers.ResNetForImageClassification(config)

    return build


def regnet(kind: str) -> Callable[[], Any]:
    def build() -> Any:
        config = transformers.RegNetConfig(
            embedding_size=8, hidden_sizes=[16, 24], depths=[2, 1], groups_width=8, layer_type=kind, num_labels=4
        )
        return transformers.RegNetForImageClassification(config)

    return build


def dinov3_convnext() -> Any:
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 16], depths=[2, 1], image_size=32)
    return transformers.DINOv3ConvNextModel(config)


def dinov3_maps(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    """The library's maps behind its picture, channels last."""
    _, *told = network(pixel_values=inputs.pixels, output_hidden_states=True).hidden_states
    return {f"vision.blocks.{at}.resid_post": state.permute(0, 2, 3, 1) for at, state in zip((1, 2), told, strict=True)}


def mobilenet_v1() -> Any:
    config = transformers.MobileNetV1Config(depth_multiplier=0.25, num_labels=4, image_size=32)
    return transformers.MobileNetV1ForImageClassification(config)


def convnext() -> Any:
    config = transformers.ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[2, 1], patch_size=4, num_labels=4)
    return transformers.ConvNextForImageClassification(config)


def convnextv2() -> Any:
    config = transformers.ConvNextV2Config(
        num_stages=2, hidden_sizes=[8, 16], depths=[2, 1], patch_size=4, num_labels=4
    )
    return transformers.ConvNextV2ForImageClassification(config)


def mobilenet_v2() -> Any:
    config = transformers.MobileNetV2Config(depth_multiplier=0.1, num_labels=4, output_stride=8)
    return transformers.MobileNetV2ForImageClassification(config)


def efficientnet() -> Any:
    config = transformers.EfficientNetConfig(
        width_coefficient=1.0, depth_coefficient=1.0, in_channels=[32, 16], out_channels=[16, 24], kernel_sizes=[3, 5],
        strides=[1, 2], num_block_repeats=[1, 2], expand_ratios=[1, 6], hidden_dim=1280, num_labels=4,
    )  # fmt: skip
    return transformers.EfficientNetForImageClassification(config)


def swin_states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    """The library has states of stages: after patches are merged, what enters the next stage's first block."""
    told = network(pixel_values=inputs.pixels, output_hidden_states=True).hidden_states
    return {"vision.embed": told[0], "vision.blocks.2.resid_pre": told[1], "vision.blocks.3.resid_post": told[2]}


def swin_patterns(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    """The library has a pattern for each window; which patches those hold is found by sending numbers of patches
    through its own code."""
    told, named = [], {}
    layers = [layer for stage in network.base_model.encoder.layers for layer in stage.blocks]
    handles = [layer.attention.register_forward_hook(lambda *call: told.append(call[2][1])) for layer in layers]
    network(pixel_values=inputs.pixels, output_attentions=True)
    for handle in handles:
        handle.remove()
    for number, (layer, windows) in enumerate(zip(layers, told, strict=True)):
        named[f"vision.blocks.{number}.pattern"] = out_of_windows(layer, windows, 8 >> number // 2)
    return named


def out_of_windows(layer: Any, windows: Tensor, side: int) -> Tensor:
    """Patterns of windows [windows, head, query, key] as one over a map of `side` × `side` patches."""
    from transformers.models.swin.modeling_swin import window_partition

    cells = torch.arange(float(side**2)).view(1, side, side, 1)
    cells = torch.roll(cells, (-layer.shift_size, -layer.shift_size), (1, 2))
    held = window_partition(cells, layer.window_size).flatten(1).long()
    whole = torch.zeros(1, windows.shape[1], side**2, side**2)
    for patches, pattern in zip(held, windows, strict=True):
        whole[0][:, patches[:, None], patches] = pattern
    return whole


def map_states(*names: str) -> Callable[[Any, Inputs], Mapping[str, Tensor]]:
    """The library's maps, channels last, by the names of hook points in the library's order."""

    def states(network: Any, inputs: Inputs) -> Mapping[str, Tensor]:
        told = network(pixel_values=inputs.pixels, output_hidden_states=True).hidden_states
        assert len(told) == len(names)
        return {name: state.permute(0, 2, 3, 1) for name, state in zip(names, told, strict=True)}

    return states


def of_blocks(*numbers: int, embed: bool = True) -> Callable[[Any, Inputs], Mapping[str, Tensor]]:
    names = [f"vision.blocks.{number}.resid_post" for number in numbers]
    return map_states(*(["vision.embed"] if embed else []), *names)


HIERA_CHECKS: dict[str, Any] = {
    "samples": pictures, "activation": "gelu", "states": hiera_states, "patterns": hiera_patterns, "lacks": HEADLESS,
    "normed": ("vision.blocks.1", "vision.blocks.3", "vision.blocks.5"),
}  # fmt: skip
VISION: tuple[Tiny, ...] = (
    Tiny("vit", vit, samples=pictures, activation="gelu", lacks=CLASSES),
    Tiny("vit_msn", vit_msn, samples=pictures, activation="gelu", lacks=CLASSES),
    Tiny("vit_mae", vit_mae, samples=pictures, activation="gelu", states=unmasked_states, patterns=unmasked_patterns,
         lacks=HEADLESS, remark="nothing is masked"),
    Tiny("ijepa", ijepa, samples=pictures, activation="gelu", lacks=CLASSES),
    Tiny("deit", deit, samples=pictures, activation="gelu", lacks=CLASSES, finish=resized(16)),
    Tiny("beit", beit, samples=pictures, activation="gelu", lacks=CLASSES),
    Tiny("dinov2", dinov2(False), samples=pictures, activation="gelu", lacks=CLASSES, finish=resized(32)),
    Tiny("dinov2 gated", dinov2(True), samples=pictures, lacks=CLASSES, finish=resized(32)),
    Tiny(
        "dinov2 with registers", dinov2_with_registers, samples=pictures, activation="gelu", lacks=HEADLESS,
        finish=resized(16),
    ),
    Tiny("dinov3", dinov3(False), samples=pictures, activation="gelu", lacks=HEADLESS, finish=resized(32)),
    Tiny("dinov3 gated", dinov3(True), samples=pictures, activation="gelu", lacks=HEADLESS, finish=resized(16)),
    Tiny(
        "swin", swin("Swin"), samples=pictures, activation="gelu", states=swin_states, patterns=swin_patterns,
        lacks=CLASSES, remark="a pattern is 0 between windows",
    ),
    Tiny(
        "swinv2", swin("Swinv2"), samples=pictures, activation="gelu", states=swin_states, patterns=swin_patterns,
        lacks=CLASSES, remark="as swin; its norms stand behind attention and MLP, in front of the sums",
    ),
    Tiny("segformer", segformer("SemanticSegmentation"), samples=pictures, activation="gelu", states=segformer_states,
         lacks=HEADLESS | {"unembedding": "its classes are told of every pixel"}, finish=resized(32),
         remark="keys and values have a coarser grid than patches"),
    Tiny("segformer of classes", segformer("ImageClassification"), samples=pictures, activation="gelu",
         states=segformer_states, lacks=CLASSES, finish=resized(32)),
    Tiny("sam", sam("Sam"), samples=pictures, activation="gelu", states=sam_states, patterns=sam_patterns,
         lacks=HEADLESS, remark="its image encoder; a pattern is 0 between windows"),
    Tiny("sam vision", sam_vision("Sam"), samples=pictures, activation="gelu", states=sam_states,
         patterns=sam_patterns, lacks=HEADLESS),
    Tiny("sam_hq", sam("SamHQ"), samples=pictures, activation="gelu", states=sam_states, patterns=sam_patterns,
         lacks=HEADLESS),
    Tiny("sam_hq vision", sam_vision("SamHQ"), samples=pictures, activation="gelu", states=sam_states,
         patterns=sam_patterns, lacks=HEADLESS),
    Tiny("sam2", sam2("Sam2"), **HIERA_CHECKS,
         remark="its image encoder; blocks that pool their queries lack a pattern, and pool the residual stream too"),
    Tiny("sam2_video", sam2("Sam2Video"), **HIERA_CHECKS),
    Tiny("sam2 vision", sam2_vision, **HIERA_CHECKS),
    Tiny("clip vision", clip_vision, samples=pictures, activation="quick_gelu", lacks=HEADLESS),
    Tiny("clip vision projected", clip_vision_projected, samples=pictures, activation="quick_gelu", lacks=HEADLESS),
    Tiny("metaclip_2 vision", metaclip_2_vision, samples=pictures, activation="quick_gelu", lacks=HEADLESS),
    Tiny("aimv2 vision", aimv2_vision, samples=pictures, lacks=HEADLESS),
    Tiny("siglip vision", siglip_vision, samples=pictures, activation="gelu_pytorch_tanh", lacks=HEADLESS,
         patterns=pooled_patterns, others=SIGLIP_POOL),
    Tiny("siglip2 vision", siglip2_vision, samples=shapes, activation="gelu_pytorch_tanh", lacks=HEADLESS,
         patterns=pooled_patterns, others=SIGLIP_POOL, finish=six_patches),
    Tiny("resnet", resnet("bottleneck"), samples=pictures, states=of_blocks(1, 2), lacks=CONVOLUTIONS,
         finish=resized(32)),
    Tiny("resnet basic", resnet("basic"), samples=pictures, states=of_blocks(1, 2), lacks=CONVOLUTIONS,
         finish=resized(32)),
    Tiny("regnet", regnet("y"), samples=pictures, states=of_blocks(1, 2), lacks=CONVOLUTIONS, finish=resized(32)),
    Tiny("regnet x", regnet("x"), samples=pictures, states=of_blocks(1, 2), lacks=CONVOLUTIONS, finish=resized(32)),
    Tiny("dinov3_convnext", dinov3_convnext, samples=pictures, states=dinov3_maps,
         lacks=CONVOLUTIONS | {"unembedding": "it has no head"}, finish=resized(32)),
    Tiny("mobilenet_v1", mobilenet_v1, samples=pictures, states=of_blocks(*range(26), embed=False),
         lacks=CONVOLUTIONS, finish=resized(32)),
    Tiny("convnext", convnext, samples=pictures, states=of_blocks(1, 2), lacks=CONVOLUTIONS, finish=resized(32)),
    Tiny("convnextv2", convnextv2, samples=pictures, states=of_blocks(1, 2), lacks=CONVOLUTIONS, finish=resized(32)),
    Tiny("mobilenet_v2", mobilenet_v2, samples=pictures, states=of_blocks(*range(16), embed=False),
         lacks=CONVOLUTIONS, finish=resized(32)),
    Tiny("efficientnet", efficientnet, samples=pictures, states=of_blocks(0, 1, 2), lacks=CONVOLUTIONS,
         finish=resized(32)),
)  # fmt: skip
