"""Attention sinks: found where they are, and left out of what dictionaries learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from auditor.data import PositionKind, text_sample
from auditor.models import Model
from auditor.models.sinks import sinks
from auditor.store.record import RecordConfig, record

HOOK = "blocks.14.resid_post"


def test_that_only_ordinary_rows_far_longer_than_the_median_are_sinks() -> None:
    x = torch.randn(2, 6, 16)
    x[0, 1] *= 200
    x[1, 0] *= 200
    ordinary = torch.ones(2, 6, dtype=torch.bool)
    ordinary[1, 0] = False
    found = sinks("blocks.3.resid_mid", x, ordinary)
    assert found.nonzero().tolist() == [[0, 1]]
    assert not sinks("blocks.3.mlp_hidden", x, ordinary).any()
    assert not sinks("blocks.3.resid_mid", x, torch.zeros_like(ordinary)).any()


def test_that_a_row_is_a_sink_whatever_stands_beside_its_sample() -> None:
    x = torch.randn(3, 6, 16)
    x[1] *= 100  # a sample of long rows, none far longer than its own others
    x[2, 2] *= 200
    ordinary = torch.ones(3, 6, dtype=torch.bool)
    ordinary[0, 3:] = False
    together = sinks("blocks.3.resid_post", x, ordinary)
    assert together.nonzero().tolist() == [[2, 2]]
    for row in range(3):
        alone = sinks("blocks.3.resid_post", x[row : row + 1], ordinary[row : row + 1])
        assert torch.equal(alone[0], together[row])


def test_that_samples_that_share_a_row_are_judged_apart() -> None:
    x, sample = torch.randn(2, 7, 16), torch.tensor([[0, 0, 0, 1, 1, 1, 1], [2, 2, 2, 2, 3, 3, -1]])
    ordinary = sample >= 0
    x[0, 3:] *= 100
    x[0, 4] *= 100
    x[1, 1] *= 200
    x[1, 6] *= 1e4  # padding
    found = sinks("blocks.3.resid_post", x, ordinary, sample)
    assert found.nonzero().tolist() == [[0, 4], [1, 1]]


def test_that_a_real_sink_is_one_in_any_batch(smollm2: Model) -> None:
    texts = ("A padlock keeps a door shut.", "traffic: the amount of vehicles on a road", "Hello there.")
    together = smollm2.run([text_sample(text) for text in texts], record=[HOOK], logits=False).positions(HOOK).kind
    for row, text in enumerate(texts):
        alone = smollm2.run(text, record=[HOOK], logits=False).positions(HOOK).kind
        assert torch.equal(together[row, : alone.shape[1]], alone[0])


def test_that_a_real_sink_counts_as_special_and_is_recorded_all_the_same(smollm2: Model, tmp_path: Path) -> None:
    sink, plain = "traffic: the amount of vehicles on a road", "A padlock keeps a door shut."
    run = smollm2.run(smollm2.encode([text_sample(plain), text_sample(sink)]), record=[HOOK], logits=False)
    kind = run.positions(HOOK).kind
    words = (kind == PositionKind.TEXT).sum(1)
    assert (
        kind[1, 1] == PositionKind.SPECIAL
        and words.tolist() == (run.inputs.mask.sum(1) - torch.tensor([1, 2])).tolist()
    )

    hooks = ("blocks.1.resid_post", HOOK)
    config = RecordConfig(model="m", samples="s", hooks=hooks)
    store = record(config, smollm2, [text_sample(plain), text_sample(sink)], tmp_path / "a.store")
    lengths = np.linalg.norm(store.rows(np.arange(store.n_rows), hook=HOOK), axis=1)
    kinds = np.asarray(store.positions(slice(None)).kind)
    assert lengths.max() > 5000
    assert (kinds[lengths > 5000] == PositionKind.SPECIAL).all() and (kinds[lengths < 5000] == PositionKind.TEXT).all()
    batch = next(store.batches(8, hook=HOOK, epochs=1))
    assert np.linalg.norm(batch, axis=1).max() < 5000
