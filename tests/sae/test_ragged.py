"""Sparse steps for codes of varying width against their formulas in numpy, values and gradients, fresh inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.sae.kernels import blocks
from auditor.sae.kernels import product as products
from auditor.sae.kernels.batchtopk_step import BatchTopKStep
from auditor.sae.kernels.blocks import Blocks, starting_bias
from auditor.sae.kernels.gated_step import GatedStep
from auditor.sae.kernels.jumprelu_step import JumpReluStep, StepPenalty, TanhPenalty
from auditor.sae.kernels.ragged import columns_of, sums
from auditor.sae.kernels.relu_step import ReluStep

D, M = 20, 256


@pytest.fixture
def rng():
    return np.random.default_rng()


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK_ROWS", 64)


def weights(rng, share):
    """encoder, decoder, b_enc, b_dec in float32, with about a `share` of entries above 0."""
    encoder, decoder = (rng.standard_normal((M, D)) / D**0.5 for _ in range(2))
    bias = 0.1 * rng.standard_normal(M) + float(np.quantile(rng.standard_normal(100_000), share))
    return [a.astype(np.float32) for a in (encoder, decoder, bias, 0.3 * rng.standard_normal(D))]


def rows(rng, parameters, *bounds, scale=1.0, clear=1e-5):
    """Rows whose pre-activations are not so close to any bound that rounding could decide."""
    encoder, _, b_enc, b_dec = (a.astype(np.float64) for a in parameters)
    x = (scale * rng.standard_normal((300, D))).astype(np.float32)
    pre = (x - b_dec) @ encoder.T + b_enc
    return x[np.all([(abs(pre - bound) > clear).all(1) for bound in bounds], axis=0)]


@pytest.fixture(params=[False, True], ids=["float32", "int8"])
def spread(request):
    """What makes a step look for entries with 8-bit products, or None."""
    return torch.full((D,), 4.0) if request.param else None


def assert_step(step, loss, gradients, counts, tolerance=1e-5):
    assert float(step.loss) == pytest.approx(loss, rel=1e-5)
    assert step.counts.tolist() == counts.tolist()
    assert len(step.gradients) == len(gradients)
    for found, want in zip(step.gradients, gradients, strict=True):
        assert np.linalg.norm(found.numpy() - want) <= tolerance * np.linalg.norm(want)


def tensors(arrays):
    return [torch.from_numpy(a) for a in arrays]


def chain(x, encoder, b_dec, z, to_pre, to_out):
    """The four gradients from those to pre-activations and outputs."""
    return to_pre.T @ (x - b_dec), z.T @ to_out, to_pre.sum(0), to_out.sum(0) - to_pre.sum(0) @ encoder


def relu_reference(x, encoder, decoder, b_enc, b_dec, l1, p):
    pre = (x - b_dec) @ encoder.T + b_enc
    z, on, norm = np.maximum(pre, 0), pre > 0, np.linalg.norm(decoder, axis=1)
    powers = np.where(on, z, 1) ** p * on
    error = z @ decoder + b_dec - x
    loss = ((error**2).sum() + l1 * (powers @ norm).sum()) / len(x)
    to_out = 2 * error / len(x)
    to_pre = on * (to_out @ decoder.T + l1 * p * np.where(on, z, 1) ** (p - 1) * norm / len(x))
    e, d, b, c = chain(x, encoder, b_dec, z, to_pre, to_out)
    return loss, (e, d + l1 * (powers.mean(0) / norm)[:, None] * decoder, b, c), on.sum(0)


@pytest.mark.parametrize("share", [0.005, 0.05, 0.5])
@pytest.mark.parametrize("p", [1.0, 0.6])
def test_that_a_relu_step_gives_the_loss_and_gradients_of_its_formula(rng, spread, share, p):
    parameters = weights(rng, share)
    # z^(p - 1) magnifies what rounding does to small z.
    clear, tolerance = (1e-5, 1e-5) if p == 1 else (1e-3, 1e-4)
    x = rows(rng, parameters, 0, clear=clear)
    maker, wide = ReluStep(D, M, spread), [a.astype(np.float64) for a in (x, *parameters)]
    step = maker.gradients(torch.from_numpy(x), *tensors(parameters), 1.5, p, following=0.4)
    assert_step(step, *relu_reference(*wide, 1.5, p), tolerance)
    of_error = relu_reference(*wide, 0.0, 1.0)[0]
    assert float(step.penalty) == pytest.approx(relu_reference(*wide, 1.0, p)[0] - of_error, rel=1e-4)
    assert float(maker.following) == pytest.approx(relu_reference(*wide, 1.0, 0.4)[0] - of_error, rel=1e-4)


def batchtopk_reference(x, encoder, decoder, b_enc, b_dec, k, prefixes):
    pre = np.maximum((x - b_dec) @ encoder.T + b_enc, 0)
    z = pre * (pre >= np.sort(pre, axis=None)[-k * len(x)])
    loss, to_pre, to_decoder, out = 0.0, 0.0, 0.0, 0.0
    for prefix in prefixes:
        inside = np.arange(M) < prefix
        error = (z * inside) @ decoder + b_dec - x
        to_out = 2 * error / len(x) / len(prefixes)
        loss += (error**2).sum() / len(x) / len(prefixes)
        to_pre = to_pre + (to_out @ decoder.T) * inside * (z > 0)
        to_decoder, out = to_decoder + (z * inside).T @ to_out, out + to_out
    e, _, b, c = chain(x, encoder, b_dec, z, to_pre, out)
    return loss, (e, to_decoder, b, c), (z > 0).sum(0)


def rows_for_top(rng, parameters, k, scale=1.0):
    """Rows of which the last active pre-activation is told from the first inactive one by more than rounding."""
    while True:
        x = rows(rng, parameters, 0, scale=scale)
        encoder, _, b_enc, b_dec = (a.astype(np.float64) for a in parameters)
        ordered = np.sort((x - b_dec) @ encoder.T + b_enc, axis=None)
        if ordered[-k * len(x)] - ordered[-k * len(x) - 1] > 2e-6:
            return x


@pytest.mark.parametrize("prefixes", [(M,), (16, 100, M)])
@pytest.mark.parametrize("k", [1, 6, 40])
def test_that_a_batchtopk_step_gives_the_loss_and_gradients_of_its_formula(rng, spread, k, prefixes):
    parameters = weights(rng, 0.5)
    maker = BatchTopKStep(D, M, k, prefixes if len(prefixes) > 1 else (), spread)
    for _ in range(3):  # the second and third batch start from the first one's bound
        x = rows_for_top(rng, parameters, k)
        step = maker.gradients(torch.from_numpy(x), *tensors(parameters))
        assert_step(step, *batchtopk_reference(*(a.astype(np.float64) for a in (x, *parameters)), k, prefixes))
        assert int(step.counts.sum()) == k * len(x)


@pytest.mark.parametrize("scales", [(1.0, 0.1), (0.1, 1.0), (1.0, 1.0)])
def test_that_batchtopk_stays_exact_when_a_batch_is_nothing_like_the_last(rng, scales):
    parameters, k, found = weights(rng, 0.5), 6, []
    maker = BatchTopKStep(D, M, k)
    above = maker._blocks.above
    maker._blocks.above = lambda *given: found.append(above(*given)) or found[-1]
    for scale in scales:
        found.clear()
        x = rows_for_top(rng, parameters, k, scale)
        step = maker.gradients(torch.from_numpy(x), *tensors(parameters))
        assert_step(step, *batchtopk_reference(*(a.astype(np.float64) for a in (x, *parameters)), k, (M,)))
    # Too high a bound is noticed and a lower one tried; one from a batch alike is right at once.
    assert len(found) == (2 if scales[1] < scales[0] else 1)
    assert scales[0] != scales[1] or len(found[0].ids) < 2 * k * len(x)


def test_that_batchtopk_keeps_every_positive_entry_where_there_are_fewer_than_it_wants(rng):
    parameters, k = weights(rng, 0.01), 40
    x = rows(rng, parameters, 0)
    maker = BatchTopKStep(D, M, k)
    step = maker.gradients(torch.from_numpy(x), *tensors(parameters))
    want = relu_reference(*(a.astype(np.float64) for a in (x, *parameters)), 0.0, 1.0)
    assert 0 < want[2].sum() < k * len(x)
    assert_step(step, *want)


def test_that_batchtopk_keeps_as_many_as_it_wants_of_entries_that_tie(rng):
    pre = torch.from_numpy(rng.integers(1, 4, (200, M)).astype(np.float32))
    eye = torch.eye(M)
    active = BatchTopKStep(M, M, 100).select(pre, eye, torch.zeros(M))
    assert len(active.ids) == 100 * 200
    threshold = pre.flatten().sort(descending=True)[0][100 * 200]
    assert int((pre > threshold).sum()) == int((active.values > threshold).sum())
    assert float(active.values.min()) >= float(threshold)


def jumprelu_reference(x, encoder, decoder, b_enc, b_dec, theta, width, penalty, through, pull):
    size = len(x)
    pre = (x - b_dec) @ encoder.T + b_enc
    on, near, norm = pre > theta, (abs(pre - theta) < width / 2) / width, np.linalg.norm(decoder, axis=1)
    z, below = pre * on, np.maximum(theta - pre, 0)
    error = z @ decoder + b_dec - x
    to_out = 2 * error / size
    loss, to_z, to_h, to_norm = (error**2).sum() / size, to_out @ decoder.T, 0.0, pull * below / size
    if isinstance(penalty, TanhPenalty):
        bent = np.tanh(penalty.scale * z * norm)
        bend = penalty.weight * (1 - bent**2) * penalty.scale / size
        loss, to_z, to_norm = loss + penalty.weight * bent.sum() / size, to_z + bend * norm, to_norm + bend * z
    else:
        l0, target = on.sum() / size, penalty.target
        loss += penalty.weight * ((l0 / target - 1) ** 2 if target else l0)
        to_h = penalty.weight * (2 * (l0 / target - 1) / target if target else 1) / size
    at_jump, pulled = near * (theta * to_z + to_h), pull * norm * ~on / size
    e, d, b, c = chain(x, encoder, b_dec, z, to_z * on + through * at_jump - pulled, to_out)
    loss += (below @ (pull * norm)).sum() / size
    return loss, (e, d + (to_norm.sum(0) / norm)[:, None] * decoder, b, c, (pulled - at_jump).sum(0)), on.sum(0)


PENALTIES = [(StepPenalty(0.7), False), (StepPenalty(0.7, target=12.0), False), (StepPenalty(0.7, target=12.0), True),
             (StepPenalty(0.7), True), (TanhPenalty(0.9), True), (TanhPenalty(0.9, scale=2.0), False)]


@pytest.mark.parametrize("share", [0.005, 0.02, 0.5])
@pytest.mark.parametrize(("penalty", "through"), PENALTIES, ids=str)
@pytest.mark.parametrize("pulled", [0.0, 0.4, 1.0])
def test_that_a_jumprelu_step_gives_the_loss_and_gradients_of_its_formula(rng, spread, share, penalty, through, pulled):
    parameters, width = weights(rng, share), 0.1
    theta = np.abs(0.3 * rng.standard_normal(M)).astype(np.float32)
    pull = np.where(rng.random(M) < pulled, 0.02, 0).astype(np.float32)
    x = rows(rng, parameters, theta, theta - width / 2, theta + width / 2)
    given = (*tensors([*parameters, theta]), penalty, through, torch.from_numpy(pull) if pulled else None)
    step = JumpReluStep(D, M, width, spread).gradients(torch.from_numpy(x), *given)
    wide = [a.astype(np.float64) for a in (x, *parameters, theta)]
    assert_step(step, *jumprelu_reference(*wide, width, penalty, through, pull.astype(np.float64)))


def gated_reference(x, encoder, decoder, b_enc, b_dec, r, b_mag, l1):
    size, shared = len(x), (x - b_dec) @ encoder.T
    gate = np.maximum(shared + b_enc, 0)
    on = gate > 0
    z = on * np.maximum(shared * np.exp(r) + b_mag, 0)
    error, frozen = z @ decoder + b_dec - x, gate @ decoder + b_dec - x
    to_out = 2 * error / size
    to_gate = on * (2 * frozen @ decoder.T + l1) / size
    to_mag = (z > 0) * (to_out @ decoder.T)
    e, d, _, c = chain(x, encoder, b_dec, z, to_gate + to_mag * np.exp(r), to_out)
    loss = ((error**2).sum() + (frozen**2).sum() + l1 * gate.sum()) / size
    to_r = (to_mag * shared).sum(0) * np.exp(r)
    return loss, (e, d, to_gate.sum(0), c, to_r, to_mag.sum(0)), (z > 0).sum(0)


@pytest.mark.parametrize("share", [0.005, 0.02, 0.5])
def test_that_a_gated_step_gives_the_loss_and_gradients_of_its_formula(rng, spread, share):
    parameters = weights(rng, share)
    stretch, b_mag = (0.3 * rng.standard_normal(M).astype(np.float32) for _ in range(2))
    b_mag += np.exp(stretch) * parameters[2]
    # The magnitude is above 0 where π exceeds b_enc - b_mag / e^r.
    x = rows(rng, parameters, 0, parameters[2] - b_mag / np.exp(stretch))
    step = GatedStep(D, M, spread).gradients(torch.from_numpy(x), *tensors([*parameters, stretch, b_mag]), 0.8)
    wide = [a.astype(np.float64) for a in (x, *parameters, stretch, b_mag)]
    assert_step(step, *gated_reference(*wide, 0.8))
    assert 0 < int(step.counts.sum()) < ((wide[0] - wide[4]) @ wide[1].T + wide[3] > 0).sum()


def test_that_sparse_and_dense_paths_agree_on_either_side_of_the_switch(rng):
    parameters = tensors(weights(rng, 0.2))
    x = torch.from_numpy(rng.standard_normal((300, D)).astype(np.float32))
    maker, norm = ReluStep(D, M), parameters[1].norm(dim=1)
    encoder, decoder, b_enc, b_dec = parameters
    active = maker._blocks.above(x - b_dec, encoder, b_enc, 0.0, 1.0)
    sparse = maker._sparse(active, x - b_dec, encoder, decoder, norm, 0.5, (0.8, 0.7))
    first = [t.clone() for t in (*sparse[0], *sparse[1], *sparse[2:])]
    dense = maker._dense(x - b_dec, encoder, decoder, b_enc, norm, 0.5, (0.8, 0.7))
    for a, b in zip(first, (*dense[0], *dense[1], *dense[2:]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_that_products_with_ragged_rows_equal_dense_ones_even_where_rows_are_empty(rng):
    dense = rng.standard_normal((50, M)).astype(np.float32) * (rng.random((50, M)) < 0.03)
    dense[[0, 7, 49]] = 0
    found = Blocks(M).above(torch.from_numpy(dense), torch.eye(M), torch.zeros(M), 0.0, 1.0)
    positive = torch.from_numpy(np.maximum(dense, 0))
    weight, x = torch.randn(M, D), torch.randn(50, D)
    torch.testing.assert_close(found.decode(found.values, weight), positive @ weight, rtol=1e-4, atol=1e-5)
    places = positive.nonzero(as_tuple=True)
    torch.testing.assert_close(found.sampled(x, weight), (x @ weight.T)[places], rtol=1e-4, atol=1e-5)
    out = columns_of(found).product(found.values, x, torch.empty(M, D))
    torch.testing.assert_close(out, positive.T @ x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sums(found, found.values), positive.sum(0))
    assert torch.equal(columns_of(found).starts.diff().long(), (positive > 0).sum(0))
    few = found.kept(found.values > 0.5)
    torch.testing.assert_close(few.decode(few.values, weight), (positive * (positive > 0.5)) @ weight)


@pytest.mark.parametrize("outlier", [1.0, 50.0])
def test_that_entries_sought_in_8_bits_are_those_of_the_exact_product(rng, outlier):
    x = torch.from_numpy(rng.standard_normal((500, 64)).astype(np.float32))
    x[:, 7] *= outlier
    x[::50] *= 3
    encoder = torch.from_numpy(rng.standard_normal((M, 64)).astype(np.float32)) / 8
    bound = -starting_bias(x, encoder, torch.zeros(64), 0.01)
    found, exact = Blocks(M, x.abs().amax(0)), Blocks(M)
    sought = found._found(x, encoder, torch.zeros(M), bound, 0.03)
    want = exact.above(x, encoder, torch.zeros(M), bound, 0.01)
    assert sought is not None
    assert torch.equal(sought.ids, want.ids) and torch.equal(sought.offsets, want.offsets)
    torch.testing.assert_close(sought.values, want.values, rtol=1e-5, atol=1e-5)


def test_that_rounding_to_8_bits_errs_as_much_as_is_allowed_for(rng):
    x = torch.from_numpy(rng.standard_normal((500, 64)).astype(np.float32))
    encoder = torch.from_numpy(rng.standard_normal((M, 64)).astype(np.float32)) / 8
    made = products.make("int8", 500, M, x.abs().amax(0))
    made.prepare(encoder, torch.zeros(M))
    scores, true = made.scores(x), x @ encoder.T
    error = scores - true * ((true * scores).sum(1) / true.square().sum(1))[:, None]
    assert 0.7 < float((error / made.error(x)).square().mean().sqrt()) < 1


def test_that_features_too_alike_for_8_bits_are_told_apart_by_the_exact_product(rng):
    x = torch.from_numpy(rng.standard_normal((200, D)).astype(np.float32))
    x[:, 0] = 0
    encoder = torch.from_numpy((1e-3 * rng.standard_normal((M, D))).astype(np.float32))
    encoder[:, 0] = 1
    bound = float(torch.quantile((x @ encoder.T).flatten(), 0.99))
    found = Blocks(M, torch.full((D,), 4.0))
    assert found._found(x, encoder, torch.zeros(M), bound, 0.01) is None
    want = Blocks(M).above(x, encoder, torch.zeros(M), bound, 0.01)
    assert torch.equal(found.above(x, encoder, torch.zeros(M), bound, 0.01).ids, want.ids)


def test_that_a_batch_without_active_features_still_has_gradients(rng):
    encoder, decoder, b_enc, b_dec = tensors(weights(rng, 0.1))
    x = torch.from_numpy(rng.standard_normal((100, D)).astype(np.float32))
    step = ReluStep(D, M).gradients(x, encoder, decoder, b_enc - 1000, b_dec, 1.0)
    torch.testing.assert_close(step.loss, (x - b_dec).pow(2).sum() / 100)
    torch.testing.assert_close(step.gradients[3], 2 * (b_dec - x).mean(0))
    assert not any(bool(g.any()) for g in step.gradients[:3])


@pytest.mark.parametrize("share", [0.004, 0.05, 0.5])
def test_that_every_feature_fires_at_the_share_its_starting_bias_is_for(rng, share):
    encoder, _, _, b_dec = tensors(weights(rng, 0.5))
    x = torch.from_numpy((rng.standard_normal((1000, D)) ** 3).astype(np.float32))
    threshold = torch.from_numpy(rng.random(M).astype(np.float32))
    bias = starting_bias(x, encoder, b_dec, share, threshold)
    fires = (torch.addmm(bias, x - b_dec, encoder.T) > threshold).sum(0)
    assert fires.tolist() == [round(share * 1000)] * M
