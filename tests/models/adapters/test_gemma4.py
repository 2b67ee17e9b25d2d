"""Gemma 4: what its blocks multiply, heads of two sizes, a mixture beside an MLP, and pictures of any shape."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from auditor.base.errors import AuditorError
from auditor.data import ImageRef, PositionKind, Sample
from auditor.models import open_model
from auditor.models.adapters.whisper import sound_of
from auditor.models.edits import CutEdge
from auditor.models.edits.wiring import wiring_of
from tests.models.checks import Changed
from tests.models.edits.networks import inputs_of, network
from tests.models.tiny import ALL, opened

SHAPES = [(36, 15), (20, 24), (9, 61), (1, 1), (200, 37), (3, 90)]


@pytest.mark.parametrize(
    ("name", "last"),
    [("gemma4_text", 3), ("gemma4_unified_text", 2), ("granite", 2), ("minicpm3", 2), ("llama", 2)],
)
def test_that_a_unit_is_scaled_on_its_way_as_the_network_scales_it(name: str, last: int) -> None:
    model = network(name)
    wiring, end = wiring_of(model, inputs_of(model)), f"blocks.{last}.resid_post"
    sites = ("attn_out", "mlp_out", "per_layer_out", "resid_pre", "resid_mid", "resid_post")
    hooks = ["embed", *(f"blocks.{number}.{site}" for number in (0, 1) for site in sites)]
    told = [model.scaled(hook) for hook in hooks if hook in model.hook_points]
    measured = [wiring.way(hook, end) for hook in hooks if hook in model.hook_points]
    assert [way.factor for way in measured if way is not None] == pytest.approx(told, rel=1e-4)
    assert (set(told) == {1.0}) == (name == "llama")


def test_that_blocks_have_heads_of_two_sizes() -> None:
    points = network("gemma4_text mixture").hook_points
    found = [points[f"blocks.{number}.{site}"] for number in (0, 1) for site in "qkvz"]
    assert [(point.width, point.heads) for point in found] == [
        (32, 4), (16, 2), (16, 2), (32, 4), (48, 4), (12, 1), (12, 1), (48, 4),
    ]  # fmt: skip


def test_that_values_are_made_of_what_keys_are_made_of() -> None:
    model = network("gemma4_text mixture")
    inputs, names = inputs_of(model), ["blocks.0.v", "blocks.1.v"]
    for number, moved in ((0, False), (1, True)):
        change = Changed(f"blocks.{number}.k", lambda x: x.flip(-1))
        clean, edited = (model.run(inputs, record=names, edits=edits).records for edits in ([], [change]))
        assert torch.equal(clean[names[number]], edited[names[number]]) != moved


def test_that_an_edge_into_a_mixture_beside_an_mlp_is_told_part_by_part() -> None:
    model = network("gemma4_text mixture")
    with pytest.raises(AuditorError, match="its MLP, its router and its experts"):
        model.run(inputs_of(model), edits=[CutEdge("blocks.0.mlp_out", "blocks.1.mlp")])
    name = "blocks.1.mlp_pre"
    clean = model.run(inputs_of(model), record=[name]).rows(name)
    every = ["embed", "blocks.0.attn_out", "blocks.0.mlp_out", "blocks.1.attn_out"]
    seen: list[torch.Tensor] = []
    edits = [*(CutEdge(source, name) for source in every), Changed(name, lambda x: (seen.append(x.clone()), x)[1])]
    model.run(inputs_of(model), edits=edits)
    assert float(seen[0].abs().max()) < 1e-4 < 1e-1 < float(clean.abs().max())


def test_that_attention_whose_values_are_normed_is_cut_off_as_a_whole() -> None:
    model, target = network("gemma4_unified_text"), "blocks.2.attn_out"
    inputs, source, layer = inputs_of(model), "blocks.0.mlp_out", model.network.model.layers[2]
    clean = model.run(inputs, record=[source, "blocks.2.resid_pre", target])
    cut = model.run(inputs, record=[target], edits=[CutEdge(source, "blocks.2.attn")]).rows(target)
    r, c = clean.rows("blocks.2.resid_pre"), 0.75 * clean.rows(source)  # the factor of block 1
    share = c * torch.rsqrt(r.square().mean(-1, keepdim=True) + 1e-6) * layer.input_layernorm.weight
    handle = layer.self_attn.register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "hidden_states": kwargs["hidden_states"] - share}), with_kwargs=True
    )
    try:
        told = model.run(inputs, record=[target]).rows(target)
    finally:
        handle.remove()
    torch.testing.assert_close(cut, told, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(cut, clean.rows(target), atol=1e-2)
    with pytest.raises(AuditorError, match="does not read the residual stream"):
        model.run(inputs, edits=[CutEdge(source, "blocks.2.v")])


def picture(shape: tuple[int, int], seed: int = 2) -> ImageRef:
    return ImageRef.of(np.random.default_rng(seed).integers(0, 255, (*shape, 3), dtype=np.uint8))


def processed(monkeypatch: pytest.MonkeyPatch, image: ImageRef, **sizes: int) -> Any:
    """By the library's processor, which else makes seventy tokens at least."""
    from transformers.models.gemma4 import image_processing_pil_gemma4 as library

    monkeypatch.setattr(library, "_SUPPORTED_SOFT_TOKENS", (6,))
    make = library.Gemma4ImageProcessorPil(max_soft_tokens=6, **sizes)
    return make(images=[Image.fromarray(image.load())], return_tensors="pt")


