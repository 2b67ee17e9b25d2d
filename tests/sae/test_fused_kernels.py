"""The fused TopK step inside the training loop by its kernels, interpreted: what `test_fused` says of plain torch."""

from __future__ import annotations

import pytest
import torch

from auditor.sae.kernels.cuda import language
from auditor.sae.trainer import TrainConfig, Trainer
from tests.sae.memory_store import MemoryStore, known
from tests.sae.test_cuda_step import interpreted, off, rounding

__all__ = ["rounding"]
pytestmark = [interpreted, pytest.mark.usefixtures("rounding")]
# A feature that did not fire in one batch is dead in the next, and AuxK knows of it four steps later.
CONFIG = TrainConfig(
    d_sae=8, k=2, steps=12, batch_size=4, lr=3e-3, dead_after=3, auxk_rows=3, auxk_alpha=0.5, device="cpu"
)
KERNELS, PLAIN, SPARSE = "kernels", "plain torch", "a CPU's step"


@pytest.fixture(scope="module")
def store():
    return MemoryStore(known(200, d_in=8)[0])


@pytest.fixture
def trainer(store, monkeypatch):
    def made(how, **changed):
        monkeypatch.setattr("auditor.sae.archs.topk.fits", lambda d_sae, k, device: how != SPARSE)
        monkeypatch.setattr(language, "usable", lambda device: how == KERNELS)
        return Trainer(CONFIG.model_copy(update=changed), store)

    return made


def steps(trainer, count):
    """The losses of so many more steps."""
    first = trainer.progress.step
    batches = (trainer.store.data[4 * at : 4 * at + 4] for at in range(first, first + count))
    return [float(trainer.step(x).loss) for x in batches]


def state(trainer):
    """Everything that a checkpoint keeps, by name, in float32."""
    return {name: tensor.detach().float().clone() for name, tensor in trainer.progress.tensors(trainer.flag).items()}


def test_that_kernels_train_as_plain_torch_and_go_on_from_a_checkpoint_to_the_same_bits(trainer, tmp_path):
    ours, theirs = trainer(KERNELS), trainer(PLAIN)
    kernels = ours.architecture.fused._kernels
    assert kernels.pipeline is not None and theirs.architecture.fused._kernels.pipeline is None
    losses = steps(ours, 6)
    assert losses == pytest.approx(steps(theirs, 6), rel=1e-4)
    ours.save(tmp_path / "kept")
    begun, true = state(ours), state(theirs)
    assert begun.keys() == true.keys() and {"adam.b_dec.clock", "adam.encoder.exp_avg"} < begun.keys()
    for name, tensor in true.items():
        assert off(begun[name], tensor) < 1e-3, name
    assert kernels.pipeline.rooms  # some were dead, and are revived
    losses = steps(ours, 1)
    again = trainer(KERNELS)
    again.load(tmp_path / "kept")
    assert all(torch.equal(tensor, begun[name]) for name, tensor in state(again).items())
    assert steps(again, 1) == losses
    ended = state(ours)
    assert all(torch.equal(tensor, ended[name]) for name, tensor in state(again).items())


@pytest.mark.parametrize(("first", "then"), [(KERNELS, SPARSE), (SPARSE, KERNELS)])
def test_that_kernels_and_a_cpus_step_go_on_from_one_another(trainer, tmp_path, first, then):
    """As where a run goes on over several processes, or memory was short at first."""
    # Without AuxK, for which kernels count the dead some steps before.
    whole, parts = trainer(SPARSE, auxk_alpha=0.0), trainer(first, auxk_alpha=0.0)
    steps(parts, 3)
    parts.save(tmp_path / "kept")
    kept, parts = state(parts), trainer(then, auxk_alpha=0.0)
    parts.load(tmp_path / "kept")
    taken = state(parts)
    for name in ("encoder", "decoder", "b_enc", "b_dec", "silent"):
        assert torch.equal(taken[name], kept[name]), name
    for name in ("encoder", "decoder", "b_enc", "b_dec"):
        first_moment = kept[f"adam.{name}.exp_avg"]
        rounded = first_moment.bfloat16().float() if then == KERNELS and first_moment.dim() == 2 else first_moment
        assert torch.equal(taken[f"adam.{name}.exp_avg"], rounded) and rounded.any(), name
        assert torch.equal(taken[f"adam.{name}.exp_avg_sq"], kept[f"adam.{name}.exp_avg_sq"]), name
    if then == KERNELS:
        assert taken["adam.b_dec.clock"].tolist() == pytest.approx([3, 0.9**3, 0.999**3])
    else:
        assert {float(taken[f"adam.{name}.step"]) for name in ("encoder", "decoder", "b_enc", "b_dec")} == {3}
    assert steps(parts, 1) == pytest.approx(steps(whole, 4)[3:], rel=0.02)
