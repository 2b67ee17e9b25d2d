"""Language models that read pictures, against what the library's own processors and forward passes give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from auditor.base.errors import AuditorError
from auditor.data import ImageRef, Sample
from auditor.models import Ablate
from tests.models.tiny import ALL, Case, opened
from tests.models.tiny.entry import two_images


def idefics3(tokenizer: Any, splits: bool = False) -> Any:
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

    images = Idefics3ImageProcessorPil(
        do_image_splitting=splits, size={"longest_edge": 64 if splits else 128}, max_image_size={"longest_edge": 32}
    )
    return Idefics3Processor(images, tokenizer, image_seq_len=4)


def tiled(tokenizer: Any) -> Any:
    return idefics3(tokenizer, splits=True)


def paligemma(tokenizer: Any) -> Any:
    from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    images = SiglipImageProcessorPil(size={"height": 16, "width": 16})
    images.image_seq_length = 4
    return PaliGemmaProcessor(images, tokenizer)


def gemma3(tokenizer: Any) -> Any:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
    from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

    marked = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>", "boi_token": "<start>", "eoi_token": "<end>"},
    )  # fmt: skip
    return Gemma3Processor(Gemma3ImageProcessorPil(size={"height": 32, "width": 32}), marked, image_seq_length=4)


def qwen(tokenizer: Any) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 1024})


def llava(tokenizer: Any) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.llava.processing_llava import LlavaProcessor

    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


# What is written for the processor where Auditor puts a begin token first and the processor leaves it to the person.
CASES: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "idefics3": (idefics3, "one <image> red cat", "<s> one <image> red cat"),
    "smolvlm": (tiled, "<image> red cat", "<s> <image> red cat"),
    "paligemma": (paligemma, "red cat", "<image> red cat"),
    "paligemma 2": (paligemma, "red cat", "<image> red cat"),
    "gemma3": (gemma3, "one <start> red cat", "<s> one <start> red cat"),
    "llava": (llava, "one <image> red cat", "<s> one <image> red cat"),
}


def processed(case: Case, make: Callable[[Any], Any], text: str, image: ImageRef) -> Any:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=case.model.tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    return make(tokenizer)(images=image.load(), text=text, return_tensors="pt")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_that_logits_are_the_librarys_for_what_its_processor_gives(name: str) -> None:
    """To the bit: the same kernels run on the same numbers."""
    make, text, written = CASES[name]
    case, image = opened(ALL[name]), two_images()[0]
    given = processed(case, make, written, image)
    with torch.no_grad():
        told = case.source(**{key: value for key, value in given.items() if key != "labels"}).logits
    inputs = case.model.encode([Sample("a", text=text, image=image)])
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    assert torch.equal(ids, given["input_ids"])
    assert inputs.pixels is not None and torch.equal(inputs.pixels, given["pixel_values"].reshape(inputs.pixels.shape))
    run = case.model.run(inputs, record=["image_tokens", "blocks.1.resid_post"])
    assert run.logits is not None
    if name == "llava":
        # Its tower is read and its tokens are placed by Auditor's own code, and no mask is given.
        torch.testing.assert_close(run.logits, told, atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(run.logits, told)


@pytest.mark.parametrize("shape", [(32, 32), (20, 24), (9, 61), (1, 1), (200, 37)])
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_that_qwens_pictures_and_logits_are_the_librarys_whatever_their_shape(
    name: str, shape: tuple[int, int]
) -> None:
    case = opened(ALL[name])
    image = ImageRef.of(np.random.default_rng(2).integers(0, 255, (*shape, 3), dtype=np.uint8))
    given = qwen(None)(images=[Image.fromarray(image.load())], return_tensors="pt")
    count = int(given["image_grid_thw"].prod()) // 4
    inputs = case.model.encode([Sample("a", text="red <image> cat", image=image)])
    assert inputs.pixels is not None and torch.equal(inputs.pixels, given["pixel_values"])
    assert torch.equal(inputs.beside["image_grid_thw"], given["image_grid_thw"])
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    assert ids[0].tolist() == [1, 7, 12, *[3] * count, 13, 8]
    # As a chat template of the family writes it.
    written = case.model.encode([Sample("a", text="red <start><image><end> cat", image=image)])
    assert torch.equal(written.ids, inputs.ids)
    with torch.no_grad():
        told = case.source(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=(ids == 3).int(), **given
        ).logits
    assert torch.equal(case.model.run(inputs).logits, told)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(16, 16), (20, 24), (9, 61), (1, 1), (64, 32), (100, 100)])
def test_that_internvls_tiles_and_logits_are_the_librarys_whatever_the_shape(shape: tuple[int, int]) -> None:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    case = opened(ALL["internvl"])
    image = ImageRef.of(np.random.default_rng(2).integers(0, 255, (*shape, 3), dtype=np.uint8))
    tiles = {"crop_to_patches": True, "min_patches": 2, "max_patches": 4}
    make = GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, **tiles)
    given = make(images=[Image.fromarray(image.load())], return_tensors="pt")
    inputs = case.model.encode([Sample("a", text="red <image> cat", image=image)])
    assert inputs.pixels is not None and torch.equal(inputs.pixels, given["pixel_values"])
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    # <img> and </img> are numbers 10 and 11; four tokens a tile.
    assert ids[0].tolist() == [1, 7, 10, *[3] * 4 * int(given["num_patches"][0]), 11, 8]
    with torch.no_grad():
        every = torch.ones_like(ids)
        told = case.source(input_ids=ids, attention_mask=every, pixel_values=given["pixel_values"]).logits
    assert torch.equal(case.model.run(inputs).logits, told)  # type: ignore[arg-type]
    assert case.model.shown(inputs, 0, 64) is not None


@pytest.mark.parametrize(
    ("name", "shape"),
    [*(("mistral3", shape) for shape in ((16, 16), (20, 24), (9, 61), (1, 1), (64, 32), (90, 30))),
     ("lighton_ocr", (20, 24)), ("lighton_ocr", (90, 30))],
)  # fmt: skip
def test_that_mistral_3s_pictures_and_logits_are_the_librarys_whatever_the_shape(
    name: str, shape: tuple[int, int]
) -> None:
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    case = opened(ALL[name])
    images = [np.random.default_rng(2).integers(0, 255, (*size, 3), dtype=np.uint8) for size in (shape, (24, 8))]
    make = PixtralImageProcessorPil(size={"longest_edge": 32}, patch_size={"height": 8, "width": 8})
    given = make(images=[Image.fromarray(image) for image in images], return_tensors="pt")
    first, second = map(ImageRef.of, images)
    inputs = case.model.encode([Sample("a", text="red <image> cat <image>", image=first, more=(second,))])
    assert inputs.pixels is not None and torch.equal(inputs.pixels, given["pixel_values"])
    assert torch.equal(inputs.beside["image_sizes"], given["image_sizes"])
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    # Behind each line number 10, [IMG_BREAK], and behind the last number 11, [IMG_END]; LightOnOCR has neither.
    marked = name == "mistral3"
    lines = [([3] * (wide // 8) + [10] * marked) * (high // 8) for high, wide in given["image_sizes"].tolist()]
    first_tokens, second_tokens = ([*line[:-1], 11] if marked else line for line in lines)
    assert ids[0].tolist() == [1, 7, *first_tokens, 8, *second_tokens]
    with torch.no_grad():
        every = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        every |= {"vision_feature_layer": -1} if marked else {}
        told = case.source(**every, **given).logits
    torch.testing.assert_close(case.model.run(inputs).logits, told, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*CASES, "internvl", "mistral3", "qwen2_vl", "qwen2_5_vl"])
def test_that_a_text_is_cut_and_a_picture_is_not(name: str) -> None:
    case = opened(ALL[name])
    image = two_images()[0]
    whole = case.model.encode([Sample("a", text="<image> one two three red cat", image=image)])
    cut = case.model.encode([Sample("a", text="<image> one two three red cat", image=image)], max_tokens=4)
    assert int((cut.kind == 2).sum()) == int((whole.kind == 2).sum()) > 0
    assert cut.ids.shape[1] < whole.ids.shape[1] and torch.equal(cut.ids, whole.ids[:, : cut.ids.shape[1]])


def test_that_a_tokenizer_without_the_mark_is_told() -> None:
    case = opened(ALL["paligemma"])
    adapter = case.model._adapter
    known = adapter.image_id  # type: ignore[attr-defined]
    try:
        adapter.image_id = 999  # type: ignore[attr-defined]
        with pytest.raises(AuditorError, match="image tokens in the place of"):
            case.model.encode([Sample("a", text="red", image=two_images()[0])])
    finally:
        adapter.image_id = known  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["paligemma", "smolvlm", "qwen2_5_vl"])
def test_that_an_edit_in_the_tower_reaches_the_language_model_and_only_rows_with_pictures(name: str) -> None:
    case = opened(ALL[name])
    inputs = case.model.encode(case.samples)
    clean = case.model.run(inputs).logits
    edited = case.model.run(inputs, edits=[Ablate("vision.blocks.1.resid_post")]).logits
    assert clean is not None and edited is not None
    assert not torch.allclose(clean[0], edited[0], atol=1e-3) and torch.equal(clean[1], edited[1])
