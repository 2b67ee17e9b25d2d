"""SigLIP 2 over pictures of several shapes: whose patches are whose."""

from __future__ import annotations

import torch

from auditor.data import PositionKind, Sample, text_sample
from tests.models.tiny import ALL, opened
from tests.models.tiny.vision import shapes


def test_that_each_picture_has_its_own_grid_and_a_text_has_none() -> None:
    model = opened(ALL["siglip2"]).model
    wide, tall = shapes()
    samples = [tall, Sample("text", text="red cat"), wide]
    run = model.run(samples, record=["vision.embed"], logits=False)
    found, counts = run.positions("vision.embed"), []
    for row, grid in enumerate([(3, 2), None, (2, 3)]):
        held = found.kind[row] == PositionKind.IMAGE
        counts.append(int(held.sum()))
        assert found.grid_of(row) == grid
        assert found.unit[row][held].tolist() == list(range(counts[-1]))
        assert (found.kind[row][~held] == PositionKind.PAD).all() and (run.rows("vision.embed")[row][~held] == 0).all()
    assert counts == [6, 0, 6]
    alone = model.run([wide], record=["vision.embed"], logits=False)
    torch.testing.assert_close(run.rows("vision.embed")[2], alone.rows("vision.embed")[0])
    nothing = model.run([text_sample("red cat")], record=["vision.embed", "embed"])
    assert nothing.rows("vision.embed").shape[1] == 0 and nothing.positions("vision.embed").grid is None
