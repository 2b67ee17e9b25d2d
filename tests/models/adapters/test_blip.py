"""BLIP, against the library's own processor and forward pass, and what of its family opens by raw names only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.data import Sample, text_sample
from auditor.intake.weights import GENERIC, inspect_model
from auditor.store.recipe import groups_of
from tests.models.test_several_pictures import fast
from tests.models.tiny import ALL, Case, opened


def case() -> Case:
    return opened(ALL["blip"])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_that_a_picture_and_a_text_are_read_as_the_library_does_where_it_goes_on_with_them() -> None:
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
    from transformers.models.blip.processing_blip import BlipProcessor

    sample = case().samples[0]
    assert sample.image is not None
    make = BlipProcessor(BlipImageProcessorPil(size={"height": 16, "width": 16}), fast(case()))
    given = make(images=[sample.image.load()], text=[sample.text], return_tensors="pt")
    inputs = case().model.encode([sample])
    assert inputs.pixels is not None
    # Its own way to go on leaves the end token out.
    assert torch.equal(inputs.ids, given["input_ids"][:, :-1])
    torch.testing.assert_close(inputs.pixels, given["pixel_values"], atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        told = case().source(given["pixel_values"], input_ids=inputs.ids).logits
    torch.testing.assert_close(case().model.run(inputs).logits, told, atol=1e-5, rtol=1e-5)


def test_that_a_picture_without_a_text_is_told_from_the_begin_token_on() -> None:
    model, image = case().model, case().samples[0].image
    inputs = model.encode([Sample("alone", image=image)])
    logits = model.run(inputs).logits
    assert inputs.ids.tolist() == [[1]] and logits is not None and logits.shape == (1, 1, 10)
    with pytest.raises(AuditorError, match="no image"):
        model.encode([text_sample("red cat")])


def test_that_what_is_looked_at_is_the_pictures_patches() -> None:
    model = case().model
    hooks = ["blocks.1.cross_k", "blocks.1.cross_z", "vision.blocks.0.z"]
    run = model.run(case().samples, record=hooks)
    assert run.positions(hooks[0]).unit[0].tolist() == [-1, 0, 1, 2, 3] and run.positions(hooks[0]).grid == (2, 2)
    assert groups_of(model, hooks) == {"text": [hooks[1]], "vision": [hooks[0], hooks[2]]}


def test_that_blips_for_other_ends_open_by_raw_names(tmp_path: Path) -> None:
    ALL["blip"].save(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    assert inspect_model(tmp_path).family == "blip"
    (tmp_path / "config.json").write_text(json.dumps(said | {"architectures": ["BlipForQuestionAnswering"]}))
    assert inspect_model(tmp_path).family == GENERIC
