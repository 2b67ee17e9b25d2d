"""The image encoders of SAM and SAM 2: pictures are filled up to squares, and what lies in windows is put back in their
order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from auditor.data import ImageRef, Sample
from auditor.models import Model, open_model
from tests.models.tiny.entry import Tiny, two_images
from tests.models.tiny.vision import SAM, pictures, sam2_config


@pytest.fixture(params=[4, 3], ids=["whole windows", "padded"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    config = transformers.SamVisionConfig(**SAM | {"window_size": request.param})
    Tiny("sam", lambda: transformers.SamVisionModel(config)).save(tmp_path)
    return open_model(tmp_path)


def test_that_projections_are_those_of_their_own_patches(model: Model) -> None:
    hooks = [f"vision.blocks.{number}.{site}" for number in range(3)
             for site in ("resid_pre", "q", "v", "z", "attn_out", "resid_mid")]  # fmt: skip
    seen = model.run(model.encode(pictures()), record=hooks).records
    for number in range(3):
        at, inside = f"vision.blocks.{number}.", f"vision_encoder.layers.{number}."
        normed = model.network.get_submodule(inside + "layer_norm1")(seen[at + "resid_pre"])
        q, _, v = model.network.get_submodule(inside + "attn.qkv")(normed).chunk(3, dim=-1)
        torch.testing.assert_close(seen[at + "q"], q, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(seen[at + "v"], v, atol=1e-5, rtol=1e-5)
        written = model.network.get_submodule(inside + "attn.proj")(seen[at + "z"])
        torch.testing.assert_close(written, seen[at + "attn_out"], atol=1e-5, rtol=1e-5)
        gained = seen[at + "resid_mid"] - seen[at + "resid_pre"]
        torch.testing.assert_close(gained, written, atol=1e-4, rtol=1e-4)


def test_that_pictures_are_prepared_as_by_the_librarys_processor(tmp_path: Path) -> None:
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    Tiny("sam", lambda: transformers.SamVisionModel(transformers.SamVisionConfig(**SAM))).save(tmp_path)
    wide = two_images()[0]
    tall = ImageRef.of(wide.load()[:, :7])
    make = SamImageProcessorPil(size={"longest_edge": 32}, pad_size={"height": 32, "width": 32})
    pixels = open_model(tmp_path).encode([Sample("wide", image=wide), Sample("tall", image=tall)]).pixels
    told = make(images=[wide.load(), tall.load()], return_tensors="pt").pixel_values
    assert pixels is not None
    assert torch.equal(pixels, told) and not pixels[1, :, :, 12:].any()


def test_that_the_grid_lies_over_the_square_that_a_picture_is_filled_up_to(model: Model) -> None:
    assert model._adapter.seen(20, 24) == (0, 0, 24, 24)
    positions = model.run(model.encode(pictures()), record=["vision.neck"]).positions("vision.neck")
    assert positions.grid == (8, 8)


@pytest.mark.parametrize("window", [4, 6], ids=["whole windows", "padded"])
def test_that_hieras_blocks_add_what_attention_writes_to_what_they_pool(window: int, tmp_path: Path) -> None:
    config = sam2_config()
    config.backbone_config.window_size_per_stage = [4, 2, window, 2]
    config.backbone_config.global_attention_blocks = []
    Tiny("sam2", lambda: transformers.Sam2VisionModel(config)).save(tmp_path)
    model = open_model(tmp_path)
    hooks = [f"vision.blocks.{number}.{site}" for number in range(6)
             for site in ("resid_pre", "q", "v", "z", "attn_out", "resid_mid")]  # fmt: skip
    run = model.run(model.encode(pictures()), record=hooks)
    for number in range(6):
        at, block = f"vision.blocks.{number}.", model.network.backbone.blocks[number]
        before = run.records[at + "resid_pre"]
        side = int(before.shape[1] ** 0.5)
        assert run.positions(at + "v").grid == (side, side)
        normed = block.layer_norm1(before)
        q, _, v = block.attn.qkv(normed).chunk(3, dim=-1)
        torch.testing.assert_close(run.records[at + "q"], q, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(run.records[at + "v"], v, atol=1e-5, rtol=1e-5)
        written = block.attn.proj(run.records[at + "z"])
        torch.testing.assert_close(written, run.records[at + "attn_out"], atol=1e-5, rtol=1e-5)
        if block.query_stride:
            cells = block.proj(normed).transpose(1, 2).unflatten(2, (side, side))
            before = torch.nn.functional.max_pool2d(cells, 2).flatten(2).transpose(1, 2)
        torch.testing.assert_close(run.records[at + "resid_mid"], before + written, atol=1e-4, rtol=1e-4)
