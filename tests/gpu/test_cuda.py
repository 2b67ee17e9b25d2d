"""What must hold on an NVIDIA GPU: run `pytest tests/gpu` on a machine that has one; elsewhere all are skipped."""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import pytest
import torch

from auditor.analysis.circuits import attribute
from auditor.analysis.detection import pool
from auditor.analysis.interventions import feature_effect
from auditor.base.errors import Stop
from auditor.base.reporter import Reporter
from auditor.data.sample import text_sample
from auditor.models import open_model
from auditor.sae.trainer import TrainConfig, train
from auditor.store.batch_size import settled
from auditor.store.capture import _on_cpu, encode, kinds_of, launch
from auditor.store.record import RecordConfig, record
from tests.analysis.dictionaries import TEXTS as DICTIONARY_TEXTS
from tests.analysis.dictionaries import activation_dictionary, activation_rows
from tests.sae.memory_store import MemoryStore, known
from tests.sae.test_trainer import Listener

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
TEXTS = ["The capital of France is Paris.", "def add(a, b):\n    return a + b", "A padlock keeps a door shut."]


@contextlib.contextmanager
def waits_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it is a prototype, once it is on
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(scope="module")
def on_gpu(tiny_llama_folder):
    return open_model(tiny_llama_folder, device="cuda")


def test_that_auto_means_the_gpu_where_there_is_one(tiny_llama_folder):
    assert open_model(tiny_llama_folder, device="auto").device.type == "cuda"


def test_that_recording_changes_no_bit_of_the_logits(on_gpu):
    inputs = on_gpu.encode([text_sample(text) for text in TEXTS])
    assert torch.equal(on_gpu.run(inputs).logits, on_gpu.run(inputs, record=list(on_gpu.hook_points)).logits)


def test_that_a_recording_is_the_processors_up_to_rounding(on_gpu, tiny_llama, tmp_path):
    samples = [text_sample(text) for text in TEXTS]
    config = RecordConfig(model="m", samples="s", hooks=("blocks.0.resid_post", "blocks.1.mlp_out"))
    ours = record(config, on_gpu, samples, tmp_path / "gpu.store")
    theirs = record(config, tiny_llama, samples, tmp_path / "cpu.store")
    assert ours.meta["replay"]["device"] == "cuda"
    everything = np.arange(ours.n_rows)
    for hook in config.hooks:
        a, b = ours.rows(everything, hook=hook), theirs.rows(everything, hook=hook)
        assert np.abs(a - b).max() <= 2e-3 * np.abs(b).max()


