"""The fused TopK step without a GPU: plain torch against numpy, and the kernels, interpreted, against plain torch.

On a GPU tests/gpu/test_topk_step.py says more.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported

from auditor.sae.kernels.cuda import language, plain
from auditor.sae.kernels.cuda.pipeline import Tiling
from auditor.sae.kernels.cuda.select import Selection
from auditor.sae.kernels.cuda.step import FusedTopK
from tests.reference import fused as reference

CPU = torch.device("cpu")
interpreted = pytest.mark.skipif(
    not language.usable(CPU) or torch.cuda.is_available(), reason="needs triton, and its interpreter"
)
NAMES = ("encoder", "decoder", "b_enc", "b_dec")
# Blocks, tiles and pieces so small that every loop runs more than once.
TILING = Tiling(5, (2, 1), (2, 1), 3, (2, 1), 16, 1)


@pytest.fixture
def rounding(monkeypatch):
    """Triton's interpreter cuts bfloat16 off where GPUs round to the nearest."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    before = interpreter._convert_float

    def convert(data, given, wanted, mode):
        if (str(given), str(wanted)) == ("fp32", "bf16"):
            exact = torch.from_numpy(np.ascontiguousarray(data).view(np.float32)).bfloat16()
            return exact.view(torch.int16).numpy().view(np.uint16).reshape(data.shape)
        return before(data, given, wanted, mode)

    monkeypatch.setattr(interpreter, "_convert_float", convert)


def weights(rng, d, d_sae):
    decoder = rng.standard_normal((d_sae, d))
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    arrays = 0.5 * decoder, decoder, 0.1 * rng.standard_normal(d_sae), 0.1 * rng.standard_normal(d)
    return [torch.from_numpy(a.astype(np.float32)) for a in arrays]


def off(found, true):
    """‖found - true‖ / ‖true‖."""
    found, true = (np.asarray(a, dtype=np.float64) for a in (found, true))
    return np.linalg.norm(found - true) / max(np.linalg.norm(true), 1e-30)


def test_that_the_plain_step_is_the_formulas_with_adam_unit_norm_and_auxk():
    rng = np.random.default_rng()
    d, d_sae, batch, k = 24, 90, 40, 5
    given = weights(rng, d, d_sae)
    p = {name: t.double().numpy().copy() for name, t in zip(NAMES, given, strict=True)}
    moments = {name: (np.zeros_like(a), np.zeros_like(a)) for name, a in p.items()}
    step = FusedTopK(
        *given, k=k, batch_size=batch, auxk_alpha=0.5, auxk_rows=9, dead_after=100, scale=0.5, kernels=False
    )
    step._dead.fill_(15)
    silent = torch.zeros(d_sae, dtype=torch.int64)
    silent[:15] = 1000
    for t in range(1, 4):
        x = rng.standard_normal((batch, d)).astype(np.float32)
        dead = silent.numpy() > 100
        before = silent.numpy().copy()
        loss, squared, l0, counts = step.step(torch.from_numpy(x), 0.01 / t, silent)
        true, z, grads = reference.gradients(p, 0.5 * x.astype(np.float64), k, dead, 0.5, 9)
        assert float(loss) == pytest.approx(true, rel=2e-3)
        without = reference.gradients(p, 0.5 * x.astype(np.float64), k, dead, 0.0, 9)[0]
        assert float(squared) == pytest.approx(without * batch, rel=2e-3)
        assert float(l0) == pytest.approx((z > 0).sum() / batch, rel=0.01)
        assert np.abs(counts.numpy() - (z > 0).sum(0)).sum() <= 4  # a near-tie may fall to the other side
        assert np.array_equal(silent.numpy(), np.where(counts.numpy() > 0, 0, before + batch))
        found = step.moments()
        for name in NAMES:
            p[name], *moments[name] = reference.adam(p[name], grads[name], *moments[name], t, 0.01 / t)
            assert off(found[f"{name}.exp_avg"].float(), moments[name][0]) < 0.03, name
            assert off(found[f"{name}.exp_avg_sq"], moments[name][1]) < 0.06, name
        p["decoder"] /= np.linalg.norm(p["decoder"], axis=1, keepdims=True)
        # Continue from the step's own weights, so that a near-tie does not grow.
        for name, tensor in zip(NAMES, given, strict=True):
            assert off(tensor, p[name]) < 0.01, name
            p[name] = tensor.double().numpy().copy()
            moments[name] = tuple(found[f"{name}.{key}"].double().numpy().copy() for key in ("exp_avg", "exp_avg_sq"))
        assert np.allclose(np.linalg.norm(p["decoder"], axis=1), 1, atol=1e-5)
    assert (found["encoder.exp_avg"][:15] != 0).any()


