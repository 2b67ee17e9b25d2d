"""Swin: what lies in windows inside the network is put back in the picture's order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from auditor.models import Model, open_model
from tests.models.tiny.entry import Tiny
from tests.models.tiny.vision import pictures


def swin(side: int, window: int) -> Tiny:
    config = transformers.SwinConfig(
        image_size=side, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=window, mlp_ratio=2
    )
    return Tiny("swin", lambda: transformers.SwinForImageClassification(config))


@pytest.fixture(params=[(32, 4), (40, 4), (36, 4)], ids=["whole windows", "padded", "odd"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    swin(*request.param).save(tmp_path)
    return open_model(tmp_path)


def test_that_projections_are_those_of_their_own_patches(model: Model) -> None:
    inputs = model.encode(pictures())
    hooks = [
        f"vision.blocks.{number}.{site}" for number in range(4) for site in ("resid_pre", "q", "v", "z", "attn_out")
    ]
    seen = model.run(inputs, record=hooks).records
    for number in range(4):
        at = f"vision.blocks.{number}."
        inside = f"swin.encoder.layers.{number // 2}.blocks.{number % 2}."
        normed = model.network.get_submodule(inside + "layernorm_before")(seen[at + "resid_pre"])
        for site in ("q", "v"):
            told = model.network.get_submodule(f"{inside}attention.{site}_proj")(normed)
            torch.testing.assert_close(seen[at + site], told, atol=1e-5, rtol=1e-5)
        written = model.network.get_submodule(inside + "attention.o_proj")(seen[at + "z"])
        torch.testing.assert_close(written, seen[at + "attn_out"], atol=1e-5, rtol=1e-5)


def test_that_a_pattern_is_of_the_window_that_a_patch_lies_in(model: Model) -> None:
    inputs = model.encode(pictures()[:1])
    hooks = [f"vision.blocks.{number}.{site}" for number in (0, 1) for site in ("v", "pattern", "z")]
    seen = model.run(inputs, record=hooks).records
    side = int(seen["vision.blocks.0.v"].shape[1] ** 0.5)
    cell = torch.arange(side**2)
    for number, shift in ((0, 0), (1, 2)):
        at = f"vision.blocks.{number}."
        pattern, v = seen[at + "pattern"], seen[at + "v"].unflatten(-1, (2, 8)).transpose(1, 2)
        # In shifted blocks the rows and columns before the first shift are a part of windows of their own.
        window = torch.stack([(cell // side - shift).div(4, rounding_mode="floor"),
                              (cell % side - shift).div(4, rounding_mode="floor")])  # fmt: skip
        together = (window[:, :, None] == window[:, None]).all(0)
        assert not (pattern[0, :, ~together] > 1e-6).any() and (pattern[0, :, together] > 0).any(-1).all()
        whole = (pattern.sum(-1) > 1 - 1e-5)[0].all(0)
        # Where the last windows are filled up, their patches look at what is put there too.
        assert whole.any() and (shift or bool(whole.all()) == (side % 4 == 0))
        mixed = (pattern @ v).transpose(1, 2).flatten(2)
        torch.testing.assert_close(mixed[:, whole], seen[at + "z"][:, whole], atol=1e-5, rtol=1e-4)
