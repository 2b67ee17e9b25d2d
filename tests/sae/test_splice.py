"""Cross-entropy and KL with a stand-in for the activations of a real network, against their plain formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.data import text_sample
from auditor.models.edits import Edit
from auditor.sae.baselines import Components, ComponentsOnce, Fitted, Neurons, fvu, neurons, pca
from auditor.sae.figures import figures
from auditor.sae.sae import Sae
from auditor.sae.splice import spliced_loss
from tests.reference import sae as reference

HOOK = "blocks.0.resid_post"
TEXTS = ["The capital of France is Paris, and its river is the Seine.", "Two and two make four.", "Rain fell again."]


@pytest.fixture(scope="module")
def seen(tiny_llama):
    """(samples, rows of text positions [n, width], the run that gave them)"""
    samples = [text_sample(text) for text in TEXTS]
    run = tiny_llama.run(tiny_llama.encode(samples), record=[HOOK])
    return samples, run.rows(HOOK)[run.positions(HOOK).kind == 1], run


def dictionary(rows, d_sae=32, k=4):
    """A TopK dictionary whose features are rows of the data, so that it reconstructs in part."""
    mean = rows.mean(0)
    directions = torch.nn.functional.normalize(rows[:d_sae] - mean, dim=1)
    return Sae("topk", directions.T.contiguous(), directions, torch.zeros(len(directions)), mean, k=k, hook=HOOK)


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_that_kl_and_cross_entropy_equal_the_plain_formulas(tiny_llama, seen):
    samples, rows, clean = seen
    sae = dictionary(rows)
    found = spliced_loss(tiny_llama, sae, samples, batch_size=2)
    inputs = clean.inputs
    text = clean.positions(HOOK).kind == 1

    class Put(Edit):
        def apply(self, x):
            return torch.where(text[..., None], sae.reconstruct(x), x)

    spliced = tiny_llama.run(inputs, edits=[Put(HOOK)])
    counted = (inputs.kind[:, 1:] == 1).numpy()
    p, q = (log_softmax(run.logits[:, :-1].double().numpy())[counted] for run in (clean, spliced))
    target = inputs.ids[:, 1:].numpy()[counted]
    assert found.n == len(target)
    assert found.kl == pytest.approx((np.exp(p) * (p - q)).sum(-1).mean(), rel=1e-3)
    assert found.spliced == pytest.approx(-q[np.arange(len(q)), target].mean(), rel=1e-4)
    assert found.clean == pytest.approx(-p[np.arange(len(p)), target].mean(), rel=1e-4)
    held = clean.rows(HOOK)[text].numpy().astype(np.float64)
    recon = sae.reconstruct(clean.rows(HOOK))[text].numpy()
    assert found.rows == len(held) and found.fvu == pytest.approx(reference.fvu(held, recon), rel=1e-4)
    low, high = found.intervals["fvu"]
    assert low <= found.fvu <= high and low < high
    assert 0 < found.kl < found.baselines["mean"].kl
    low, high = found.intervals["kl"]
    assert low <= found.kl <= high and low < high
    told = {figure.name: figure for figure in figures({"spliced": found.model_dump(mode="json")})}
    assert told["kl"].value == found.kl and told["kl"].interval == (low, high) and told["kl"].n == found.n
    assert told["kl_mean"].value == found.baselines["mean"].kl
    assert all(figure.interval[0] <= figure.value <= figure.interval[1] for figure in told.values())


def test_that_baselines_have_as_many_numbers_a_row_as_the_dictionary(tiny_llama, seen):
    samples, rows, _ = seen
    fitted = Fitted.to(rows)
    found = spliced_loss(tiny_llama, dictionary(rows), samples, fitted=fitted, batch_size=3)
    assert found.l0 == round(float((dictionary(rows).encode(rows) > 0).sum(1).float().mean()))
    assert set(found.baselines) == {"mean", "pca", "neurons"}
    for simple in found.baselines.values():
        assert simple.kl > 0 and simple.intervals["kl"][0] <= simple.kl <= simple.intervals["kl"][1]
    whole = Sae("relu", *(torch.zeros(s) for s in ((576, 2), (2, 576), (2,), (576,))), hook=HOOK)
    assert found.baselines["pca"].kl < found.baselines["mean"].kl
    assert spliced_loss(tiny_llama, whole, samples, fitted=fitted).l0 == 1


@pytest.mark.parametrize("n", [20, 400])
def test_that_components_fitted_once_are_to_the_bit_those_fitted_for_each_number(n):
    rows = torch.randn(n, 48, generator=torch.Generator().manual_seed(n))
    fitted, once, x = Fitted.to(rows), ComponentsOnce(), torch.randn(2, 30, 48)
    for active in (1, 3, 17, 48, 100):
        anew = {"pca": Components.of(rows, active), "neurons": Neurons(rows.mean(0), active)}
        for name, put in fitted.by_name(active).items():
            assert torch.equal(put(x), anew[name].reconstruct(x)), (name, active)
        assert torch.equal(once.of(rows.clone(), active).reconstruct(x), anew["pca"].reconstruct(x))


def test_that_components_and_neurons_give_all_back_when_they_may_keep_all():
    rng = np.random.default_rng()
    x = rng.standard_normal((300, 12)) * np.linspace(1, 4, 12) + 3
    rows = torch.from_numpy(x.astype(np.float32))
    torch.testing.assert_close(Components.of(rows, 12).reconstruct(rows), rows, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(Neurons(rows.mean(0), 12).reconstruct(rows), rows, rtol=1e-4, atol=1e-4)
    fit, held = x[:150], x[150:]
    mean = fit.mean(0)
    away = held - mean
    kept = np.where(np.argsort(np.argsort(-np.abs(away), axis=1), axis=1) < 3, away, 0) + mean
    assert fvu(rows[150:], neurons(rows[:150], rows[150:], 3)) == pytest.approx(reference.fvu(held, kept), rel=1e-4)
    basis = np.linalg.svd(fit - mean)[2][:3]
    assert fvu(rows[150:], pca(rows[:150], rows[150:], 3)) == pytest.approx(
        reference.fvu(held, away @ basis.T @ basis + mean), rel=1e-3
    )


def test_that_a_transcoder_stands_in_for_what_it_predicts(tiny_llama, seen):
    samples = seen[0]
    into, out = "blocks.0.mlp_hidden", "blocks.0.mlp_out"
    weight = tiny_llama.network.get_submodule("model.layers.0.mlp.down_proj").weight.detach()
    width = weight.shape[1]
    nothing = (torch.zeros(width, 4), torch.zeros(4, 576), torch.zeros(4), torch.zeros(576))
    exact = Sae("relu", *nothing, hook=into, hook_out=out, W_skip=weight.T.contiguous())
    blind = Sae("relu", *nothing, hook=into, hook_out=out)
    kept, lost = (spliced_loss(tiny_llama, sae, samples) for sae in (exact, blind))
    assert kept.kl < 1e-4 and kept.recovered == pytest.approx(1.0, abs=1e-2)
    assert lost.kl > 0.01 and set(lost.baselines) == {"mean"}


def test_that_a_crosscoder_is_refused(tiny_llama, seen):
    weights = (torch.zeros(8, 4), torch.zeros(4, 8), torch.zeros(4), torch.zeros(8))
    with pytest.raises(AuditorError, match="crosscoder"):
        spliced_loss(tiny_llama, Sae("relu", *weights, sources=(("a", 4), ("b", 4))), seen[0])


def test_that_a_single_sample_has_figures_but_no_intervals(tiny_llama, seen):
    samples, rows, _ = seen
    found = spliced_loss(tiny_llama, dictionary(rows), samples[:1], fitted=Fitted.to(rows))
    assert found.n_samples == 1 and found.kl > 0 and found.intervals == {}
    assert {one.kl > 0 for one in found.baselines.values()} == {True}
    assert all(one.intervals == {} for one in found.baselines.values())


def test_that_a_network_that_breaks_with_the_dictionary_in_it_is_not_told_as_unharmed(tiny_llama, seen):
    samples, rows, _ = seen
    sae = dictionary(rows)
    sae.b_dec.fill_(float("inf"))
    with pytest.raises(AuditorError, match="dictionary in its place predicts values that are no numbers"):
        spliced_loss(tiny_llama, sae, samples)


def test_that_no_share_is_told_as_recovered_where_the_mean_costs_nothing(tiny_llama):
    same, hook = text_sample(" a a a a"), "blocks.0.resid_pre"  # rows that are all the same are their mean
    rows = tiny_llama.run(tiny_llama.encode([same]), record=[hook]).rows(hook)[0]
    found = spliced_loss(tiny_llama, replace(dictionary(rows, k=1), hook=hook), [same, same])
    assert found.mean_ablated == found.clean and found.recovered is None and "recovered" not in found.intervals
    assert "recovered" not in {figure.name for figure in figures({"spliced": found.model_dump(mode="json")})}