@pytest.mark.parametrize("shape", SHAPES)
def test_that_pictures_and_logits_are_the_librarys_whatever_their_shape(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    case, image = opened(ALL["gemma4"]), picture(shape)
    given = processed(monkeypatch, image, patch_size=4, pooling_kernel_size=2)
    count = int(given.pop("num_soft_tokens_per_image")[0])
    inputs = case.model.encode([Sample("a", text="red <image> cat", image=image)])
    assert inputs.pixels is not None and inputs.pixels.shape[1] == 4 * count
    assert torch.equal(inputs.pixels[0], given["pixel_values"][0, : 4 * count].float())
    assert torch.equal(inputs.beside["image_position_ids"][0], given["image_position_ids"][0, : 4 * count])
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    assert ids[0].tolist() == [1, 7, 12, *[3] * count, 13, 8]
    with torch.no_grad():
        every = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == 3).int()}
        told = case.source(**every, **given).logits
    # The library fills pictures up to the most patches that there may be.
    torch.testing.assert_close(case.model.run(inputs).logits, told, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_that_patches_without_a_tower_are_those_of_the_library(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    case, image = opened(ALL["gemma4_unified"]), picture(shape)
    # What its own processor puts together of four patches of side 4 is one of side 8.
    given = processed(monkeypatch, image, patch_size=8, pooling_kernel_size=1)
    count = int(given["num_soft_tokens_per_image"][0])
    inputs = case.model.encode([Sample("a", text="red", image=image)])
    assert inputs.pixels is not None and torch.equal(inputs.pixels[0], given["pixel_values"][0, :count].float())
    assert torch.equal(inputs.beside["image_position_ids"][0], given["image_position_ids"][0, :count])


@pytest.mark.parametrize("name", ["gemma4", "gemma4_unified"])
def test_that_a_token_stands_over_its_part_of_the_picture(name: str) -> None:
    """Two pictures that differ in one corner: so do the patches there, and most the token."""
    model, plain = opened(ALL[name]).model, picture((16, 24)).load()
    other = plain.copy()
    other[8:, 16:] = picture((8, 8), seed=3).load()
    # A taller picture comes first, so that the rows of the second are padded.
    runs = [
        model.run(
            [Sample("a", text="red", image=picture((40, 8))), Sample("b", text="red", image=ImageRef.of(pixels))],
            record=["vision.embed", "image_tokens"],
        )
        for pixels in (plain, other)
    ]
    patches, tokens = (
        (runs[0].rows(hook)[1] - runs[1].rows(hook)[1]).abs().amax(-1) for hook in ("vision.embed", "image_tokens")
    )
    # Cells are numbered on the sheet of the sample: three wide, or six where two by two patches make a token.
    moved, told = runs[0].positions("vision.embed").unit[1][patches > 1e-6].tolist(), {"gemma4": [16, 17, 22, 23]}
    assert moved == told.get(name, [5])
    assert int(runs[0].positions("image_tokens").unit[1, tokens.argmax()]) == 5


def test_that_configs_that_cannot_be_are_told(tmp_path: Path) -> None:
    ALL["gemma4"].save(tmp_path)
    for said in ({"patch_size": 8}, {"max_soft_tokens": 0}, {"max_soft_tokens": "many"}, {"pooling_kernel_size": 3}):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")
        with pytest.raises(AuditorError, match="cuts pictures otherwise"):
            open_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config | {"vision_config": None}), encoding="utf-8")
    with pytest.raises(AuditorError, match="no tower for pictures"):
        open_model(tmp_path)


