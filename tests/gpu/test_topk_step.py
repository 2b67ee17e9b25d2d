"""The fused TopK step on an NVIDIA GPU: its kernels against plain torch, the same bits twice, and what it reaches.

Needs only torch, triton, numpy and pytest.
"""

from __future__ import annotations

import math

import pytest
import torch

from auditor.sae.kernels.cuda import language, plain
from auditor.sae.kernels.cuda.select import Selection
from auditor.sae.kernels.cuda.step import FusedTopK
from tests.bench.bench_step import Naive, fvu, rows, start

CUDA = torch.device("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (torch.cuda.is_available() and language.usable(CUDA)), reason="needs an NVIDIA GPU and triton"
    ),
]
SIZES = [(768, 4096, 512, 32), (4096, 2048, 256, 64), (200, 1000, 300, 7)]


def made(size, seed=0, dead=True, **settings):
    """A step, its weights and counters; an eighth of the features is silent and shut."""
    d, d_sae, batch, k = size
    weights = start(rows(2048, d, CUDA, seed), d_sae, seed)
    silent = torch.zeros(d_sae, dtype=torch.int64, device=CUDA)
    if dead:
        weights[2][::8] = -1
        silent[::8] = 10_000
    settings = {"auxk_alpha": 1 / 32, "auxk_rows": 100, "dead_after": 5000, **settings}
    return FusedTopK(*weights, k=k, batch_size=batch, **settings), weights, silent


def train(step, silent, size, steps, seed=1, lr=1e-3):
    losses = []
    for i in range(steps):
        loss, *_ = step.step(rows(size[2], size[0], CUDA, seed + i).half(), lr, silent)
        losses.append(loss.clone())
    return torch.stack(losses)


def off(found, true):
    """‖found - true‖ / ‖true‖ in float64."""
    return float((found.double() - true.double()).norm() / true.double().norm().clamp_min(1e-30))


@pytest.mark.parametrize(("count", "width", "k"), [(512, 24_576, 32), (64, 131_072, 64), (300, 1000, 7), (40, 64, 64)])
def test_that_selection_is_exact_with_ties_and_absent_entries(count, width, k):
    scores = torch.randn(count, width, device=CUDA).bfloat16()
    scores[0] = -1
    scores[1, ::3], scores[1, 1::3] = 2, float("nan")
    scores[2] = torch.randint(-3, 4, (width,), device=CUDA).bfloat16()
    values, ids = torch.empty(count, k, device=CUDA).bfloat16(), torch.empty(count, k, device=CUDA).int()
    Selection(count, width, k, 256, 1 if k <= 32 else 2, CUDA).run(scores, values, ids)
    true_values, true_ids = plain.largest(scores, k)
    assert torch.equal(values, true_values)
    assert torch.equal(ids.long(), true_ids)


@pytest.mark.parametrize("size", SIZES)
def test_that_kernels_give_the_plain_steps_gradients_and_updates(size):
    # One step, so that a near-tie that falls to the other side does not grow. First moments are gradients times 0.1.
    (ours, mine, _), (plain_, theirs, _) = made(size), made(size, kernels=False)
    found = []
    for step in (ours, plain_):
        silent = torch.zeros(size[1], dtype=torch.int64, device=CUDA)
        silent[::8] = 10_000
        step._dead.fill_(int((silent > 5000).sum()))
        loss, squared, l0, counts = step.step(rows(size[2], size[0], CUDA, 7).half(), 1e-3, silent)
        found.append((loss.item(), squared.item(), l0.item(), counts.clone(), silent, step.moments()))
    assert found[0][:3] == pytest.approx(found[1][:3], rel=1e-4)
    assert off(found[0][3], found[1][3]) < 0.01 and off(found[0][4], found[1][4]) < 0.01
    for name, true in found[1][5].items():
        assert off(found[0][5][name], true) < 5e-3, name
    # Adam's first step is the gradient's sign times the rate, which rounding can turn where the gradient is nearly 0.
    for found_, true in zip(mine, theirs, strict=True):
        assert off(found_, true) < 1e-3
    assert torch.allclose(mine[1].norm(dim=1), torch.ones(size[1], device=CUDA), atol=1e-5)
    assert bool((found[1][5]["encoder.exp_avg"][::8] != 0).any())  # the dead ones are revived