@interpreted
@pytest.mark.parametrize(("rows", "width", "k"), [(4, 40, 3), (3, 300, 20), (2, 17, 17)])
def test_that_two_stage_selection_is_exact_with_ties_and_absent_entries(rows, width, k):
    scores = torch.randn(rows, width).bfloat16()
    scores[0] = torch.randint(-3, 3, (width,)).bfloat16()
    scores[1, 1:] = -1
    scores[1, ::7] = float("nan")
    values, ids = torch.empty(rows, k).bfloat16(), torch.empty(rows, k, dtype=torch.int32)
    Selection(rows, width, k, 16, 1, CPU).run(scores, values, ids)
    true_values, true_ids = plain.largest(scores, k)
    assert torch.equal(values, true_values)
    assert torch.equal(ids.long(), true_ids)


def test_that_plain_selection_takes_the_largest_positive_entries():
    scores = torch.randn(30, 50).bfloat16()
    values, ids = plain.largest(scores, 40)
    dense = torch.zeros(30, 51).scatter_(1, ids, values.float())[:, :50]
    assert np.array_equal(dense.numpy(), reference.active(scores.double().numpy(), 40))


@interpreted
def test_that_kernels_give_what_plain_torch_gives(rounding):
    d, d_sae, batch, k = 12, 40, 11, 3
    rng = np.random.default_rng()
    given = weights(rng, d, d_sae)
    given[2][1] = 9  # fires in every row, so that its pairs fill pieces
    batches = [torch.from_numpy(rng.standard_normal((n, d)).astype(np.float16)) for n in (batch, batch, batch, 7)]
    batches[2][3, 3] = float("nan")
    runs = []
    for kernels in (True, False):
        mine = [t.clone() for t in given]
        step = FusedTopK(
            *mine, k=k, batch_size=batch, auxk_alpha=0.5, auxk_rows=4, dead_after=100, scale=1.5, kernels=kernels,
            tiling=TILING,
        )
        step._dead.fill_(8)
        silent = torch.zeros(d_sae, dtype=torch.int64)
        silent[20:28] = 1000
        figures = []
        for x in batches:
            before = [t.clone() for t in (*mine, silent, *step.state.moments().values())]
            figures.append([t.clone() for t in (*step.step(x, 0.01, silent), step.finite)])
            if x.isnan().any():
                assert not bool(step.finite)
                after = (*mine, silent, *step.state.moments().values())
                assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        runs.append((mine, silent, step.moments(), figures))
    (ours, silent, moments, figures), (theirs, true_silent, true_moments, true_figures) = runs
    assert figures[0][3][1] == batch
    for found, true in zip(figures, true_figures, strict=True):
        for a, b in zip(found, true, strict=True):
            torch.testing.assert_close(a, b.to(a.dtype), rtol=1e-5, atol=1e-5, equal_nan=True)
    assert torch.equal(silent, true_silent)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for name, true in true_moments.items():
        assert off(moments[name].float(), true.float()) < 1e-4, name


def test_that_a_restored_step_goes_on_bit_for_bit():
    d, d_sae, batch, k = 16, 50, 20, 4
    rng = np.random.default_rng()
    settings = {"k": k, "batch_size": batch, "auxk_alpha": 0.1, "auxk_rows": 8, "dead_after": 30, "kernels": False}
    given = weights(rng, d, d_sae)
    given[2][:9] = -0.5
    step, silent = FusedTopK(*given, **settings), torch.zeros(d_sae, dtype=torch.int64)
    batches = [torch.from_numpy(rng.standard_normal((batch, d)).astype(np.float32)) for _ in range(14)]
    for x in batches[:7]:
        step.step(x, 0.01, silent)
    kept = {name: t.clone() for name, t in step.moments().items()}
    assert kept["dead"].any()
    copies, silent_copy = [t.clone() for t in given], silent.clone()
    again = FusedTopK(*copies, **settings, moments=kept)
    for x in batches[7:]:
        step.step(x, 0.01, silent)
        again.step(x, 0.01, silent_copy)
    assert all(torch.equal(a, b) for a, b in zip((*given, silent), (*copies, silent_copy), strict=True))


def test_that_more_rows_than_were_asked_for_and_weights_of_another_kind_are_refused():
    given = weights(np.random.default_rng(), 8, 20)
    step = FusedTopK(*given, k=2, batch_size=4, kernels=False)
    with pytest.raises(ValueError, match="5 rows"):
        step.step(torch.zeros(5, 8), 0.01, torch.zeros(20, dtype=torch.int64))
    with pytest.raises(TypeError, match="float32"):
        FusedTopK(given[0].double(), *given[1:], k=2, batch_size=4)
