"""Each fast piece of the sparse step against its naive formula, on fresh random inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.sae.archs.topk import TopKConfig
from auditor.sae.kernels import product as products
from auditor.sae.kernels.select import nearly_top_k, top_k
from auditor.sae.kernels.sparse import Columns, decode, sampled
from auditor.sae.kernels.topk_step import TopKStep
from auditor.sae.parameters import Parameters, geometric_median
from tests.reference import sae as reference
from tests.sae.made import architecture, batch_of


@pytest.fixture
def rng():
    return np.random.default_rng()


def random_parameters(rng, d_in, d_sae):
    tensors = [rng.standard_normal((d_sae, d_in)) / d_in**0.5 for _ in range(2)]
    tensors += [0.1 * rng.standard_normal(d_sae), 0.3 * rng.standard_normal(d_in)]
    arrays = [t.astype(np.float32) for t in tensors]
    return Parameters(*(torch.from_numpy(a).requires_grad_() for a in arrays)), [a.astype(np.float64) for a in arrays]


@pytest.mark.parametrize(("width", "k"), [(4096, 32), (2048, 7), (1000, 3), (60, 50), (512, 1)])
def test_that_grouped_selection_finds_exactly_the_largest(rng, width, k):
    scores = torch.from_numpy(rng.standard_normal((37, width)).astype(np.float32))
    values, ids = top_k(scores, k)
    assert torch.equal(values.sort(1)[0], scores.topk(k, dim=1)[0].sort(1)[0])
    assert torch.equal(scores.gather(1, ids), values)
    assert all(len(set(row.tolist())) == k for row in ids)


def test_that_selection_keeps_the_largest_when_they_crowd_into_one_group_and_tie(rng):
    scores = torch.from_numpy(rng.integers(0, 4, (20, 1024)).astype(np.float32))
    scores[:, ::64] += 100
    assert torch.equal(top_k(scores, 20)[0].sort(1)[0], scores.topk(20, dim=1)[0].sort(1)[0])


@pytest.mark.parametrize(("width", "k"), [(4096, 40), (2048, 10), (96, 4)])
def test_that_keyed_selection_finds_the_largest_but_for_near_ties(rng, width, k):
    scores = torch.from_numpy(rng.standard_normal((50, width)).astype(np.float32))
    ids = nearly_top_k(scores.clone(), k)
    assert all(len(set(row.tolist())) == k for row in ids)
    true = scores.topk(k, dim=1)[0]
    assert bool((scores.gather(1, ids) >= true[:, -1:] * (1 - 2**-9)).all())


def test_that_sparse_products_equal_dense_ones(rng):
    batch, k, d_sae, d_in = 50, 6, 300, 24
    ids = torch.from_numpy(np.stack([rng.choice(d_sae, k, replace=False) for _ in range(batch)]))
    values = torch.from_numpy(rng.standard_normal((batch, k)).astype(np.float32))
    weight = torch.from_numpy(rng.standard_normal((d_sae, d_in)).astype(np.float32))
    x = torch.from_numpy(rng.standard_normal((batch, d_in)).astype(np.float32))
    dense = torch.zeros(batch, d_sae).scatter_(1, ids, values)
    torch.testing.assert_close(decode(values, ids, weight), dense @ weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sampled(x, weight, ids), (x @ weight.T).gather(1, ids), rtol=1e-4, atol=1e-4)
    out = torch.empty(d_sae, d_in)
    Columns.of(ids, d_sae).product(values, x, out)
    torch.testing.assert_close(out, dense.T @ x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05), ("int8", 0.05)])
def test_that_every_product_orders_features_as_the_plain_one_does(rng, name, tolerance):
    x = rng.standard_normal((64, 48)) * np.where(np.arange(48) == 5, 40, 1)  # an outlier dimension
    weight, bias = rng.standard_normal((200, 48)) / 7, rng.standard_normal(200)
    x, weight, bias = (torch.from_numpy(a.astype(np.float32)) for a in (x, weight, bias))
    made = products.make(name, 64, 200, x.abs().amax(0))
    made.prepare(weight, bias)
    scores, true = made.scores(x).clone(), x @ weight.T + bias
    scores *= (true * scores).sum(1, keepdim=True) / (scores * scores).sum(1, keepdim=True)
    assert float((scores - true).norm() / true.norm()) < tolerance


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int8"])
def test_that_the_sparse_step_gives_the_reference_loss_and_gradients(rng, name):
    x = rng.standard_normal((90, 20)).astype(np.float32)
    p, plain = random_parameters(rng, 20, 256)
    step = TopKStep(20, 256, 5, name, torch.from_numpy(np.abs(x).max(0)))
    with torch.no_grad():
        done = step.forward(torch.from_numpy(x), *p.named().values())
        gradients = step.backward(done, p.encoder, p.decoder)
        recall = step.recall(done.centred, p.encoder, p.b_enc)
    assert recall > (0.99 if name != "float32" else 0.9999)
    if recall == 1.0:
        loss, _, wanted = reference.topk_step(x.astype(np.float64), *plain, 5)
        assert float(done.residual.pow(2).sum()) / 90 == pytest.approx(loss, rel=1e-4)
        for found, want in zip(gradients, wanted, strict=True):
            np.testing.assert_allclose(found.numpy(), want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_that_the_sparse_step_and_autograd_agree_with_the_reference_when_features_are_dead(rng):
    x = rng.standard_normal((80, 20)).astype(np.float32)
    p, plain = random_parameters(rng, 20, 256)
    dead = rng.random(256) < 0.3
    topk = architecture(TopKConfig(d_sae=256, seed=0, k=5, auxk_alpha=0.5, auxk_rows=48, product="float32"), x)
    batch = batch_of(x, 1, dead)
    loss, z, main = reference.topk_step(x.astype(np.float64), *plain, 5)
    missing = x[:48] - (z[:48] @ plain[1] + plain[3])
    aux, extra = reference.auxk_step(x[:48].astype(np.float64), *plain, missing, dead, 10, 0.5)
    for gradients in (topk.gradients, topk.by_autograd):
        outcome = gradients(p, batch)
        assert float(outcome.loss.detach()) == pytest.approx(loss + aux, rel=1e-4)
        assert torch.equal(outcome.counts, torch.from_numpy((z > 0).sum(0)))
        for tensor, a, b in zip(p.named().values(), main, extra, strict=True):
            np.testing.assert_allclose(tensor.grad.numpy(), a + b, rtol=1e-3, atol=1e-4 * np.abs(a + b).max())


def test_that_an_inexact_product_is_given_up_when_it_misses_features(rng):
    x = torch.from_numpy(rng.standard_normal((200, 16)).astype(np.float32))
    p, _ = random_parameters(rng, 16, 128)
    with torch.no_grad():  # features too alike for 8 bits to tell apart
        p.encoder.copy_(p.encoder[:1] + 1e-5 * p.encoder)
        p.b_enc.zero_()
    topk = architecture(TopKConfig(d_sae=128, seed=0, k=4, auxk_alpha=0.0, auxk_rows=1, product="int8"), x)
    topk.gradients(p, batch_of(x, d_sae=128))
    assert topk.state() == {"product": "float32"}


def test_that_the_geometric_median_shrugs_off_outliers(rng):
    points = rng.standard_normal((500, 6)).astype(np.float32) + 3
    points[:20] += 1000
    centre = geometric_median(torch.from_numpy(points))
    assert float((centre - 3).abs().max()) < 0.5
    assert points.mean() > 20
