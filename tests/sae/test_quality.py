"""Quality figures against plain formulas, their baselines and intervals, and the cost of a splice in a real network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.base.paths import sample_models
from auditor.sae.baselines import fvu, linear, pca, random_dictionary
from auditor.sae.clt import CrossLayerTranscoder
from auditor.sae.figures import figures, headline
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
    assert headline(figures({"quality": found.model_dump(mode="json")}))["fvu_text"] == found.by_kind["text"].fvu


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


def test_that_the_rows_of_a_single_sample_have_an_interval_that_covers_the_truth_too():
    rng = np.random.default_rng()
    sae, hits = random_sae("relu", d_in=4, d_sae=8), 0
    rows = rng.standard_normal((6000, 4)).astype(np.float32)
    truth = reference.fvu(rows, sae.reconstruct(torch.from_numpy(rows)).numpy())
    for _ in range(60):
        # Eight rows alike, then eight others: one by one they would seem to be eight times as many.
        part = rows[rng.choice(6000, 80, replace=False)].repeat(8, axis=0)
        found = evaluate(sae, MemoryStore(part, hook=sae.hook, sample=np.zeros(640, np.int32)))
        low, high = found.intervals["fvu"]
        hits += low <= truth <= high
        assert found.n_samples == 1
    assert hits >= 44


def test_that_baselines_are_what_they_say():
    rng = np.random.default_rng()
    plane = rng.standard_normal((800, 3)) @ rng.standard_normal((3, 10)) + 5
    x = torch.from_numpy((plane + 0.01 * rng.standard_normal((800, 10))).astype(np.float32))
    assert fvu(x[400:], pca(x[:400], x[400:], 3)) < 1e-3
    assert fvu(x[400:], pca(x[:400], x[400:], 2)) > 1e-2
    gaussian = torch.from_numpy(rng.standard_normal((800, 10)).astype(np.float32))
    fit, held = gaussian[:400], gaussian[400:]
    few, many = (fvu(held, random_dictionary(fit, held, size, 2, 0)) for size in (4, 4096))
    assert many < few < 1.0


def test_that_every_figure_and_baseline_has_an_interval_over_samples_and_its_n():
    rng = np.random.default_rng()
    sample = rng.integers(0, 40, 1200).astype(np.int32)
    rows = (rng.standard_normal((1200, 12)) + 2 * rng.standard_normal((40, 12))[sample]).astype(np.float32)
    found = evaluate(random_sae("relu", d_sae=64), MemoryStore(rows, "blocks.3.resid_post", sample=sample))
    assert found.n == 1200 and found.n_samples == 40 and 500 < found.baseline_n < 700
    told = {figure.name: figure for figure in figures({"quality": found.model_dump(mode="json")})}
    assert {"fvu", "l0", "dead", "fvu_text", "fvu_pca", "fvu_neurons", "fvu_random"} < set(told)
    assert [name for name, figure in told.items() if not figure.interval] == ["fvu_mean"]  # 1 by what it is
    ranges = {name: figure.interval for name, figure in told.items() if figure.interval}
    for name, (low, high) in ranges.items():
        assert low <= told[name].value <= high and (low < high or name == "dead"), name
    assert told["fvu"].n == 1200 and told["fvu_pca"].n == found.baseline_n and told["fvu_text"].n == 600
    # Against a bootstrap written out, over the held-out samples of the same PCA.
    fitting = np.isin(sample, np.random.default_rng([found.seed, 2]).permutation(np.unique(sample))[:20])
    held = torch.from_numpy(rows[~fitting])
    recon = pca(torch.from_numpy(rows[fitting]), held, max(1, round(found.l0))).numpy()
    error, spread = np.square(held.numpy() - recon).sum(1), np.square(held.numpy() - held.numpy().mean(0)).sum(1)
    of, drawn = [np.flatnonzero(sample[~fitting] == one) for one in np.unique(sample[~fitting])], []
    for _ in range(2000):
        rows_of = np.concatenate([of[at] for at in rng.integers(0, len(of), len(of))])
        drawn.append(error[rows_of].sum() / spread[rows_of].sum())
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert ranges["fvu_pca"] == pytest.approx((low, high), abs=0.15 * (high - low))


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


def three_hooks(n=700):
    """Hook points of different widths and sizes, `c` almost a linear map of `a`."""
    rng = np.random.default_rng()
    a, b = 5 * rng.standard_normal((n, 12)), 0.1 * rng.standard_normal((n, 8))
    c = a @ rng.standard_normal((12, 6)) + 2 + rng.standard_normal((n, 6))
    return MemoryStore({"a": a, "b": b, "c": c})


def test_that_a_transcoder_is_measured_on_what_it_predicts_beside_a_linear_map():
    store = three_hooks()
    sae = random_sae("topk", d_sae=50)
    sae = Sae("topk", sae.W_enc, torch.randn(50, 6), sae.b_enc, torch.randn(6), k=4, hook="a", hook_out="c",
              W_skip=torch.randn(12, 6))  # fmt: skip
    x, y = store.parts["a"], store.parts["c"]
    found = evaluate(sae, store)
    assert found.fvu == pytest.approx(reference.fvu(y, sae.reconstruct(torch.from_numpy(x)).numpy()), rel=1e-4)
    assert set(found.baselines) == {"mean", "linear"} and not found.by_hook
    assert found.baselines["linear"] < 0.1 < 1.0 < found.fvu
    low, high = found.baseline_intervals["linear"]
    assert low < found.baselines["linear"] < high
    half = slice(0, 350), slice(350, 700)
    design = np.concatenate([x, np.ones((700, 1))], axis=1).astype(np.float64)
    weights = np.linalg.lstsq(design[half[0]], y[half[0]].astype(np.float64))[0]
    wanted = reference.fvu(y[half[1]], design[half[1]] @ weights)
    halves = [torch.from_numpy(part[rows]) for rows in half for part in (x, y)]
    assert 0.9 * wanted < fvu(halves[3], linear(*halves)) <= wanted * (1 + 1e-4)
    few = [torch.from_numpy(part[rows]) for rows in (slice(0, 8), slice(350, 700)) for part in (x, y)]
    assert 0.1 < fvu(few[3], linear(*few)) < 1.5  # eight rows of twelve columns: no map that only remembers


def test_that_each_source_of_a_crosscoder_counts_alike_however_large_its_activations():
    store = three_hooks()
    sae = random_sae("relu", d_in=20, d_sae=50)
    sae.hook, sae.sources = "a, b", (("a", 12), ("b", 8))
    both = np.concatenate([store.parts["a"], store.parts["b"]], axis=1)
    recon = sae.reconstruct(torch.from_numpy(both)).numpy()
    parts = {"a": slice(0, 12), "b": slice(12, 20)}
    wanted = {name: reference.fvu(both[:, part], recon[:, part]) for name, part in parts.items()}
    found = evaluate(sae, store)
    assert found.by_hook == pytest.approx(wanted, rel=1e-3)
    assert all(low < found.by_hook[name] < high for name, (low, high) in found.by_hook_intervals.items())
    assert set(found.by_hook_intervals) == {"a", "b"}
    assert found.fvu == pytest.approx(np.mean(list(wanted.values())), rel=1e-3)
    assert found.intervals["fvu"][0] < found.fvu < found.intervals["fvu"][1]
    assert {"pca", "random"} <= set(found.baselines)
    with pytest.raises(AuditorError, match="no hook point “b”"):
        evaluate(sae, MemoryStore({"a": store.parts["a"], "c": store.parts["c"]}))


def test_that_a_cross_layer_transcoder_is_measured_at_all_its_outputs():
    rng = np.random.default_rng()
    store = MemoryStore({name: rng.standard_normal((300, 5)) for name in ("x0", "x1", "y0", "y1")})
    clt = CrossLayerTranscoder(
        torch.randn(2, 5, 9), (torch.randn(9, 2, 5), torch.randn(9, 1, 5)), torch.randn(2, 9), torch.randn(2, 5), None,
        ("x0", "x1"), ("y0", "y1"),
    )
    x, y = (np.concatenate([store.parts[f"{side}{layer}"] for layer in (0, 1)], axis=1) for side in "xy")
    recon = clt.reconstruct(torch.from_numpy(x)).numpy()
    found = evaluate(clt, store)
    wanted = [reference.fvu(y[:, part], recon[:, part]) for part in (slice(0, 5), slice(5, 10))]
    assert list(found.by_hook.values()) == pytest.approx(wanted, rel=1e-3)
    assert found.l0 == pytest.approx(float((clt.encode(torch.from_numpy(x)) > 0).sum(1).float().mean()))


def test_that_normalised_rows_are_measured_on_their_own_scale():
    rows = known(400, d_in=12)[0] * np.linspace(0.1, 10, 400, dtype=np.float32)[:, None]
    sae = random_sae("topk", d_sae=50)
    sae.normalise = "layer_norm"
    recon = sae.reconstruct(torch.from_numpy(rows)).numpy()
    assert evaluate(sae, MemoryStore(rows, hook=sae.hook)).fvu == pytest.approx(reference.fvu(rows, recon), rel=1e-4)
