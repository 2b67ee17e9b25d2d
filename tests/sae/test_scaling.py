"""What training changes in its rows is undone in what is saved, and what it must not see it never sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.data import Sample
from auditor.sae.sae import LAYER_NORM_EPS
from auditor.sae.trainer import TrainConfig, Trainer, train
from auditor.store.record import RecordConfig, record
from tests.reference import sae as reference
from tests.sae.memory_store import MemoryStore, known

SMALL = TrainConfig(d_sae=64, k=3, l1=0.2, steps=30, batch_size=64, lr=1e-2, dead_after=500, device="cpu")


@pytest.fixture(scope="module")
def store():
    return MemoryStore(7 * known(3000)[0] + 2)


def scaled(rows, normalise, factor):
    """What training makes of raw rows."""
    if normalise == "layer_norm":
        spread = rows.std(1, ddof=1, keepdims=True) + LAYER_NORM_EPS
        return (rows - rows.mean(1, keepdims=True)) / spread
    return rows * factor


@pytest.mark.parametrize("arch", ["topk", "relu", "gated", "jumprelu", "matching_pursuit"])
@pytest.mark.parametrize("normalise", ["none", "norm", "layer_norm"])
def test_that_the_saved_dictionary_errs_on_raw_rows_as_it_did_in_training(store, arch, normalise):
    trainer = Trainer(SMALL.model_copy(update={"arch": arch, "normalise": normalise}), store)
    for x, _ in zip(trainer.batches(), range(20), strict=False):
        trainer.step(x)
    rows = store.data[:64]
    outcome = trainer.gradients(rows)
    sae = trainer.finish()
    raw = sae.reconstruct(torch.from_numpy(rows)).numpy().astype(np.float64)
    factor = trainer.scaling.factors()
    if normalise == "layer_norm":  # the error on the scale that training saw
        error = (raw - rows) / (rows.std(1, ddof=1, keepdims=True) + LAYER_NORM_EPS)
    else:
        error = (raw - rows) * factor
    assert np.square(error).sum() == pytest.approx(float(outcome.squared_error), rel=2e-2)
    assert sae.normalise == ("layer_norm" if normalise == "layer_norm" else "none")
    assert (factor == 1.0) == (normalise != "norm")
    wanted = scaled(rows, normalise, factor)
    np.testing.assert_allclose(trainer.batch(rows).x.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_that_unit_norm_means_a_mean_norm_of_the_root_of_the_width(store):
    trainer = Trainer(SMALL, store)
    norms = np.linalg.norm(store.data * trainer.scaling.factors(), axis=1)
    assert norms.mean() == pytest.approx(32**0.5, rel=0.02)
    assert reference.fvu(store.data, store.data) == 0


def test_that_a_normalisation_that_cannot_be_is_told(store):
    with pytest.raises(AuditorError, match="all zero"):
        Trainer(SMALL, MemoryStore(np.zeros((500, 8), np.float32)))
    with pytest.raises(AuditorError, match="not finite"):
        Trainer(SMALL.model_copy(update={"normalise": "none"}), MemoryStore(np.full((500, 8), np.inf, np.float32)))


def test_that_special_tokens_and_sinks_never_reach_a_batch_or_the_scale(tiny_llama, tmp_path):
    texts = ["The capital of France is Paris.", "def add(a, b):\n    return a + b", "A padlock keeps a door shut."]
    samples = [Sample(f"s{n}", text=f"{texts[n % 3]} {n}") for n in range(40)]
    config = RecordConfig(model="m", samples="s", hooks=("blocks.1.resid_post",), store_dtype="float32")
    store = record(config, tiny_llama, samples, tmp_path / "a.store")
    kind, rows = store.positions().kind, store.rows(slice(None))
    assert (kind == 3).sum() >= 40 and np.linalg.norm(rows[kind == 3], axis=1).max() > 3 * np.median(
        np.linalg.norm(rows[kind == 1], axis=1)
    )
    special = {row.tobytes() for row in rows[kind == 3]}
    ordinary = {row.tobytes() for row in rows[kind == 1]}
    settings = SMALL.model_copy(update={"batch_size": 50})
    trainer, seen = Trainer(settings, store), set()
    for x, _ in zip(trainer.batches(), range(2 * int((kind == 1).sum()) // 50), strict=False):
        seen |= {row.tobytes() for row in x}
    assert seen == ordinary and not seen & special
    factor = 576**0.5 / np.linalg.norm(rows[kind == 1], axis=1).mean()
    assert trainer.scaling.factors() == pytest.approx(factor, rel=0.02)
    sae = train(settings, store, tmp_path / "d")
    assert sae.meta["quality"]["n"] == len(rows[kind == 1])
