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