def test_that_sounds_and_pictures_stand_in_a_text_as_the_librarys_processor_writes_them() -> None:
    case = opened(ALL["gemma4 with sounds"])
    sample = case.samples[0]
    inputs = case.model.encode([sample])
    # Half a second is 50 columns of the spectrum, and 13 frames; four tokens of the picture.
    pictured = int((inputs.kind == int(PositionKind.IMAGE)).sum())
    assert inputs.ids[0].tolist() == [1, 7, 14, *[-1] * 13, 16, 12, *[-1] * pictured, 13, 8] and pictured
    assert inputs.unit[0, 3:16].tolist() == list(range(13)) and inputs.frame_seconds == 0.04
    make = transformers.Gemma4AudioFeatureExtractor(feature_size=8)
    given = make([sound_of(sample, 16_000, 30.0)], return_tensors="pt")
    assert torch.equal(inputs.sound, given.input_features)
    assert torch.equal(inputs.beside["input_features_mask"], given.input_features_mask)
    run = case.model.run(inputs, record=["audio_tokens", "embed"])
    assert torch.equal(run.records["embed"][0, 3:16], run.records["audio_tokens"][0])
    # Where the text does not say so the sound stands before it, and pictures keep their places.
    places = replace(sample, text="red cat", places=(4,))
    assert case.model.encode([places]).ids[0].tolist() == [1, 14, *[-1] * 13, 16, 7, 12, *[-1] * pictured, 13, 8]


def test_that_a_sound_is_heard_alike_beside_others_and_never_cut() -> None:
    model, samples = opened(ALL["gemma4 with sounds"]).model, opened(ALL["gemma4 with sounds"]).samples
    clean = model.run(model.encode(samples), record=["audio_tokens"])
    places = clean.positions("audio_tokens")
    assert (places.unit >= 0).sum(1).tolist() == [13, 0, 8]
    alone = model.run(samples[2:3], record=["audio_tokens"]).rows("audio_tokens")[0]
    torch.testing.assert_close(clean.rows("audio_tokens")[2, :8], alone, atol=1e-5, rtol=1e-4)
    short = model.encode(samples[:1], max_tokens=4)
    assert int((short.kind == int(PositionKind.AUDIO)).sum()) == 13


def test_that_a_tokenizer_without_the_token_of_sounds_is_told(tmp_path: Path) -> None:
    ALL["gemma4 with sounds"].save(tmp_path / "m")
    ALL["gemma4"].save(tmp_path / "other")
    (tmp_path / "m" / "tokenizer.json").write_bytes((tmp_path / "other" / "tokenizer.json").read_bytes())
    with pytest.raises(AuditorError, match="0 tokens of sound in the place of 13"):
        open_model(tmp_path / "m").encode(opened(ALL["gemma4 with sounds"]).samples[:1])


def test_that_pieces_of_a_sound_are_read_as_they_are_where_there_is_no_tower() -> None:
    case = opened(ALL["gemma4_unified"])
    inputs = case.model.encode(case.samples[:1])
    values = torch.from_numpy(sound_of(case.samples[0], 16_000, 30.0))
    assert inputs.sound is not None and inputs.sound.shape == (1, 13, 640) and inputs.frame_seconds == 0.04
    assert torch.equal(inputs.sound.flatten()[: len(values)], values.float())
    heard = inputs.kind[0] == int(PositionKind.AUDIO)
    assert inputs.unit[0, heard].tolist() == list(range(13))
    run = case.model.run(inputs, record=["audio_tokens", "embed"])
    assert torch.equal(run.records["embed"][0, heard], run.records["audio_tokens"][0])