@pytest.mark.parametrize("size", SIZES)
def test_that_the_same_inputs_give_the_same_bits_with_a_graph_or_without(size):
    runs = []
    for graph in (True, True, False):
        step, weights, silent = made(size, graph=graph)
        losses = train(step, silent, size, 12)
        runs.append([losses, silent, *weights, *step.moments().values()])
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_that_a_restored_step_goes_on_bit_for_bit():
    size = SIZES[0]
    step, weights, silent = made(size)
    train(step, silent, size, 7)
    kept = {name: tensor.clone() for name, tensor in step.moments().items()}
    copies, silent_copy = [w.clone() for w in weights], silent.clone()
    train(step, silent, size, 7, seed=50)
    settings = {"auxk_alpha": 1 / 32, "auxk_rows": 100, "dead_after": 5000}
    again = FusedTopK(*copies, k=size[3], batch_size=size[2], moments=kept, **settings)
    train(again, silent_copy, size, 7, seed=50)
    assert all(torch.equal(a, b) for a, b in zip(weights, copies, strict=True))
    assert torch.equal(silent, silent_copy)


def test_that_a_loss_that_is_not_finite_changes_nothing():
    size = SIZES[0]
    step, weights, silent = made(size)
    train(step, silent, size, 6)
    kept = [t.clone() for t in (*weights, silent, step.state.clock, step.state.second["encoder"])]
    x = rows(size[2], size[0], CUDA, 3).half()
    x[5, 5] = float("inf")
    step.step(x, 1e-3, silent)
    assert not bool(step.finite)
    now = (*weights, silent, step.state.clock, step.state.second["encoder"])
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))
    train(step, silent, size, 1)
    assert bool(step.finite)


def test_that_a_step_does_not_wait_for_the_device():
    size = SIZES[0]
    step, _, silent = made(size)
    train(step, silent, size, 6)
    x = rows(size[2], size[0], CUDA, 3).half()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.step(x, 1e-3, silent)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_that_a_feature_in_every_row_is_summed_as_others_are():
    size = (768, 4096, 2048, 32)
    (ours, mine, silent), (plain_, theirs, silent2) = made(size, dead=False), made(size, dead=False, kernels=False)
    for weights, step in ((mine, ours), (theirs, plain_)):
        weights[2][:3] = 30
        step.refresh()
    x = rows(size[2], size[0], CUDA, 3)
    counts = ours.step(x, 1e-3, silent)[3]
    plain_.step(x, 1e-3, silent2)
    assert counts[:3].tolist() == [2048] * 3
    for name, true in plain_.moments().items():
        assert name == "dead" or off(ours.moments()[name], true) < 5e-3, name


def test_that_it_explains_as_much_as_autograd_after_as_many_steps():
    size = d, _, batch, k = (256, 2048, 2048, 16)
    step, weights, silent = made(size, dead=False, auxk_alpha=0.0)
    naive = Naive(weights, k)
    for i in range(200):
        x = rows(batch, d, CUDA, 100 + i)
        lr = 3e-3 * min(1, (i + 1) / 20) * min(1, (200 - i) / 50)
        step.step(x, lr, silent)
        naive.step(x, lr)
    held = rows(8192, d, CUDA, 5)
    ours, theirs = fvu(weights, k, held), fvu(naive.parameters, k, held)
    assert math.isfinite(ours) and theirs < 0.9 and ours < 1.02 * theirs, f"fused {ours:.4f}, autograd {theirs:.4f}"
