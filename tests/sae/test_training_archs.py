"""Every architecture in the training loop: killed and gone on with, finished, fine-tuned, and what it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.sae import checkpoint, load_any
from auditor.sae.archs import ARCHITECTURES
from auditor.sae.quality import evaluate
from auditor.sae.train_config import ARCHS, TrainConfig
from auditor.sae.trainer import Trainer, train
from tests.reference import sae as reference
from tests.sae.memory_store import MemoryStore

# Where the defaults are not for so small a world.
SETTINGS = {
    "relu": {"l1": 1.0, "p_end": 0.5}, "gated": {"l1": 2.0}, "crosscoder": {"l1": 1.0},
    "jumprelu": {"target_l0": 6}, "clt": {"l1": 0.5}, "temporal": {"heads": 2, "bottleneck": 8}, "groupmax": {"k": 4},
}  # fmt: skip
# Those whose penalty weighs each feature by the norm of its decoder row, which is then free.
WEIGHED = ("relu", "crosscoder", "clt")
# And those whose one matrix for both ways is free in its norms.
FREE = (*WEIGHED, "temporal")
HOOKS = {
    "one": {"hook": "a"}, "samples": {"hook": "a"}, "several": {"hook": "a, b"}, "pair": {"hook": "a", "target": "y"},
    "layers": {"hook": "a, b", "target": "y, z"},
}  # fmt: skip


@pytest.fixture(scope="module")
def world():
    """A store of hook points of different widths: `a` and `b` share half of their directions, `y` and `z` are written
    along others by what fires in `a`, and by what fires in `a` or `b`; raw norms differ a lot."""
    rng = np.random.default_rng(3)
    codes = (rng.random((6000, 60)) < 0.05) * (0.5 + rng.random((6000, 60)))
    parts = {}
    for name, width, used, size in (("a", 24, 40, 7.0), ("b", 24, 60, 0.1), ("y", 16, 40, 1.0), ("z", 16, 60, 30.0)):
        directions = rng.standard_normal((60, width))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        held = codes * (np.arange(60) >= (20 if name == "b" else 0)) * (np.arange(60) < used)
        parts[name] = size * (held @ directions + 0.3 * directions[0] + 0.01 * rng.standard_normal((6000, width)))
    return MemoryStore(parts)


def config_of(arch, **settings):
    values = {"d_sae": 64, "k": 5, "steps": 40, "batch_size": 64, "lr": 1e-2, "checkpoint_every": 10,
              "metrics_every": 5, "dead_after": 500, "device": "cpu", "evaluate_rows": 0}  # fmt: skip
    values |= HOOKS[ARCHITECTURES.get(arch).takes] | SETTINGS.get(arch, {}) | settings
    return TrainConfig(arch=arch, **values)


def raw(store, config, index):
    """Input and target rows of the hook points that the config names."""
    parts = [
        torch.from_numpy(np.concatenate([store.parts[name][index] for name in names.split(", ")], axis=1))
        for names in (config.hook, config.target or config.hook)
    ]
    return parts[0], parts[1]


def samples(arch, n):
    """What n rows of the store are given with: for an architecture that reads them in order, how many a sample has."""
    return [[16] * (n // 16) + [n % 16] * (n % 16 > 0)] if arch == "temporal" else []


def order(trainer, rows):
    """The same for a batch."""
    runs = trainer.reading.order(torch.from_numpy(rows)).get("runs")
    return [] if runs is None else [runs]


class Killed(BaseException):
    """Ends a training as SIGKILL would: nothing is caught, nothing is written."""


class Killer(Reporter):
    def step(self, done, total=0, note="", unit=""):
        if done == 25:
            raise Killed


@pytest.mark.parametrize("arch", ARCHS)
def test_that_a_killed_run_of_every_architecture_goes_on_to_the_same_bits(tmp_path, world, arch):
    config = config_of(arch)
    whole = train(config, world, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, world, tmp_path / "killed", Killer())
    assert checkpoint.place(tmp_path / "killed").exists() and not (tmp_path / "killed").exists()
    world.served.clear()
    gone_on = train(config, world, tmp_path / "killed")
    if arch != "temporal":  # whose rows are asked for by number
        assert [number for seed, number in world.served if seed == config.seed] == list(range(20, 40))
    assert whole.tensors().keys() == gone_on.tensors().keys()
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, gone_on.tensors()[name]), name
    x, _ = raw(world, config, slice(0, 100))
    given = samples(arch, len(x))
    torch.testing.assert_close(load_any(tmp_path / "killed").reconstruct(x, *given), whole.reconstruct(x, *given))


@pytest.mark.parametrize("arch", ["topk", "jumprelu"])
def test_that_a_fine_tuning_that_was_killed_goes_on_to_the_same_bits(tmp_path, world, arch):
    first = train(config_of(arch, steps=10), world, tmp_path / "first")
    config = config_of(arch, start_from="first", seed=3)
    whole = train(config, world, tmp_path / "whole", start=first)
    with pytest.raises(Killed):
        train(config, world, tmp_path / "killed", Killer(), start=first)
    gone_on = train(config, world, tmp_path / "killed", start=first)
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, gone_on.tensors()[name]), name
    assert not torch.equal(whole.W_dec, first.W_dec)


@pytest.mark.parametrize("arch", ARCHS)
def test_that_decoder_rows_stay_at_unit_norm_where_the_architecture_says_so(world, arch):
    trainer = Trainer(config_of(arch), world)
    for x, _ in zip(trainer.batches(), range(15), strict=False):
        trainer.step(x)
    decoder = trainer.progress.parameters.decoder.detach()
    off = float((decoder.flatten(1).norm(dim=1) - 1).abs().max())
    assert (off < 1e-5) == trainer.architecture.unit_rows == (arch not in FREE)


@pytest.mark.parametrize("arch", ARCHS)
def test_that_the_finished_dictionary_predicts_on_raw_data_what_training_predicted(world, arch):
    config = config_of(arch, product="float32")
    trainer = Trainer(config, world)
    for x, _ in zip(trainer.batches(), range(15), strict=False):
        trainer.step(x)
    p, rows = trainer.progress.parameters, next(trainer.batches(99))
    kind, batch = trainer.architecture, trainer.batch(rows)
    if arch in ("batchtopk", "matryoshka"):
        # In training the batch sets the threshold; the finished one has that of the sample.
        kind._sample = batch.x
    outcome, sae = kind.gradients(p, batch), trainer.finish()
    x, target = trainer.reading.split(torch.from_numpy(rows))
    error = (sae.reconstruct(x, *order(trainer, rows)) - target) * trainer.scaling.output
    assert float(error.pow(2).sum()) == pytest.approx(float(outcome.squared_error), rel=1e-3)
    z = sae.encode(x, *order(trainer, rows))
    assert float((z > 0).sum(1).float().mean()) == pytest.approx(float(outcome.l0), rel=1e-3)
    assert (sae.hook, sae.hook_out) == (config.hook, config.target)


@pytest.mark.parametrize("arch", ARCHS)
def test_that_fine_tuning_starts_where_the_dictionary_was(world, arch):
    config = config_of(arch, product="float32")
    trainer = Trainer(config, world)
    for x, _ in zip(trainer.batches(), range(30), strict=False):
        trainer.step(x)
    sae = trainer.finish()
    # Another seed draws another sample, and so another scale.
    again = Trainer(config.model_copy(update={"start_from": "it", "seed": 5}), world, sae)
    x, target = raw(world, config, slice(0, 500))
    given = samples(arch, len(x))
    was, now = (reference.fvu(target.numpy(), made.reconstruct(x, *given).numpy()) for made in (sae, again.finish()))
    by_batch = arch in ("batchtopk", "matryoshka")  # there the batch chooses, and another sample sets the threshold
    assert now == pytest.approx(was, abs=1e-2 if by_batch else 1e-4)
    rows = next(again.batches())
    outcome = again.step(rows)
    x, target = again.reading.split(torch.from_numpy(rows))
    error = (sae.reconstruct(x, *order(again, rows)) - target) * again.scaling.output
    assert float(outcome.squared_error) == pytest.approx(float(error.pow(2).sum()), rel=0.2 if by_batch else 1e-3)
    smaller = config.model_copy(update={"start_from": "it", "d_sae": 32})
    with pytest.raises(AuditorError, match="64"):
        Trainer(smaller, world, sae)


@pytest.mark.parametrize("arch", ARCHS)
def test_that_every_architecture_learns_more_than_random_directions_the_mean_and_a_linear_map(world, tmp_path, arch):
    config = config_of(arch, steps=300, batch_size=128, d_sae=96, dead_after=5000)
    quality = evaluate(train(config, world, tmp_path / "d"), world, 2000)
    assert quality.l0 < 16
    assert quality.fvu < 0.8 * min(quality.baselines.values())


@pytest.mark.parametrize("loss", ["step", "tanh"])
@pytest.mark.parametrize("target", [3, 6, 12])
def test_that_jumprelu_comes_within_a_tenth_of_the_l0_aimed_at_in_a_few_hundred_steps(world, target, loss):
    config = config_of("jumprelu", steps=300, batch_size=128, d_sae=96, target_l0=target, jump_loss=loss)
    trainer = Trainer(config, world)
    for x, _ in zip(trainer.batches(), range(config.steps), strict=False):
        assert trainer.step(x) is not None
    z = trainer.finish().encode(raw(world, config, slice(None))[0])
    assert float((z > 0).sum(1).float().mean()) == pytest.approx(target, rel=0.1)


@pytest.mark.parametrize("arch", ["batchtopk", "matryoshka"])
def test_that_a_finished_threshold_lets_k_features_a_row_through_on_fresh_rows(world, arch):
    config = config_of(arch, steps=40, batch_size=128, d_sae=96)
    trainer = Trainer(config, world)
    for x, _ in zip(trainer.batches(), range(config.steps), strict=False):
        trainer.step(x)
    z = trainer.finish().encode(raw(world, config, slice(None))[0])
    assert float((z > 0).sum(1).float().mean()) == pytest.approx(config.k, rel=0.1)


def test_that_a_crosscoder_tells_shared_features_from_those_of_one_source(world):
    config = config_of("crosscoder", steps=300, batch_size=128, d_sae=96)
    trainer = Trainer(config, world)
    for x, _ in zip(trainer.batches(), range(config.steps), strict=False):
        trainer.step(x)
    sae = trainer.finish()
    shares = sae.source_shares()
    counts = sae.meta["architecture"]["norm_shares"]
    assert [sum(held) for held in counts.values()] == [96, 96]
    for name, column in zip(("a", "b"), shares.unbind(1), strict=True):
        assert sum(counts[name][:10]) == int((column < 0.5).sum())
    # 20 of the 60 directions are of `a` alone, as many of `b` alone, though what `b` holds is 70 times smaller.
    active = (sae.encode(raw(world, config, slice(None))[0]) > 0).float().mean(0) > 0.01
    of_a = shares[active, 0]
    assert int((of_a > 0.9).sum()) >= 10 and int((of_a < 0.1).sum()) >= 10
    assert int(((of_a > 0.3) & (of_a < 0.7)).sum()) >= 10
