"""Towers beside a language model: logits against transformers' own, positions, and what the language model reads."""

from __future__ import annotations

import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.data import PositionKind
from auditor.models import Ablate
from tests.models.tiny import ALL, opened

LLAVA = ("llava", "llava full")


@pytest.mark.parametrize("name", LLAVA)
def test_that_llavas_logits_and_positions_are_those_of_its_image_tokens(name: str) -> None:
    case = opened(ALL[name])
    inputs = case.model.encode(case.samples)
    run = case.model.run(inputs, record=["image_tokens"])
    assert run.logits is not None and inputs.pixels is not None
    ids = torch.where(inputs.mask & (inputs.ids < 0), 3, inputs.ids.clamp(min=0))
    with torch.no_grad():
        told = case.source(input_ids=ids, pixel_values=inputs.pixels, attention_mask=inputs.mask.long())
    for row in range(3):
        length = int(inputs.mask[row].sum())
        torch.testing.assert_close(run.logits[row, :length], told.logits[row, :length], atol=1e-4, rtol=1e-4)
    full = [PositionKind.SPECIAL] if name == "llava full" else []
    expected = [PositionKind.SPECIAL, PositionKind.TEXT, *full, *[PositionKind.IMAGE] * 4, PositionKind.TEXT]
    assert inputs.kind[0].tolist()[: len(expected)] == expected
    assert inputs.unit[0][inputs.kind[0] == PositionKind.IMAGE].tolist() == [0, 1, 2, 3]
    assert inputs.grid == (2, 2) and run.positions("image_tokens").grid == (2, 2)


@pytest.mark.parametrize("name", LLAVA)
def test_that_an_edit_at_the_layer_llava_reads_is_seen_by_the_language_model(name: str) -> None:
    case = opened(ALL[name])
    inputs = case.model.encode(case.samples[:1])
    clean = case.model.run(inputs).logits
    edited = case.model.run(inputs, edits=[Ablate("vision.blocks.1.resid_post")]).logits
    unread = case.model.run(inputs, edits=[Ablate("vision.blocks.2.resid_post")]).logits
    assert clean is not None and edited is not None and unread is not None
    assert not torch.allclose(clean, edited, atol=1e-3)
    assert torch.equal(clean, unread)


def test_that_clips_logits_say_how_well_pictures_and_texts_fit() -> None:
    case = opened(ALL["clip"])
    inputs = case.model.encode(case.samples)
    logits = case.model.run(inputs).logits
    with torch.no_grad():
        told = case.source(input_ids=inputs.ids.clamp(min=0), pixel_values=inputs.pixels).logits_per_image
    assert logits is not None
    torch.testing.assert_close(logits, told)


@pytest.mark.parametrize("name", ["bert", "vit", "mixtral"])
def test_that_a_family_without_linear_parts_says_so(name: str) -> None:
    with pytest.raises(AuditorError, match="Linearised"), opened(ALL[name]).model.linearised():
        pass
