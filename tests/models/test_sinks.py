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
