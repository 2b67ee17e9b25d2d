"""BLIP-2, against the library's own processor and forward pass, and what of its family opens by raw names only."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.data import PositionKind, text_sample
from auditor.intake.weights import GENERIC, inspect_model
from auditor.models import Ablate, open_model
from auditor.store.recipe import groups_of
from tests.models.checks import Changed
from tests.models.test_several_pictures import fast, interleaved
from tests.models.tiny import ALL, Case, opened


def case(over: str = "") -> Case:
    return opened(ALL[f"blip-2 {over}".strip()])


def processor(case: Case) -> Any:
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
    from transformers.models.blip_2.processing_blip_2 import Blip2Processor

    return Blip2Processor(BlipImageProcessorPil(size={"height": 16, "width": 16}), fast(case), num_query_tokens=3)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_that_a_picture_and_a_text_are_read_as_by_the_library() -> None:
    sample = case().samples[0]
    assert sample.image is not None
    given = processor(case())(images=[sample.image.load()], text=[f"<s> {sample.text}"], return_tensors="pt")
    inputs = case().model.encode([sample])
    assert inputs.pixels is not None
    assert torch.equal(torch.where(inputs.ids < 0, 3, inputs.ids), given["input_ids"])
    torch.testing.assert_close(inputs.pixels, given["pixel_values"], atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        told = case().source(**given).logits
    torch.testing.assert_close(case().model.run(inputs).logits, told, atol=1e-5, rtol=1e-5)
    image, special, text = (int(kind) for kind in (PositionKind.IMAGE, PositionKind.SPECIAL, PositionKind.TEXT))
    assert inputs.kind[0].tolist() == [image] * 3 + [special, text, text]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_that_a_t5_reads_a_picture_and_a_text_and_writes_as_by_the_library() -> None:
    spoken = opened(ALL["blip-2 t5"])
    sample = spoken.samples[0]
    assert sample.image is not None
    given = processor(spoken)(images=[sample.image.load()], text=[sample.text], return_tensors="pt")
    inputs = spoken.model.encode([sample])
    assert inputs.target is not None
    assert torch.equal(torch.where(inputs.ids < 0, 3, inputs.ids), given["input_ids"])
    with torch.no_grad():
        told = spoken.source(**given, decoder_input_ids=inputs.target.ids).logits
    torch.testing.assert_close(spoken.model.run(inputs).logits, told, atol=1e-5, rtol=1e-5)
    assert inputs.target.ids.tolist() == [[0, 1, 5, 6, 9]]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_that_the_words_are_read_by_an_instructblips_queries_as_by_the_library() -> None:
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
    from transformers.models.instructblip.processing_instructblip import InstructBlipProcessor

    asked = opened(ALL["instructblip"])
    first, _, third = asked.samples
    assert first.image is not None and first.text is not None
    size = {"height": 16, "width": 16}
    make = InstructBlipProcessor(BlipImageProcessorPil(size=size), fast(asked), fast(case("t5")), num_query_tokens=3)
    given = make(images=[first.image.load()], text=[first.text], return_tensors="pt")
    inputs = asked.model.encode([first, replace(third, text="one two three cat")])
    ids = torch.where(inputs.ids < 0, 3, inputs.ids)[:1, : 4 + len(first.text.split())]
    assert given["input_ids"].tolist() == ids[:, [0, 1, 2, *range(4, ids.shape[1])]].tolist()  # ours has a begin token
    asking = inputs.beside["qformer_input_ids"][:1, : given["qformer_input_ids"].shape[1]]
    assert torch.equal(given["qformer_input_ids"], asking)
    with torch.no_grad():
        told = asked.source(**given | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits
    logits = asked.model.run(inputs).logits
    assert logits is not None
    torch.testing.assert_close(logits[:1, : told.shape[1]], told, atol=1e-5, rtol=1e-5)


def test_that_words_are_keys_and_values_of_an_instructblips_queries() -> None:
    asked = opened(ALL["instructblip"])
    hooks = ["qformer.blocks.0.q", "qformer.blocks.0.v", "qformer.blocks.0.pattern"]
    run = asked.model.run(asked.samples, record=hooks)
    assert run.rows(hooks[0]).shape[1] == 3 and run.rows(hooks[1]).shape[1] == 3 + 8
    assert run.records[hooks[2]].shape == (3, 4, 3, 11)
    kinds = run.positions(hooks[1]).kind
    image, special = int(PositionKind.IMAGE), int(PositionKind.SPECIAL)
    assert kinds[0].tolist() == [image] * 3 + [special] * 4 + [0] * 4 and not kinds[1].any()
    held = run.records[hooks[2]].sum(-1)
    torch.testing.assert_close(held[0], torch.ones(4, 3))
    assert not held[1].any()


def test_that_an_instructblip_without_its_second_tokenizer_is_refused(tmp_path: Path) -> None:
    ALL["instructblip"].save(tmp_path)
    shutil.rmtree(tmp_path / "qformer_tokenizer")
    with pytest.raises(AuditorError, match="qformer_tokenizer"):
        open_model(tmp_path)


def test_that_a_text_alone_is_read_as_by_the_opt() -> None:
    inputs = case().model.encode([text_sample("one two")])
    run = case().model.run(inputs, record=["image_tokens", "embed"])
    with torch.no_grad():
        told = case().source.language_model(input_ids=inputs.ids).logits
    torch.testing.assert_close(run.logits, told)
    assert inputs.pixels is None and run.records["image_tokens"].shape[1] == 0


def test_that_queries_are_no_places_in_the_picture_and_what_they_look_at_is() -> None:
    model, hooks = case().model, ["qformer.blocks.0.resid_mid", "qformer.blocks.0.cross_v", "image_tokens"]
    run = model.run(case().samples, record=hooks)
    for hook, count in zip(hooks, (3, 5, 3), strict=True):
        assert run.rows(hook).shape[1] == count and run.positions(hook).kind[1].tolist() == [0] * count
        assert run.positions(hook).grid == ((2, 2) if count == 5 else None)
    assert sorted(groups_of(model, [*hooks, "vision.blocks.0.z"])) == ["context", "tokens", "vision"]
    assert run.positions(hooks[1]).unit[0].tolist() == [-1, 0, 1, 2, 3]


def test_that_what_a_query_sees_reaches_its_own_sample_alone() -> None:
    inputs = case().model.encode(case().samples)
    clean = case().model.run(inputs).logits
    first = torch.tensor([1.0, 0.0, 0.0])[:, None, None, None]
    edit = Changed("qformer.blocks.0.cross_pattern", lambda x: x * (1 - first))
    moved = case().model.run(inputs, edits=[edit]).logits
    dark = case().model.run(inputs, edits=[Ablate("image_tokens")]).logits
    assert clean is not None and moved is not None and dark is not None
    assert torch.equal(moved[1:], clean[1:]) and not torch.allclose(moved[0], clean[0], atol=1e-3)
    assert torch.equal(dark[1], clean[1]) and not torch.allclose(dark[2], clean[2], atol=1e-3)


def test_that_two_pictures_are_told() -> None:
    with pytest.raises(AuditorError, match="2 pictures"):
        case().model.encode([interleaved()])


def test_that_one_that_speaks_through_another_network_opens_by_raw_names(tmp_path: Path) -> None:
    ALL["blip-2"].save(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    assert inspect_model(tmp_path).family == "blip_2"
    others = (
        {"text_config": {"model_type": "gpt2"}},
        {"text_config": said["text_config"] | {"do_layer_norm_before": False}},
        {"architectures": ["Blip2ForImageTextRetrieval"]},
    )
    for other in others:
        (tmp_path / "config.json").write_text(json.dumps(said | other), encoding="utf-8")
        assert inspect_model(tmp_path).family == GENERIC
