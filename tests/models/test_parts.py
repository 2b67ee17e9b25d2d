"""Pictures that are read in parts of several sizes (Idefics2, LLaVA-NeXT), and LLaVA's other tower, against the
library's own processors and forward passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from auditor.data import ImageRef, PositionKind, Sample
from auditor.models import Ablate
from auditor.models.pictures import CLIP_MEAN, CLIP_STD
from tests.models.tiny import ALL, opened

SHAPES = [(20, 24), (9, 61), (50, 13), (64, 64)]


def idefics2(tokenizer: Any) -> Any:
    from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil
    from transformers.models.idefics2.processing_idefics2 import Idefics2Processor

    images = Idefics2ImageProcessorPil(size={"shortest_edge": 16, "longest_edge": 24}, do_image_splitting=True)
    return Idefics2Processor(images, tokenizer, image_seq_len=3)


def llava_next(tokenizer: Any) -> Any:
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
    from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16},
        image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
    )  # fmt: skip
    return LlavaNextProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def llava_onevision(tokenizer: Any) -> Any:
    """The library's processor of pictures; its tokens are counted by the network."""
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    return LlavaOnevisionImageProcessorPil(
        size={"height": 16, "width": 16}, image_grid_pinpoints=[[16, 32], [32, 16], [32, 32], [64, 64]]
    )


def llava_with_siglip(tokenizer: Any) -> Any:
    from transformers.models.llava.processing_llava import LlavaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    images = SiglipImageProcessorPil(size={"height": 16, "width": 16})
    return LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="full", num_additional_image_tokens=0
    )


MAKE: dict[str, Callable[[Any], Any]] = {
    "idefics2": idefics2, "llava_next": llava_next, "llava with siglip": llava_with_siglip,
}  # fmt: skip


def picture(shape: tuple[int, int]) -> ImageRef:
    return ImageRef.of(np.random.default_rng(2).integers(0, 255, (*shape, 3), dtype=np.uint8))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MAKE)
