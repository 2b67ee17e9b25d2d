"""GLM-4.1V and its kin, against the library's own processor and forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.data import ImageRef, Sample
from tests.models.tiny import ALL, opened


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("family", "shape"),
    [*(("glm4v", shape) for shape in ((20, 24), (5, 9), (40, 64), (16, 100))),
     ("glm4v_moe", (20, 24)), ("glm_ocr", (40, 64))],
)  # fmt: skip
def test_that_a_picture_is_read_as_by_the_library(family: str, shape: tuple[int, int]) -> None:
    from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

    case = opened(ALL[family])
    image = ImageRef.of(np.random.default_rng(5).integers(0, 255, (*shape, 3), dtype=np.uint8))
    make = Glm4vImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 32 * 32}, patch_size=4)
    given = make(images=[image.load()], return_tensors="pt")
    inputs = case.model.encode([Sample("a", text="red <image> cat", image=image)])
    assert inputs.pixels is not None
    assert torch.equal(inputs.beside["image_grid_thw"], given["image_grid_thw"])
    torch.testing.assert_close(inputs.pixels, given["pixel_values"], atol=1e-6, rtol=1e-6)
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    assert int((ids == 3).sum()) == int(given["image_grid_thw"].prod()) // 4
    with torch.no_grad():
        told = case.source(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=(ids == 3).int(), **given
        ).logits
    torch.testing.assert_close(case.model.run(inputs).logits, told, atol=1e-5, rtol=1e-5)
