"""The fused TopK step inside the training loop, in plain torch on a CPU: it learns, and stopping costs no bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.base.errors import Stop
from auditor.sae.trainer import TrainConfig, Trainer, train
from tests.sae.memory_store import MemoryStore, known
from tests.sae.test_trainer import Listener, weights

CONFIG = TrainConfig(
    d_sae=64, k=3, steps=60, batch_size=128, lr=1e-2, checkpoint_every=10, dead_after=600, auxk_rows=64, device="cpu"
)


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    # Interpreted kernels would take minutes; `test_cuda_step` compares them with plain torch.
    monkeypatch.setattr("auditor.sae.kernels.cuda.language.usable", lambda device: False)


@pytest.fixture
def fused(monkeypatch):
    monkeypatch.setattr("auditor.sae.archs.topk.fits", lambda d_sae, k, device: True)


@pytest.fixture(scope="module")
def store():
    return MemoryStore(known(4000)[0])


def test_that_it_explains_as_much_as_the_sparse_step(tmp_path, store, monkeypatch):
    found = {}
    for name in ("sparse", "fused"):
        monkeypatch.setattr("auditor.sae.archs.topk.fits", lambda d_sae, k, device, name=name: name == "fused")
        sae = train(CONFIG.model_copy(update={"steps": 300}), store, tmp_path / name)
        found[name] = sae.meta["quality"]["fvu"]
        assert (sae.meta["architecture"]["product"] == "fused bfloat16") == (name == "fused")
    assert found["fused"] == pytest.approx(found["sparse"], rel=0.25) and found["fused"] < 0.3


@pytest.mark.parametrize("stop_at", [7, 10, 33])
def test_that_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, store, fused, stop_at):
    train(CONFIG, store, tmp_path / "whole")
    with pytest.raises(Stop):
        train(CONFIG, store, tmp_path / "parts", Listener(stop_at=stop_at))
    train(CONFIG, store, tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


@pytest.mark.parametrize("first", [True, False])
def test_that_a_run_goes_on_from_the_other_kind_of_step(tmp_path, store, monkeypatch, first):
    """As where a run of one GPU goes on over several, or memory was short at first."""
    monkeypatch.setattr("auditor.sae.archs.topk.fits", lambda d_sae, k, device: first)
    whole = train(CONFIG, store, tmp_path / "whole")
    with pytest.raises(Stop):
        train(CONFIG, store, tmp_path / "parts", Listener(stop_at=33))
    monkeypatch.setattr("auditor.sae.archs.topk.fits", lambda d_sae, k, device: not first)
    parts = train(CONFIG, store, tmp_path / "parts")
    assert (parts.meta["architecture"]["product"] == "fused bfloat16") != first
    fvu = [made.meta["quality"]["fvu"] for made in (whole, parts)]
    assert fvu[1] == pytest.approx(fvu[0], rel=0.05)
    assert float((whole.W_dec * parts.W_dec).sum(1).median()) > 0.99


def test_that_a_batch_that_is_not_finite_changes_nothing_and_is_caught(store, fused):
    trainer = Trainer(CONFIG, store)
    good = store.data[:128]
    assert trainer.step(good) is not None
    before = {name: tensor.clone() for name, tensor in trainer.progress.parameters.named().items()}
    bad = np.array(good)
    bad[3, 2] = np.inf
    assert trainer.step(bad) is None
    for name, tensor in trainer.progress.parameters.named().items():
        assert torch.equal(tensor, before[name]), name


def test_that_silence_is_counted_once(store, fused):
    trainer = Trainer(CONFIG, store)
    for number in range(3):
        outcome = trainer.step(store.data[number * 128 : (number + 1) * 128])
    silent = trainer.progress.silent
    assert torch.equal(silent[outcome.counts > 0], torch.zeros_like(silent[outcome.counts > 0]))
    assert set(silent.tolist()) <= {0, 128, 256, 384}
