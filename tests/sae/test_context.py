"""Temporal dictionaries: what they foresee against numpy, what a row may see, and who must give samples whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from auditor.base.errors import AuditorError
from auditor.sae import context, doctor, load
from auditor.sae.doctor import examine, plausible
from auditor.sae.quality import evaluate
from auditor.sae.readings import read_as
from auditor.sae.sae import blocks
from auditor.sae.train_config import TrainConfig
from auditor.sae.trainer import Trainer
from auditor.sae.whole_samples import batches_in_order, whole_samples
from tests.reference import temporal as reference
from tests.sae.memory_store import MemoryStore
from tests.sae.temporal import HEADS, attention_of, temporal

D, RUNS = 10, [5, 1, 8, 3]


@pytest.fixture
def x():
    return torch.randn(sum(RUNS), D) * 2


def stored(rng, lengths, width=D, special=True):
    """A store of samples of these lengths, whose first position is special, and large."""
    rows = rng.standard_normal((sum(lengths), width)) * 2
    first = np.cumsum([0, *lengths])[:-1]
    kind = np.ones(len(rows), np.uint8)
    if special:
        kind[first], rows[first] = 3, rows[first] * 30
    return MemoryStore(rows, kind=kind, sample=np.repeat(np.arange(len(lengths)), lengths).astype(np.int32))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("on_input", [True, False])
def test_that_what_is_foreseen_and_the_codes_of_the_rest_are_the_references(x, layers, on_input):
    sae = temporal(D, layers=layers, seed=int(torch.randint(1000, ())))
    if not on_input:  # b_dec is on the output alone: what is foreseen, and the codes, are of the raw rows
        context = replace(sae.context, offset=sae.b_dec)
        sae = replace(sae, context=context, b_enc=(sae.b_dec * context.scale) @ sae.W_enc)
    rows = x.double().numpy() - (sae.b_dec.double().numpy() if on_input else 0)
    W_enc, W_dec = sae.W_enc.double().numpy(), sae.W_dec.double().numpy()
    attention = [attention_of(sae.context, layer) for layer in range(layers)]
    parts = np.split(rows, np.cumsum(RUNS)[:-1])
    p = np.vstack([reference.foreseen(part, W_enc, W_dec, attention, HEADS, 1 / (4 * D)) for part in parts])
    pre = (rows - p) @ W_enc / (4 * D)
    z = np.where(pre >= np.sort(pre, axis=1)[:, -4][:, None], np.maximum(pre, 0), 0)
    torch.testing.assert_close(sae.encode(x, RUNS).double(), torch.from_numpy(z), rtol=1e-4, atol=1e-5)
    out = z @ W_dec + p + sae.b_dec.double().numpy()
    torch.testing.assert_close(sae.reconstruct(x, RUNS).double(), torch.from_numpy(out), rtol=1e-4, atol=1e-4)


def test_that_a_row_is_described_by_what_stands_before_it_in_its_own_sample_alone(x):
    sae = temporal(D)
    whole = sae.encode(x, RUNS)
    other = x.clone()
    other[6:] = torch.randn_like(x[6:])  # all samples from the third on
    torch.testing.assert_close(sae.encode(other, RUNS)[:6], whole[:6])
    later = x.clone()
    later[3] += 1.0  # within the first sample
    torch.testing.assert_close(sae.encode(later, RUNS)[:3], whole[:3])
    assert (sae.encode(later, RUNS)[4] - whole[4]).abs().max() > 1e-4
    alone = torch.cat([sae.encode(part, [len(part)]) for part in torch.split(x, RUNS)])
    torch.testing.assert_close(alone, whole)
    samples = torch.randn(3, 7, D)
    torch.testing.assert_close(sae.encode(samples), sae.encode(samples.reshape(21, D), [7, 7, 7]).view(3, 7, -1))
    torch.testing.assert_close(sae.reconstruct(samples), sae.reconstruct(samples.view(21, D), [7] * 3).view(3, 7, D))


def test_that_short_memory_cuts_between_samples_only(x, monkeypatch):
    sae = temporal(D)
    values, ids = sae.encode_sparse(x, RUNS)
    wanted, out = torch.zeros(len(x), sae.d_sae).scatter(1, ids, values), sae.reconstruct(x, RUNS)
    monkeypatch.setattr("auditor.sae.sae._BLOCK_ELEMENTS", 6 * sae.d_sae)
    assert [runs for _, runs in sae.blocks(len(x), RUNS)] == [[5, 1], [8], [3]]
    values, ids = sae.encode_sparse(x, RUNS)
    torch.testing.assert_close(torch.zeros(len(x), sae.d_sae).scatter(1, ids, values), wanted)
    torch.testing.assert_close(sae.reconstruct(x, RUNS), out)
    assert [part for part, _ in blocks(7, 3, None)] == [slice(0, 3), slice(3, 6), slice(6, 9)]


def test_that_rows_one_by_one_are_refused_in_a_sentence(x):
    sae = temporal(D)
    for work in (sae.encode, sae.encode_sparse, sae.reconstruct, sae.pre):
        with pytest.raises(AuditorError, match="whole samples in order"):
            work(x)
    with pytest.raises(AuditorError, match="a temporal autoencoder"):
        sae.must_be_plain("Editing a feature")


def test_that_it_is_saved_and_read_as_it_is(tmp_path, x):
    untied = temporal(D)
    untied.W_enc = untied.W_enc + 0.1
    for name, sae in {"tied": temporal(D, hook="h"), "untied": untied}.items():
        sae.save(tmp_path / name)
        back = load(tmp_path / name)
        torch.testing.assert_close(back.encode(x, RUNS), sae.encode(x, RUNS), rtol=0, atol=0)
        torch.testing.assert_close(back.reconstruct(x, RUNS), sae.reconstruct(x, RUNS), rtol=0, atol=0)
    tied, untied = (tmp_path / name / "sae_weights.safetensors" for name in ("tied", "untied"))
    assert untied.stat().st_size - tied.stat().st_size >= 4 * D * 32


def test_that_it_is_measured_on_whole_samples_and_judged_where_positions_are_ordinary():
    rng = np.random.default_rng()
    store, sae = stored(rng, [6, 3, 9, 4]), temporal(D)
    found = evaluate(sae, store, 10_000)
    runs, judged = [6, 3, 9, 4], store.kind == 1
    rows = torch.from_numpy(store.data)
    y = store.data[judged].astype(np.float64)
    off = (sae.reconstruct(rows, runs).numpy() - store.data)[judged].astype(np.float64)
    assert (found.n, found.n_samples) == (18, 4)
    assert found.fvu == pytest.approx((off**2).sum() / ((y - y.mean(0)) ** 2).sum(), rel=1e-4)
    assert found.l0 == pytest.approx(float((sae.encode(rows, runs)[judged] > 0).sum(1).float().mean()), rel=1e-6)


def test_that_samples_are_drawn_whole():
    rng = np.random.default_rng()
    store = stored(rng, [4] * 20)
    index, runs = whole_samples(store, 17, seed=3)
    assert runs == [4] * 4 and len(np.unique(store.sample[index])) == 4
    assert all((np.diff(part) == 1).all() and part[0] % 4 == 0 for part in np.split(index, 4))
    index, runs = whole_samples(stored(rng, [30, 40]), 5, seed=0)
    assert runs in ([30], [40])  # at least one


def test_that_batches_to_learn_from_are_samples_in_order_and_go_on_where_they_stopped():
    rng = np.random.default_rng()
    store = stored(rng, [6, 3, 9, 4])
    told = {"seed": 5, "hooks": ["blocks.1.resid_post"], "kinds": ("text",)}
    stream = batches_in_order(store, 16, start=0, **told)
    first, second = next(stream), next(stream)
    np.testing.assert_array_equal(next(batches_in_order(store, 16, start=1, **told)), second)
    for batch in (first, second):
        place = {tuple(row): number for number, row in enumerate(store.data)}
        rows = np.array([place[tuple(row)] for row in batch[:, :D]])
        begins = np.flatnonzero(batch[:, -2])
        assert begins[0] == 0 and np.isin(rows[begins], [0, 6, 9, 18]).all()
        steps = np.diff(rows)
        assert (np.delete(steps, begins[1:] - 1) == 1).all()
        np.testing.assert_array_equal(batch[:, -1], store.kind[rows] == 1)
    assert len(next(batches_in_order(store, 100, start=0, **told))) == 100  # more than the store has
    with pytest.raises(AuditorError, match="no rows of kind image"):
        next(batches_in_order(store, 16, start=0, seed=5, hooks=["blocks.1.resid_post"], kinds=("image",)))


def test_that_the_doctor_examines_it_on_whole_samples_in_the_readings_that_it_can_have():
    rng = np.random.default_rng(3)
    store, sae = stored(rng, [30] * 12), temporal(D, d_sae=64, k=8, hook="blocks.1.resid_post")
    readings = plausible(sae, torch.from_numpy(store.data))
    assert "as read" in readings and "layer_norm" in readings and "relu" in readings
    assert not any("b_dec" in reading or "norms" in reading or "transposed" in reading for reading in readings)
    found = examine(sae, store)
    rows, judged = torch.from_numpy(store.data), store.kind == 1
    off = (sae.reconstruct(rows, [30] * 12).numpy() - store.data)[judged]
    spread = store.data[judged] - store.data[judged].mean(0)
    row = next(row for row in found.table if row.reading == "as read")
    assert (found.n, found.n_samples) == (12 * 29, 12)
    assert row.fvu == pytest.approx(float((off.astype(np.float64) ** 2).sum() / (spread.astype(np.float64) ** 2).sum()),
                                    rel=1e-4)  # fmt: skip
    with pytest.raises(AuditorError, match="no convention of temporal"):
        read_as(sae, "decoder-norms")


def test_that_a_factor_on_the_input_leaves_the_codes_as_they_are(x):
    sae = temporal(D, d_sae=64)
    scaled = read_as(sae, "scale=0.25")
    torch.testing.assert_close(scaled.encode(x, RUNS), sae.encode(0.25 * x, RUNS), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scaled.reconstruct(x, RUNS), 4 * sae.reconstruct(x / 4, RUNS), rtol=1e-4, atol=1e-4)


DAMAGE = {
    "heads": {"n_heads": 3}, "layers": {"n_attn_layers": 2}, "no bottleneck": {"bottleneck_factor": 0},
    "activation": {"sae_diff_type": "sigmoid"}, "norm": {"normalize_activations": "batch"}, "width": {"d_in": 13},
    "factor": {"normalize_activations": "constant_scalar_rescale", "activation_normalization_factor": 0},
    "k": {"kval_topk": -1}, "untied": {"tied_weights": False},
}  # fmt: skip
TENSORS = {
    "attn_layers.0.k_ctx.weight": torch.zeros(8, 31), "attn_layers.0.c_proj.bias": torch.zeros(31),
    "b_dec": torch.zeros(11), "attn_layers.0.v_ctx.bias": None, "W_dec": torch.zeros(32, 12, 1),
}  # fmt: skip


@pytest.mark.parametrize("damage", [*DAMAGE, *TENSORS])
def test_that_settings_or_tensors_that_do_not_fit_are_refused_in_a_sentence(tmp_path, damage):
    folder = tmp_path / "temporal"
    shutil.copytree(Path(__file__).parent / "formats" / "fixtures" / "sae-lens" / "temporal", folder)
    if damage in DAMAGE:
        settings = json.loads((folder / "cfg.json").read_text())
        (folder / "cfg.json").write_text(json.dumps(settings | DAMAGE[damage]))
    else:
        tensors = load_file(folder / "sae_weights.safetensors") | {damage: TENSORS[damage]}
        save_file({key: t for key, t in tensors.items() if t is not None}, folder / "sae_weights.safetensors")
    with pytest.raises(AuditorError, match="temporal"):
        load(folder)


def test_that_many_short_samples_are_not_filled_up_to_the_longest(monkeypatch):
    sae, runs = temporal(D), [3, 200, 1, 120, 7, *[2] * 150]
    x, filled, plain = torch.randn(sum(runs), D), [], context.pad_sequence

    def counted(samples, **how):
        found = plain(samples, **how)
        filled.append(found.shape[0] * found.shape[1])
        return found

    monkeypatch.setattr(context, "pad_sequence", counted)
    together = sae.encode(x, runs)
    assert sum(runs) <= sum(filled) < 2 * sum(runs)
    torch.testing.assert_close(together, torch.cat([sae.encode(part, [len(part)]) for part in torch.split(x, runs)]))
    torch.testing.assert_close(sae.encode(x[:5], [3, 0, 2]), sae.encode(x[:5], [3, 2]))


def test_that_what_is_only_read_counts_in_no_share_of_rows_while_it_is_trained():
    rng = np.random.default_rng()
    settings = {"arch": "temporal", "d_sae": 32, "k": 4, "heads": 2, "bottleneck": 4, "batch_size": 80, "steps": 9}
    trainer = Trainer(TrainConfig(**settings, device="cpu"), stored(rng, [2] * 300))
    assert trainer.batch(next(trainer.batches())).counted == 40
    outcome = trainer.step(next(trainer.batches()))
    torch.testing.assert_close(trainer.progress.density.share, outcome.counts / 40)
    assert set(trainer.progress.silent.tolist()) <= {0, 40}
    none = trainer.batch(next(trainer.batches()))
    none.judged[:] = False
    empty = trainer.architecture.gradients(trainer.progress.parameters, none)
    assert float(empty.l0) == float(empty.loss.detach()) == 0


def test_that_the_doctor_takes_factors_from_rows_that_are_judged():
    store, sae = stored(np.random.default_rng(3), [6] * 60), temporal(D, d_sae=64, k=8, hook="blocks.1.resid_post")
    asked = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(doctor, "plausible", lambda sae, x: asked.append(x) or ["as read"])
        examine(sae, store)
    assert len(asked[0]) == 60 * 5 and float(asked[0].norm(dim=1).max()) < 20
