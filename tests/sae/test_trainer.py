"""The training loop: it learns the truth, stops, is killed, meets NaN, and ends where an unbroken run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from auditor import sae as dictionaries
from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Reporter
from auditor.sae import checkpoint
from auditor.sae.archs import ARCHITECTURES
from auditor.sae.archs.relu import ReluConfig
from auditor.sae.archs.topk import TopK
from auditor.sae.microbatch import MicroBatches
from auditor.sae.run import schedule
from auditor.sae.trainer import TrainConfig, Trainer, train
from tests.reference import sae as reference
from tests.sae.made import architecture, batch_of
from tests.sae.memory_store import MemoryStore, known
from tests.sae.test_kernels import random_parameters

SMALL = TrainConfig(
    d_sae=64, k=3, steps=40, batch_size=64, lr=1e-2, checkpoint_every=10, metrics_every=5, dead_after=500, device="cpu"
)


class Listener(Reporter):
    """Keeps metrics and warnings; stops after a step."""

    def __init__(self, stop_at=None):
        self.metrics, self.told, self.stop_at = [], [], stop_at

    def metric(self, step, **values):
        self.metrics.append((step, values))

    def partial(self, kind, **data):
        self.told.append((kind, data))

    def step(self, done, total=0, note="", unit=""):
        if done == self.stop_at:
            raise Stop


def weights(path):
    return (Path(path) / "sae_weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def store():
    return MemoryStore(known(4000)[0])


@pytest.mark.parametrize(("arch", "settings"), [("topk", {"k": 5}), ("relu", {"l1": 0.6})])
def test_that_training_finds_the_true_directions(tmp_path, arch, settings):
    rows, truth = known(8000, d_in=24, n_true=32, offset=0.5)
    config = TrainConfig(
        arch=arch, d_sae=64, steps=500, batch_size=128, lr=1e-2, device="cpu", dead_after=5000, **settings
    )
    listener = Listener()
    sae = train(config, MemoryStore(rows), tmp_path / "d", listener)
    closest = (torch.from_numpy(truth) @ sae.W_dec.T).amax(1)
    assert float((closest > 0.9).float().mean()) > 0.9
    fresh = torch.from_numpy(rows[:2000])
    assert reference.fvu(rows[:2000], sae.reconstruct(fresh).numpy()) < 0.08
    said = listener.metrics[-1][1]["fvu"]
    assert said == pytest.approx(reference.fvu(rows[:2000], sae.reconstruct(fresh).numpy()), abs=0.03)
    assert listener.metrics[-1][1]["l0"] == pytest.approx(float((sae.encode(fresh) > 0).sum(1).float().mean()), rel=0.2)


def test_that_relu_loss_and_gradients_equal_the_reference():
    rng = np.random.default_rng()
    x = rng.standard_normal((60, 12)).astype(np.float32)
    p, plain = random_parameters(rng, 12, 40)
    config = ReluConfig(d_sae=40, seed=0, l1=0.7, p_end=1.0, steps=10, product="auto")
    outcome = architecture(config, x).gradients(p, batch_of(x, 5, d_sae=40))
    loss, z, wanted = reference.relu_step(x.astype(np.float64), *plain, 0.7)
    assert float(outcome.loss.detach()) == pytest.approx(loss, rel=1e-4)
    assert float(outcome.l0) == pytest.approx((z > 0).sum(1).mean())
    for tensor, want in zip(p.named().values(), wanted, strict=True):
        np.testing.assert_allclose(tensor.grad.numpy(), want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_that_the_penalty_rises_and_then_stays():
    config = ReluConfig(d_sae=2, seed=0, l1=2.0, p_end=1.0, steps=1000, product="float32")
    relu = architecture(config, torch.zeros(1, 1))
    assert relu.penalty(0) == pytest.approx(0.04)
    assert relu.penalty(49) == relu.penalty(999) == 2.0


@pytest.mark.parametrize("arch", ["topk", "relu"])
def test_that_folding_the_scale_and_norms_leaves_the_reconstruction_as_trained(store, arch):
    trainer = Trainer(SMALL.model_copy(update={"arch": arch}), store)
    p = trainer.progress.parameters
    with torch.no_grad():
        p.decoder *= 1 if arch == "topk" else torch.rand(64, 1) + 0.5
        p.b_enc += 0.1 * torch.randn(64)
        x = torch.from_numpy(store.data[:30])
        pre = torch.addmm(p.b_enc, x * trainer.scaling.input - p.b_dec, p.encoder.T)
        z = pre.relu()
        if arch == "topk":
            z = torch.zeros_like(z).scatter(1, *(t for t in reversed(pre.relu().topk(3, dim=1))))
        wanted = (z @ p.decoder + p.b_dec) / trainer.scaling.output
    sae = trainer.finish()
    torch.testing.assert_close(sae.decode(sae.encode(x)), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))


def test_that_topk_keeps_decoder_rows_at_unit_norm_and_gradients_across_them(store):
    trainer = Trainer(SMALL, store)
    p = trainer.progress.parameters
    trainer.update(trainer.gradients(store.data[:64]))
    torch.testing.assert_close(p.decoder.norm(dim=1).detach(), torch.ones(64))
    trainer.gradients(store.data[:64])
    TopK.before_update(trainer.architecture, p)
    assert float((p.decoder.grad * p.decoder.detach()).sum(1).abs().max()) < 1e-5


@pytest.mark.parametrize("product", ["auto", "float32"])
def test_that_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, store, product):
    config = SMALL.model_copy(update={"product": product})
    train(config, store, tmp_path / "whole")
    with pytest.raises(Stop):
        train(config, store, tmp_path / "parts", Listener(stop_at=17))
    assert checkpoint.place(tmp_path / "parts").exists()
    assert not (tmp_path / "parts").exists()
    train(config, store, tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert not checkpoint.place(tmp_path / "parts").exists()


CHILD = """
import sys, time
from memory_store import MemoryStore, known
from auditor.base.reporter import Reporter
from auditor.sae.trainer import TrainConfig, train
class Slow(Reporter):
    def step(self, done, total=0, note="", unit=""):
        print(done, flush=True)
        time.sleep(0.01 if done < 25 else 60)
