"""Quality figures against plain formulas, their baselines and intervals, and the cost of a splice in a real network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.base.paths import sample_models
from auditor.sae.baselines import pca_fvu, random_dictionary_fvu
from auditor.sae.quality import dead_share, evaluate, spliced_loss
from auditor.sae.sae import Sae
from tests.reference import sae as reference
from tests.sae.memory_store import MemoryStore, known
from tests.sae.test_sae import random_sae


def test_that_quality_equals_the_plain_formulas_over_all_rows_and_by_kind():
    rows = known(900, d_in=12)[0]
    store = MemoryStore(rows, hook="blocks.3.resid_post", kind=np.repeat([1, 2, 3], 300).astype(np.uint8))
    sae = random_sae("topk", d_sae=64)
    found = evaluate(sae, store)
    recon, z = sae.reconstruct(torch.from_numpy(rows)).numpy(), sae.encode(torch.from_numpy(rows)).numpy()
    assert found.n == 600  # special positions are left out
    assert found.fvu == pytest.approx(reference.fvu(rows[:600], recon[:600]), rel=1e-4)
    assert found.l0 == pytest.approx((z[:600] > 0).sum(1).mean(), rel=1e-6)
    assert found.dead == pytest.approx(1 - (z[:600] > 0).any(0).mean())
    for kind, part in (("text", slice(0, 300)), ("image", slice(300, 600))):
        assert found.by_kind[kind].n == 300
        assert found.by_kind[kind].fvu == pytest.approx(reference.fvu(rows[part], recon[part]), rel=1e-4)
    for name in ("fvu", "l0"):
        low, high = found.intervals[name]
        assert low <= getattr(found, name) <= high
    assert found.intervals["fvu"][0] < found.fvu < found.intervals["fvu"][1]
    assert found == evaluate(sae, store)
    assert found.summary()["fvu_text"] == found.by_kind["text"].fvu


def test_that_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng()
    sae = random_sae("relu", d_in=4, d_sae=8)
    rows = rng.standard_normal((6000, 4)).astype(np.float32)
    truth = reference.fvu(rows, sae.reconstruct(torch.from_numpy(rows)).numpy())
    hits = 0
    for _ in range(60):
        part = rows[rng.choice(6000, 200, replace=False)]
        store = MemoryStore(part, hook=sae.hook, sample=np.arange(200, dtype=np.int32))
        low, high = evaluate(sae, store).intervals["fvu"]
        hits += low <= truth <= high
    assert hits >= 49


def test_that_baselines_are_what_they_say():
    rng = np.random.default_rng()
    plane = rng.standard_normal((800, 3)) @ rng.standard_normal((3, 10)) + 5
    x = torch.from_numpy((plane + 0.01 * rng.standard_normal((800, 10))).astype(np.float32))
    assert pca_fvu(x[:400], x[400:], 3) < 1e-3
    assert pca_fvu(x[:400], x[400:], 2) > 1e-2
    gaussian = torch.from_numpy(rng.standard_normal((800, 10)).astype(np.float32))
    few, many = (random_dictionary_fvu(gaussian[:400], gaussian[400:], size, 2, 0) for size in (4, 4096))
    assert many < few < 1.0


def test_that_the_range_of_dead_features_follows_chao():
    counts = torch.tensor([0] * 10 + [1] * 4 + [2] * 2 + [9] * 4)
    share, (low, high) = dead_share(counts)
    assert share == high == 0.5
    assert low == pytest.approx((10 - 4 * 4 / (2 * 2)) / 20)


def test_that_a_store_that_does_not_fit_is_refused():
    with pytest.raises(AuditorError, match="width 9"):
        evaluate(random_sae(), MemoryStore(known(100, d_in=9)[0], hook="blocks.3.resid_post"))
    with pytest.raises(AuditorError, match="no rows"):
        evaluate(random_sae(), MemoryStore(known(50, d_in=12)[0], "blocks.3.resid_post", np.full(50, 3, np.uint8)))


@pytest.fixture(scope="module")
def language_model():
    from auditor.models import open_model

    folder = sample_models() / "smollm2-135m"
    if not folder.is_dir():
        pytest.fail("the sample models are not built: run sample_data/models.py")
    return open_model(folder)


def test_that_splicing_costs_nothing_for_a_perfect_dictionary_and_all_for_one_that_gives_the_mean(language_model):
    from auditor.data import text_sample

    hook = "blocks.15.resid_post"
    texts = ["The capital of France is Paris, and its river is the Seine.", "Two and two make four.", "Rain fell."]
    samples = [text_sample(text) for text in texts]
    inputs = language_model.encode(samples)
    run = language_model.run(inputs, record=[hook])
    kept = inputs.kind == 1
    x = run.rows(hook)
    mean, width = x[kept].mean(0), x.shape[-1]
    eye = torch.eye(width)
    both = torch.cat([eye, -eye])
    perfect = Sae("relu", both.T.contiguous(), both, torch.zeros(2 * width), torch.zeros(width), hook=hook)
    blind = Sae("relu", torch.zeros(width, 4), torch.zeros(4, width), torch.zeros(4), mean, hook=hook)
    found, lost = (spliced_loss(language_model, sae, samples, batch_size=2) for sae in (perfect, blind))
    logp = run.logits[:, :-1].float().log_softmax(-1)
    target, counted = inputs.ids[:, 1:], kept[:, 1:]
    picked = logp.gather(2, target.clamp_min(0)[..., None])[..., 0]
    assert found.n == int(counted.sum())
    assert found.clean == pytest.approx(float(-picked[counted].mean()), rel=1e-4)
    assert found.spliced == pytest.approx(found.clean, rel=1e-3)
    assert found.recovered == pytest.approx(1.0, abs=0.01)
    assert lost.spliced == pytest.approx(lost.mean_ablated, rel=1e-3)
    assert lost.recovered == pytest.approx(0.0, abs=0.01)
    assert lost.mean_ablated > lost.clean + 1
    assert found.intervals["clean"][0] <= found.clean <= found.intervals["clean"][1]


def test_that_samples_without_text_to_predict_are_refused(language_model):
    from auditor.data import text_sample

    shapes = [(576, 4), (4, 576), (4,), (576,)]
    sae = Sae("relu", *(torch.zeros(shape) for shape in shapes), hook="blocks.15.resid_post")
    with pytest.raises(AuditorError, match="no text"):
        spliced_loss(language_model, sae, [text_sample("")])