def test_that_pictures_and_logits_are_the_librarys_whatever_the_shape(name: str, shape: tuple[int, int]) -> None:
    case, image = opened(ALL[name]), picture(shape)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=case.model.tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    given = MAKE[name](tokenizer)(
        images=Image.fromarray(image.load()), text="<s> one <image> red cat", return_tensors="pt"
    )
    inputs = case.model.encode([Sample("a", text="one <image> red cat", image=image)])
    assert torch.equal(torch.where(inputs.ids < 0, 3, inputs.ids), given["input_ids"])
    assert inputs.pixels is not None and torch.equal(inputs.pixels, given["pixel_values"].reshape(inputs.pixels.shape))
    with torch.no_grad():
        told = case.source(**dict(given.items())).logits
    torch.testing.assert_close(case.model.run(inputs).logits, told, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("shape", [*SHAPES, (200, 150)])
def test_that_many_tiles_have_fewer_tokens_as_the_library_joins_them(shape: tuple[int, int]) -> None:
    case, image = opened(ALL["llava_onevision"]), picture(shape)
    given = llava_onevision(None)(images=[Image.fromarray(image.load())], return_tensors="pt")
    inputs = case.model.encode([Sample("a", text="one <image> red cat", image=image)])
    assert inputs.pixels is not None
    # The processor's own mean; a folder says which.
    told = given["pixel_values"].reshape(inputs.pixels.shape) * torch.tensor(CLIP_STD).view(3, 1, 1)
    told = (told + torch.tensor(CLIP_MEAN).view(3, 1, 1) - 0.5) / 0.5
    torch.testing.assert_close(inputs.pixels, told, atol=1e-5, rtol=0)
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    with torch.no_grad():
        logits = case.source(
            input_ids=ids, pixel_values=inputs.pixels[None], image_sizes=given["image_sizes"],
            attention_mask=torch.ones_like(ids),
        ).logits  # fmt: skip
    torch.testing.assert_close(case.model.run(inputs).logits, logits, atol=2e-5, rtol=2e-5)
    joined = int((inputs.kind == PositionKind.IMAGE).sum()) - 4
    assert joined <= 3 * 4 * 1.1**2 and (shape != (200, 150) or joined < 8 * 6)


def test_that_onevision_reads_several_pictures_whole_as_the_library_does() -> None:
    case, shapes = opened(ALL["llava_onevision"]), ((20, 24), (50, 13), (32, 32))
    first, *more = (picture(shape) for shape in shapes)
    sample = Sample("a", text="one <image> red <image> cat <image>", image=first, more=tuple(more))
    images = [Image.fromarray(image.load()) for image in sample.pictures]
    processor = llava_onevision(None)
    processor.image_mean = processor.image_std = [0.5] * 3  # which the tower's own is
    given = processor(images=[images], return_tensors="pt")
    inputs = case.model.encode([sample])
    assert inputs.pixels is not None
    torch.testing.assert_close(inputs.pixels, given["pixel_values"].reshape(inputs.pixels.shape), atol=1e-5, rtol=0)
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    assert int((ids == 3).sum()) == 3 * (2 * 2 + 1)
    with torch.no_grad():
        logits = case.source(
            input_ids=ids, pixel_values=inputs.pixels[:, None], image_sizes=given["image_sizes"],
            batch_num_images=given["batch_num_images"], attention_mask=torch.ones_like(ids),
        ).logits  # fmt: skip
    torch.testing.assert_close(case.model.run(inputs).logits, logits, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", [*MAKE, "llava_onevision"])
def test_that_several_samples_have_the_rows_that_they_have_alone(name: str) -> None:
    """Of two pictures of different shapes and a text between them, in the tower, at the tokens and in the text."""
    model = opened(ALL[name]).model
    samples = [
        Sample("wide", text="one <image> red", image=picture((9, 61))), Sample("text", text="cat sat"),
        Sample("two", text="<image> two <image>", image=picture((20, 24)), more=(picture((50, 13)),)),
    ]  # fmt: skip
    hooks = ["vision.blocks.1.resid_post", "vision.blocks.1.pattern", "image_tokens", "blocks.1.resid_post"]
    together = model.run(samples, record=hooks, logits=False)
    for row, sample in enumerate(samples):
        alone = model.run([sample], record=hooks, logits=False)
        for hook in hooks:
            kept = alone.records[hook][0]
            if not kept.numel():  # of a text alone the tower has nothing
                continue
            if hook.endswith("pattern"):
                seen = together.records[hook][row, :, : kept.shape[1], : kept.shape[1]]
            else:
                seen = together.rows(hook)[row, : len(kept)]
                own, other = together.positions(hook), alone.positions(hook)
                assert torch.equal(own.unit[row, : len(kept)], other.unit[0])
                assert torch.equal(own.kind[row, : len(kept)], other.kind[0])
                assert (own.kind[row, len(kept) :] == PositionKind.PAD).all()
            assert (seen - kept).norm() < 1e-5 * kept.norm()


@pytest.mark.parametrize("name", MAKE)
def test_that_an_edit_of_one_patch_changes_the_text_behind_its_picture_alone(name: str) -> None:
    model = opened(ALL[name]).model
    samples = [Sample("a", text="one <image> red", image=picture((20, 24))), Sample("b", text="cat sat two")]
    inputs = model.encode(samples)
    clean = model.run(inputs).logits
    edited = model.run(inputs, edits=[Ablate("vision.blocks.0.resid_post", positions=[2])]).logits
    assert clean is not None and edited is not None and torch.equal(clean[1], edited[1])
    assert torch.equal(clean[0, :2], edited[0, :2]) and not torch.allclose(clean[0, -1], edited[0, -1], atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 200), (200, 3)])
@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_that_a_picture_too_narrow_for_a_cell_of_its_tiles_is_read_whole_and_shown(
    name: str, shape: tuple[int, int]
) -> None:
    """As the library reads it: of its tiles there is no token, but for the ends of rows."""
    case, image = opened(ALL[name]), picture(shape)
    inputs = case.model.encode([Sample("a", text="one <image> red cat", image=image)])
    assert inputs.pixels is not None and inputs.sheets[0] is not None
    whole, tiled = inputs.sheets[0].panels
    assert len(whole) == 4 and len(tiled) == 0
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    with torch.no_grad():
        told = case.source(
            input_ids=ids, pixel_values=inputs.pixels[None], image_sizes=torch.tensor([shape]),
            attention_mask=torch.ones_like(ids),
        ).logits  # fmt: skip
    torch.testing.assert_close(case.model.run(inputs).logits, told, atol=2e-5, rtol=2e-5)
    shown = case.model.shown(inputs, 0, 64)
    assert shown is not None and (shown != 255).any()