def test_that_rows_are_taken_without_a_wait_for_the_gpu(on_gpu, tiny_llama):
    samples = [text_sample(text) for text in TEXTS]
    config = RecordConfig(model="m", samples="s", hooks=("blocks.0.resid_post",))
    batch = encode(on_gpu, samples, config)
    assert batch.inputs.ids.is_pinned() and batch.inputs.kind.is_pinned()
    run = on_gpu.run(batch.inputs, record=config.hooks, logits=False)
    with waits_are_errors():
        batch.inputs.to("cuda")
        kinds = kinds_of(run, config.hooks, config)
        copied, arrived = _on_cpu([kinds, run.rows(config.hooks[0])], on_gpu.device)
    arrived.synchronize()
    assert all(copy.is_pinned() for copy in copied)
    theirs = tiny_llama.run(batch.inputs, record=config.hooks, logits=False)
    assert torch.equal(copied[0], kinds_of(theirs, config.hooks, config))
    torch.testing.assert_close(copied[1], theirs.rows(config.hooks[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_that_rows_which_the_gpu_selects_and_narrows_are_those_that_come_whole(dtype, tiny_llama_folder, monkeypatch):
    model, samples = open_model(tiny_llama_folder, device="cuda", dtype=dtype), [text_sample(text) for text in TEXTS]
    hooks = ["blocks.0.resid_post", "blocks.1.mlp_out"]
    config = RecordConfig(model="m", samples="s", hooks=tuple(hooks), dtype=dtype)
    batch = encode(model, samples, config)
    found = launch(model, batch, hooks, config, narrow=True)
    taken, captured = next(iter(found.groups.values())), found.captured()
    assert all(values.is_pinned() and len(values) == len(taken.at) for values in taken.values.values())
    assert len(taken.at) < batch.inputs.ids.numel()
    monkeypatch.setattr("auditor.store.capture._selects", lambda device: False)
    whole = launch(model, batch, hooks, config, narrow=True).captured()
    for hook in hooks:
        assert captured.rows[hook].dtype == np.float16 and whole.rows[hook].dtype == np.float32
        np.testing.assert_array_equal(captured.rows[hook], whole.rows[hook].astype(np.float16))


def test_that_the_number_of_samples_at_once_is_tried_out(on_gpu):
    many = [text_sample(text, f"{text}{number}") for number in range(100) for text in TEXTS]
    config = RecordConfig(model="m", samples="s", hooks=("blocks.0.resid_post",))
    assert settled(config, on_gpu, many, list(config.hooks), Reporter()).batch_size in (16, 32)  # of 300 an eighth


@pytest.mark.parametrize(("arch", "settings"), [("topk", {"k": 3}), ("relu", {"l1": 0.6})])
def test_that_training_explains_as_much_as_on_the_processor(arch, settings, tmp_path):
    store, found = MemoryStore(known(4000)[0]), {}
    for device in ("cpu", "cuda"):
        config = TrainConfig(
            arch=arch, d_sae=64, steps=300, batch_size=256, lr=3e-3, dead_after=4000, device=device, **settings
        )
        found[device] = train(config, store, tmp_path / device).meta["quality"]["fvu"]
    assert found["cuda"] < max(1.1 * found["cpu"], found["cpu"] + 0.01)


def test_that_a_stopped_training_goes_on_to_the_same_explained_variance(tmp_path):
    store = MemoryStore(known(4000)[0])
    config = TrainConfig(d_sae=64, k=3, steps=60, batch_size=256, checkpoint_every=10, device="cuda")
    whole = train(config, store, tmp_path / "whole")
    with pytest.raises(Stop):
        train(config, store, tmp_path / "parts", Listener(stop_at=25))
    parts = train(config, store, tmp_path / "parts")
    assert parts.meta["quality"]["fvu"] == pytest.approx(whole.meta["quality"]["fvu"], rel=1e-3)


def test_that_a_circuit_is_the_processors_up_to_rounding(smollm2, smollm2_folder):
    hooks = ("blocks.7.resid_post", "blocks.14.resid_post", "blocks.22.resid_post")
    saes = {hook: activation_dictionary(smollm2, hook, seed=i) for i, hook in enumerate(hooks)}
    models = (smollm2, open_model(smollm2_folder, device="cuda"))
    theirs, mine = (attribute(model, saes, "The capital of Germany is").scores() for model in models)
    assert mine.replacement == pytest.approx(theirs.replacement, abs=0.02)
    assert mine.completeness == pytest.approx(theirs.completeness, abs=0.02)


def test_that_experiments_give_the_processors_figures_up_to_rounding(on_gpu, tiny_llama):
    hook, samples = "blocks.0.resid_post", [text_sample(text) for text in DICTIONARY_TEXTS]
    sae = activation_dictionary(tiny_llama, hook, d_sae=200, k=8, seed=2)
    feature = int((sae.encode(activation_rows(tiny_llama, hook)) > 0).float().mean(0).sub(0.06).abs().argmin())
    theirs, mine = (feature_effect(m, sae, feature, samples, n_null=20, n_random=5) for m in (tiny_llama, on_gpu))
    assert mine.estimate == pytest.approx(theirs.estimate, rel=0.02) and mine.fired == theirs.fired
    pools = [pool(m, sae, samples[:3], samples[3:]) for m in (tiny_llama, on_gpu)]
    assert np.abs(pools[0].features - pools[1].features).max() <= 2e-3 * pools[0].features.max()
