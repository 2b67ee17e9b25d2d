"""Aya Vision, against the library's own processor and forward pass."""

from __future__ import annotations

import pytest
import torch

from auditor.data import Sample
from tests.models.test_several_pictures import fast
from tests.models.tiny import ALL, opened
from tests.models.tiny.entry import two_images


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_that_tiles_are_named_and_read_as_by_the_library() -> None:
    from transformers.models.aya_vision.processing_aya_vision import AyaVisionProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    case, image = opened(ALL["aya_vision"]), two_images()[0]
    size = {"height": 16, "width": 16}
    tiles = GotOcr2ImageProcessorPil(size=size, min_patches=2, max_patches=4, crop_to_patches=True)
    # The tiny network's token of a patch is spelled as the mark that the library reads by default.
    make = AyaVisionProcessor(
        tiles, fast(case), patch_size=4, img_size=16, downsample_factor=2, image_token="<pic>",
        img_patch_token="<image>",
    )  # fmt: skip
    given = make(images=image.load(), text="one <pic> red cat", return_tensors="pt")
    inputs = case.model.encode([Sample("a", text="one <image> red cat", image=image)])
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    assert torch.equal(ids[:, 1:], given["input_ids"])  # behind the begin token
    assert inputs.pixels is not None
    torch.testing.assert_close(inputs.pixels, given["pixel_values"], atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        told = case.source(input_ids=ids, pixel_values=inputs.pixels, attention_mask=torch.ones_like(ids)).logits
    assert torch.equal(case.model.run(inputs).logits, told)


def test_that_image_tokens_have_the_projectors_order() -> None:
    case = opened(ALL["aya_vision"])
    run = case.model.run(case.samples[:1], record=["image_tokens", "embed"])
    positions, image = run.positions("image_tokens"), run.inputs.kind[0] == 2
    assert int(image.sum()) == 5 * 4 and positions.unit[0].unique().numel() == 5 * 4
    by_unit = dict(zip(positions.unit[0].tolist(), run.rows("image_tokens")[0], strict=True))
    for unit, row in zip(run.inputs.unit[0][image].tolist(), run.rows("embed")[0][image], strict=True):
        torch.testing.assert_close(by_unit[unit], row)
