"""Pictures of any shape in a bounded number of patches, against the library's processor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.models.naflex import naflex_rule


def folder_with(place: Path, **said: object) -> Path:
    (place / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")
    return place


@pytest.mark.parametrize("most", [7, 64, 256])
@pytest.mark.parametrize("shape", [(40, 40), (37, 90), (200, 13), (5, 5)])
def test_that_patches_are_those_of_the_librarys_processor(tmp_path: Path, shape: tuple[int, int], most: int) -> None:
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    pixels = np.random.default_rng(2).integers(0, 255, (*shape, 3), dtype=np.uint8)
    rule = naflex_rule(folder_with(tmp_path, max_num_patches=most), 8)
    told = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=most)(pixels, return_tensors="pt")
    patches, panel = rule.prepare(pixels), rule.panel(*shape)
    assert told["spatial_shapes"].tolist() == [[panel.rows, panel.columns]]
    torch.testing.assert_close(patches, told["pixel_values"][0, : len(patches)].float(), atol=1e-5, rtol=0)
    assert len(patches) == int(told["pixel_attention_mask"].sum()) <= most


def test_that_pictures_and_configs_that_cannot_be_are_told(tmp_path: Path) -> None:
    with pytest.raises(AuditorError, match="impossible number of patches"):
        naflex_rule(folder_with(tmp_path, max_num_patches="many"), 8)
    rule = naflex_rule(folder_with(tmp_path, max_num_patches=4), 8)
    with pytest.raises(AuditorError, match="too long and narrow"):
        rule.panel(4, 100_000_000)
