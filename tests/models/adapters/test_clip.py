"""What CLIP and its like have of a whole picture, against the library's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from auditor.data import PositionKind, text_sample
from auditor.store.recipe import groups_of
from tests.models.checks import Changed
from tests.models.tiny import ALL, opened


@pytest.mark.parametrize("name", ["clip", "metaclip_2", "siglip", "siglip2"])
def test_that_a_pictures_row_in_the_common_space_is_the_librarys(name: str) -> None:
    case = opened(ALL[name])
    first, second = case.samples
    inputs = case.model.encode([first, text_sample("one two"), second])
    run = case.model.run(inputs, record=["image_embeds"])
    rows, found = run.records["image_embeds"], run.positions("image_embeds")
    image, pad = int(PositionKind.IMAGE), int(PositionKind.PAD)
    assert found.kind.tolist() == [[image], [pad], [image]] and found.grid is None
    assert found.unit.tolist() == [[0], [-1], [0]]
    for row, sample in ((0, first), (2, second)):
        alone = case.model.encode([replace(sample, text=None)])
        assert alone.pixels is not None
        with torch.no_grad():
            told = case.source.get_image_features(pixel_values=alone.pixels, **alone.beside).pooler_output
        torch.testing.assert_close(rows[row], told, atol=1e-5, rtol=1e-5)
    # An edit of one picture's row changes how that picture fits, and no other.
    both = case.model.encode([first, second])
    turn = torch.tensor([1.0, 0.0])[:, None, None]
    edit = Changed("image_embeds", lambda x: x - 2 * turn * x.flip(-1))
    clean, edited = case.model.run(both).logits, case.model.run(both, edits=[edit]).logits
    assert clean is not None and edited is not None
    assert torch.equal(edited[1], clean[1]) and not torch.allclose(edited[0], clean[0], atol=1e-3)
    hooks = ["vision.blocks.0.resid_post", "image_embeds", "blocks.0.resid_post"]
    assert sorted(groups_of(case.model, hooks)) == ["text", "tokens", "vision"]