train(TrainConfig.model_validate_json(sys.argv[2]), MemoryStore(known(4000)[0]), sys.argv[1], Slow())
"""


def test_that_a_killed_run_goes_on_to_the_same_bytes(tmp_path, store):
    train(SMALL, store, tmp_path / "whole")
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parents[1]}"}
    env["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    command = [sys.executable, "-c", CHILD, str(tmp_path / "killed"), SMALL.model_dump_json()]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True)
    with child:
        for line in child.stdout:
            if int(line) == 25:
                break
        os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    listener = Listener()
    store.served.clear()
    train(SMALL, store, tmp_path / "killed", listener)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert listener.metrics[0][0] == 25  # it went on from the checkpoint at 20
    assert [number for seed, number in store.served if seed == SMALL.seed] == list(range(20, 40))


def test_that_other_settings_do_not_go_on_with_a_stopped_run(tmp_path, store):
    with pytest.raises(Stop):
        train(SMALL, store, tmp_path / "d", Listener(stop_at=12))
    with pytest.raises(AuditorError, match="other settings: lr"):
        train(SMALL.model_copy(update={"lr": 1e-3}), store, tmp_path / "d")
    train(SMALL.model_copy(update={"lr": 1e-3}), store, tmp_path / "d", resume=False)
    assert dictionaries.load(tmp_path / "d").meta["train"]["lr"] == 1e-3


def test_that_a_run_that_an_earlier_version_stopped_goes_on_with_a_later_setting_at_its_default(tmp_path, store):
    with pytest.raises(Stop):
        train(SMALL, store, tmp_path / "d", Listener(stop_at=12))
    file = checkpoint.place(tmp_path / "d")
    facts, tensors = checkpoint.read(file)
    assert facts["identity"].pop("adapter") == "on"
    save_file(tensors, tmp_path / "earlier", metadata={"auditor": json.dumps(facts)})
    os.replace(tmp_path / "earlier", file)
    with pytest.raises(AuditorError, match="other settings: adapter"):
        train(SMALL.model_copy(update={"adapter": "off"}), store, tmp_path / "d")
    listener = Listener()
    train(SMALL, store, tmp_path / "d", listener)
    assert listener.metrics[0][0] == 15  # the first after the checkpoint at 12


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_that_a_damaged_checkpoint_gets_one_clear_sentence(tmp_path, store, damage):
    with pytest.raises(Stop):
        train(SMALL, store, tmp_path / "d", Listener(stop_at=12))
    file = checkpoint.place(tmp_path / "d")
    file.write_bytes({"cut": file.read_bytes()[:-100], "text": b"hello" * 99, "empty": b""}[damage])
    with pytest.raises(AuditorError, match=r"d\.training\.safetensors"):
        train(SMALL, store, tmp_path / "d")


@pytest.mark.parametrize("where", ["encoder", "decoder", "b_enc", "b_dec"])
def test_that_a_value_that_is_not_finite_sends_training_back_and_is_told(tmp_path, store, monkeypatch, where):
    spoilt = []
    update = Trainer.update

    def spoil(self, outcome, **how):
        update(self, outcome, **how)
        if self.progress.step == 23 and not spoilt:
            spoilt.append(True)
            with torch.no_grad():
                self.progress.parameters.named()[where].view(-1)[:] = float("nan")

    monkeypatch.setattr(Trainer, "update", spoil)
    listener = Listener()
    sae = train(SMALL, store, tmp_path / "d", listener)
    warnings = [data for kind, data in listener.told if kind == "warning"]
    assert len(warnings) == 1 and "step 23" in warnings[0]["message"]
    assert sae.meta["mishaps"] == [{"step": 23, "back_to": 20, "rate": 0.5}]
    assert all(bool(torch.isfinite(t).all()) for t in sae.tensors().values())


def test_that_rows_that_are_not_finite_are_named(tmp_path):
    rows = known(2000)[0]
    rows[1000:, 0] = np.nan
    kind = np.where(np.arange(2000) < 1000, 1, 2).astype(np.uint8)
    with pytest.raises(AuditorError, match="not finite"):
        train(SMALL, MemoryStore(rows, kind=kind), tmp_path / "d")

    class Turning(MemoryStore):
        def batches(self, size, *, seed=0, hook=None, start=0, kinds=()):
            for number, x in enumerate(super().batches(size, seed=seed, start=start), start):
                yield np.full_like(x, np.inf) if number == 7 and seed == SMALL.seed else x

    with pytest.raises(AuditorError, match="Batch 7 of the store"):
        train(SMALL, Turning(known(2000)[0]), tmp_path / "d")


def test_that_a_rate_that_never_stays_finite_ends_with_advice(tmp_path, store):
    with pytest.raises(AuditorError, match="Lower the learning rate"):
        train(SMALL.model_copy(update={"lr": 1.0, "l1": 1e3, "arch": "relu"}), Exploding(store.data), tmp_path / "d")


class Exploding(MemoryStore):
    """Batches that are finite but overflow when squared."""

    def batches(self, size, *, seed=0, hook=None, start=0, kinds=()):
        for x in super().batches(size, seed=seed, start=start):
            yield x * np.float32(1e30) if seed == SMALL.seed else x


def test_that_a_store_or_target_that_does_not_fit_is_refused(tmp_path, store):
    with pytest.raises(AuditorError, match=r"blocks\.1\.resid_post"):
        train(SMALL.model_copy(update={"hook": "blocks.9.resid_post"}), store, tmp_path / "d")
    only_text = MemoryStore(store.data, kind=np.ones(4000, np.uint8))
    with pytest.raises(AuditorError, match="no rows"):
        train(SMALL.model_copy(update={"kinds": "image"}), only_text, tmp_path / "d")
    with pytest.raises(AuditorError, match="smaller k"):
        train(SMALL.model_copy(update={"k": 65}), store, tmp_path / "d")
    (tmp_path / "d").mkdir()
    with pytest.raises(AuditorError, match="exists already"):
        train(SMALL, store, tmp_path / "d")
    if not torch.cuda.is_available():
        with pytest.raises(AuditorError, match="no usable NVIDIA GPU"):
            train(SMALL.model_copy(update={"device": "cuda"}), store, tmp_path / "e")


def test_that_the_rate_rises_holds_and_falls():
    config = TrainConfig(steps=100, warmup=0.1, decay=0.2)
    assert schedule(config, 0) == pytest.approx(0.1)
    assert schedule(config, 9) == schedule(config, 50) == schedule(config, 80) == 1.0
    assert schedule(config, 99) == pytest.approx(0.05)


def test_that_every_step_is_taken_at_the_rate_that_warm_up_and_decay_give(store):
    config = SMALL.model_copy(update={"steps": 10, "warmup": 0.4, "decay": 0.3, "lr": 1e-3})
    trainer, rates = Trainer(config, store), []
    bias = trainer.progress.parameters.b_dec.detach()
    before = bias.clone()
    for x, _ in zip(trainer.batches(), range(10), strict=False):
        trainer.step(x)
        if not rates:  # Adam's first step is as long as its rate, whatever the gradient (Kingma and Ba 2015, 2.1)
            assert float((bias - before).abs().max()) == pytest.approx(1e-3 / 4, rel=1e-3)
        rates.append(trainer.progress.optimiser.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, 1e-3 * np.array([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 2 / 3, 1 / 3]), rtol=1e-6)


@pytest.mark.parametrize("arch", ["topk", "relu"])
def test_that_pieces_give_the_gradients_of_the_whole_batch_when_memory_runs_out(arch):
    rng = np.random.default_rng()
    x = torch.from_numpy(rng.standard_normal((300, 12)).astype(np.float32))
    p, _ = random_parameters(rng, 12, 128)
    config = TrainConfig(d_sae=128, k=4, product="float32")
    kind = architecture(ARCHITECTURES.get(arch).config_class.of(config), x)
    batch = batch_of(x, d_sae=128)
    whole = kind.gradients(p, batch)
    wanted = [t.grad.clone() for t in p.named().values()]
    plain = kind.gradients

    def tight(parameters, given):
        if len(given.x) > 80:
            raise torch.OutOfMemoryError("no room")
        return plain(parameters, given)

    kind.gradients = tight
    pieces = MicroBatches(kind, lambda how: AuditorError(f"It does not fit the memory{how}."))
    outcome = pieces.gradients(p, batch)
    assert pieces.rows == 75
    assert float(outcome.loss.detach()) == pytest.approx(float(whole.loss.detach()), rel=1e-4)
    assert torch.equal(outcome.counts, whole.counts)
    for tensor, want in zip(p.named().values(), wanted, strict=True):
        torch.testing.assert_close(tensor.grad, want, rtol=1e-3, atol=1e-5)
    kind.gradients = lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no room"))
    with pytest.raises(AuditorError, match="does not fit the memory, even 75 rows at a time"):
        pieces.gradients(p, batch)
