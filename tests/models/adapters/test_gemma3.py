"""Gemma 3's crops of long pictures, against the library's processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from auditor.base.errors import AuditorError
from auditor.data import ImageRef, PositionKind, Sample
from auditor.models import open_model
from tests.models.tiny import ALL, Case, opened

SHAPES = [(20, 24), (24, 20), (20, 50), (61, 9), (33, 33), (8, 70), (7, 70), (90, 31)]


def picture(shape: tuple[int, int]) -> ImageRef:
    return ImageRef.of(np.random.default_rng(2).integers(0, 255, (*shape, 3), dtype=np.uint8))


def processed(case: Case, text: str, images: list[ImageRef]) -> Any:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
    from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

    marked = transformers.PreTrainedTokenizerFast(
        tokenizer_object=case.model.tokenizer.backend_tokenizer, pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>", "boi_token": "<start>", "eoi_token": "<end>"},
    )  # fmt: skip
    make = Gemma3Processor(Gemma3ImageProcessorPil(size={"height": 32, "width": 32}), marked, image_seq_length=4)
    asked = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 8, "pan_and_scan_max_num_crops": 3}
    return make(images=[image.load() for image in images], text=text, return_tensors="pt", **asked)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("shape", SHAPES)
def test_that_crops_text_and_logits_are_the_librarys_whatever_the_shape(shape: tuple[int, int]) -> None:
    """To the bit: the same kernels run on the same numbers."""
    case, images = opened(ALL["gemma3 crops"]), [picture(shape), picture((20, 20))]
    given = processed(case, "<s> one <start> red <start> cat", images)
    sample = Sample("a", text="one <start> red <start> cat", image=images[0], more=(images[1],))
    inputs = case.model.encode([sample])
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    assert torch.equal(ids, given["input_ids"]) and inputs.pixels is not None
    assert torch.equal(inputs.pixels, given["pixel_values"])
    with torch.no_grad():
        told = case.source(**given).logits
    assert torch.equal(case.model.run(inputs).logits, told)  # type: ignore[arg-type]


def test_that_a_crops_tokens_stand_over_its_part_of_the_picture() -> None:
    """Where one third of a picture changes, so do the tokens of that crop and those over it in the whole."""
    model, plain = opened(ALL["gemma3 crops"]).model, picture((20, 60)).load()
    other = plain.copy()
    other[:, 40:] = 255 - other[:, 40:]
    runs = [model.run([Sample("a", text="red", image=ImageRef.of(x))], record=["vision.embed"]) for x in (plain, other)]
    places, rows = runs[0].positions("vision.embed"), [run.rows("vision.embed") for run in runs]
    sheet = places.sheets[0]
    assert sheet is not None and [panel.box for panel in sheet.panels] == [
        (0, 0, 20, 60), (0, 0, 20, 20), (0, 20, 20, 40), (0, 40, 20, 60),
    ]  # fmt: skip
    whole, first, second, last = (set(sheet.units(panel).tolist()) for panel in sheet.panels)
    moved = (rows[0] - rows[1]).abs().amax(-1)[0] > 1e-6
    changed = set(places.unit[0][moved].tolist())
    # Of four patches across the whole, the third reaches from 30 to 45 pixels.
    right = {int(unit) for at, unit in enumerate(sheet.units(sheet.panels[0])) if at % 4 >= 2}
    assert changed == right | last and right < whole and not changed & (first | second)
    assert set(places.kind[0].tolist()) == {int(PositionKind.IMAGE)} and len(places.unit[0]) == 64
    assert model.shown(runs[0].inputs, 0, 64) is not None


def test_that_a_judge_of_pictures_tells_its_classes_at_the_last_position() -> None:
    case = opened(ALL["shieldgemma2"])
    inputs = case.model.encode(case.samples[:1])
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)
    with torch.no_grad():
        told = case.source(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=inputs.pixels,
            token_type_ids=(ids == 3).long(),
        ).logits  # fmt: skip
    logits = case.model.run(inputs).logits
    assert logits is not None and torch.equal(logits[:, -1, [4, 5]], told)
    assert "tokens 4 (Yes) and 5 (No)" in case.model.notes[-1]


def test_that_what_a_folder_asks_of_crops_is_told_or_refused(tmp_path: Path) -> None:
    ALL["gemma3"].save(tmp_path)
    assert not open_model(tmp_path).notes
    said: dict[str, Any] = {"do_pan_and_scan": True}
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(said), encoding="utf-8")
    model = open_model(tmp_path)
    assert "whole and in crops" in model.notes[0]
    # The library's own numbers, where the folder has none.
    panels = [len(model._adapter.panels(*shape)) for shape in ((255, 900), (256, 900), (300, 300), (256, 2000))]  # type: ignore[attr-defined]
    assert panels == [1, 4, 1, 5]
    for wrong in (
        {"max_num_crops": 0},
        {"min_crop_size": "small"},
        {"min_ratio_to_activate": 0.5},
        {"min_crop_size": 2},
    ):
        more = {f"pan_and_scan_{name}": value for name, value in wrong.items()}
        file.write_text(json.dumps(said | more), encoding="utf-8")
        with pytest.raises(AuditorError, match="crops that cannot be"):
            open_model(tmp_path)
