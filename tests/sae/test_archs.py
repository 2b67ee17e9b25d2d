"""Each architecture: loss and gradients against numpy, its end as a dictionary, its way back, and what it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.sae.archs import ARCHITECTURES, clt, jumprelu
from auditor.sae.archs.auxk import auxiliary
from auditor.sae.archs.batchtopk import BatchTopKConfig, least_kept
from auditor.sae.archs.clt import CrossLayerConfig
from auditor.sae.archs.crosscoder import CrosscoderConfig
from auditor.sae.archs.gated import GatedConfig
from auditor.sae.archs.jumprelu import JumpReluConfig
from auditor.sae.archs.matching_pursuit import MatchingPursuitConfig
from auditor.sae.archs.matryoshka import MatryoshkaConfig, widths_of
from auditor.sae.archs.relu import ReluConfig
from auditor.sae.archs.skip_transcoder import SkipTranscoderConfig
from auditor.sae.archs.transcoder import TranscoderConfig
from auditor.sae.parameters import leaves
from auditor.sae.train_config import ARCHS
from tests.reference import sae as reference
from tests.sae.made import architecture, batch_of

D, M, N = 12, 40, 60


@pytest.fixture
def rng():
    return np.random.default_rng()


def drawn(rng, d_in=D, d_sae=M, d_out=None, **more):
    """Parameters and the same in float64 numpy, by name; `more` names further tensors and their shapes."""
    d_out = d_out or d_in
    shapes = {"encoder": (d_sae, d_in), "decoder": (d_sae, d_out), "b_enc": (d_sae,), "b_dec": (d_out,)} | more
    scale = {"encoder": d_in**-0.5, "decoder": d_out**-0.5}
    arrays = {n: (rng.standard_normal(s) * scale.get(n, 0.3)).astype(np.float32) for n, s in shapes.items()}
    tensors = leaves({n: torch.from_numpy(a) for n, a in arrays.items()}, torch.device("cpu"))
    return tensors, {n: a.astype(np.float64) for n, a in arrays.items()}


def rows(rng, n=N, width=D):
    return rng.standard_normal((n, width)).astype(np.float32)


def agree(outcome, parameters, loss, z, gradients):
    """The outcome and `.grad` of the parameters, in their order, against the reference."""
    assert float(outcome.loss.detach()) == pytest.approx(loss, rel=1e-4)
    assert float(outcome.l0) == pytest.approx((z > 0).sum(1).mean())
    assert torch.equal(outcome.counts, torch.from_numpy((z > 0).sum(0)))
    for (name, tensor), want in zip(parameters.named().items(), gradients, strict=True):
        np.testing.assert_allclose(
            tensor.grad.numpy(), want, rtol=1e-3, atol=1e-4 * np.abs(want).max(initial=1e-3), err_msg=name
        )


def test_that_the_registry_and_the_form_name_the_same_architectures_in_the_same_order():
    assert tuple(ARCHITECTURES.names()) == ARCHS


@pytest.mark.parametrize("dead_share", [0.0, 0.3])
@pytest.mark.parametrize(("arch", "widths"), [("batchtopk", None), ("matryoshka", [5, 20, M])])
def test_that_selection_over_the_batch_gives_the_reference_loss_and_gradients(rng, arch, widths, dead_share):
    x, (p, plain) = rows(rng), drawn(rng)
    dead = rng.random(M) < dead_share
    settings = {"d_sae": M, "seed": 0, "k": 4, "product": "auto", "auxk_alpha": 0.5, "auxk_rows": 30}
    whole = MatryoshkaConfig(**settings, widths="1/8, 0.5, 1") if widths else BatchTopKConfig(**settings)
    kind = architecture(whole, x)
    assert kind.name == arch
    loss, z, gradients = reference.batchtopk_step(x.astype(np.float64), *plain.values(), 4, widths)
    missing = x[:30] - (z[:30] @ plain["decoder"] + plain["b_dec"])
    if dead.any():
        aux, extra = reference.auxk_step(
            x[:30].astype(np.float64), *plain.values(), missing, dead, min(6, dead.sum()), 0.5
        )
        loss, gradients = loss + aux, [a + b for a, b in zip(gradients, extra, strict=True)]
    for found in (kind.gradients, kind.by_autograd):
        agree(found(p, batch_of(x, dead=dead)), p, loss, z, gradients)


def test_that_the_kept_threshold_lets_the_k_largest_a_row_of_the_sample_through(rng, monkeypatch):
    x, (p, plain) = rows(rng), drawn(rng)
    pre = np.sort(((x - plain["b_dec"]) @ plain["encoder"].T + plain["b_enc"]).ravel())
    for held in (1 << 21, 7 * M):  # at once, or seven rows at a time
        monkeypatch.setattr("auditor.sae.archs.batchtopk._HELD", held)
        assert least_kept(torch.from_numpy(x), p, 4) == pytest.approx(pre[-4 * len(x) - 1 :][:2].mean(), rel=1e-5)
        assert least_kept(torch.from_numpy(x), p, M) == 0


def test_that_revival_looks_at_the_same_features_whether_it_cuts_out_or_masks_the_dead(rng):
    centred, missing, dead = torch.randn(20, D), torch.randn(20, D), torch.rand(M) < 0.5
    p, _ = drawn(rng)
    cut = auxiliary(0.3, centred, missing, p.encoder[dead], p.decoder[dead], p.b_enc[dead])
    wanted = torch.autograd.grad(cut, [p.encoder, p.decoder, p.b_enc])
    masked = auxiliary(0.3, centred, missing, p.encoder, p.decoder, p.b_enc, dead)
    torch.testing.assert_close(masked, cut)
    for found, want in zip(torch.autograd.grad(masked, [p.encoder, p.decoder, p.b_enc]), wanted, strict=True):
        torch.testing.assert_close(found, want)


@pytest.mark.parametrize("power", [1.0, 0.4])
def test_that_an_annealed_penalty_gives_the_reference_loss_and_gradients(rng, power):
    x, (p, plain) = rows(rng), drawn(rng)
    pre = (x - plain["b_dec"]) @ plain["encoder"].T + plain["b_enc"]
    x = x[np.abs(pre).min(1) > 1e-3]  # the slope of z^p is steeper at 0 than float32 can tell
    kind = architecture(ReluConfig(d_sae=M, seed=0, l1=0.7, p_end=power, steps=100, product="auto"), x)
    assert kind.power(0) == kind.power(9) == 1.0 and kind.power(80) == kind.power(99) == power
    wanted = reference.relu_step(x.astype(np.float64), *plain.values(), 0.7, power)
    for found in (kind.gradients, kind.by_autograd):
        agree(found(p, batch_of(x, 99, d_sae=M)), p, *wanted)


@pytest.mark.parametrize("sparse", [True, False])
def test_that_the_penalty_is_as_strong_after_its_exponent_fell(rng, sparse):
    x, (p, plain) = rows(rng), drawn(rng)
    kind = architecture(ReluConfig(d_sae=M, seed=0, l1=0.7, p_end=0.5, steps=100, product="auto"), x)
    last = next(step for step in range(100) if kind.power(step + 1) < 1)
    gradients = kind.gradients if sparse else kind.by_autograd
    kind.observe(p, batch_of(x), gradients(p, batch_of(x, last, d_sae=M)))
    before, after = (
        reference.relu_step(x.astype(np.float64), *plain.values(), 1.0, power)[0]
        - reference.relu_step(x.astype(np.float64), *plain.values(), 0.0)[0]
        for power in (1.0, kind.power(last + 1))
    )
    assert kind.state()["strength"] == pytest.approx(before / after, rel=1e-4)


def test_that_gated_gives_the_reference_loss_and_gradients(rng):
    x, (p, plain) = rows(rng), drawn(rng, r_mag=(M,), b_mag=(M,))
    kind = architecture(GatedConfig(d_sae=M, seed=0, l1=0.7, steps=10, product="auto"), x)
    for found in (kind.gradients, kind.by_autograd):
        agree(found(p, batch_of(x, 9)), p, *reference.gated_step(x.astype(np.float64), *plain.values(), 0.7))


@pytest.mark.parametrize("target", [0, 7])
@pytest.mark.parametrize("loss", ["step", "tanh"])
def test_that_jumprelu_gives_the_reference_loss_and_gradients(rng, monkeypatch, loss, target):
    monkeypatch.setattr(jumprelu, "_REVIVE", 0.3)
    x, (p, plain) = rows(rng), drawn(rng, log_threshold=(M,))
    dead = rng.random(M) < 0.3
    config = JumpReluConfig(
        d_sae=M, seed=0, l1=0.7, steps=10, bandwidth=0.8, jump_loss=loss, target_l0=target, product="auto"
    )
    kind = architecture(config, x)
    spread = x - x.mean(0)

    def step(l0):
        if not target:
            return 0.7 * l0, 0.7
        weight = 0.7 * (spread.astype(np.float64) ** 2).sum() / N
        return weight * (l0 / target - 1) ** 2, 2 * weight * (l0 / target - 1) / target

    width = 0.8 * np.sqrt((spread.astype(np.float64) ** 2).mean())
    given = {"step": step if target or loss == "step" else None, "tanh": 0.7 if loss == "tanh" else None}
    wanted = reference.jumprelu_step(x.astype(np.float64), *plain.values(), width, dead, 0.3, **given)
    for found in (kind.gradients, kind.by_autograd):
        agree(found(p, batch_of(x, 9, dead)), p, *wanted)


def test_that_matching_pursuit_gives_the_reference_loss_and_gradients(rng):
    x, (p, plain) = rows(rng), drawn(rng)
    plain["decoder"] /= np.linalg.norm(plain["decoder"], axis=1, keepdims=True)
    kind = architecture(MatchingPursuitConfig(d_sae=M, seed=0, k=5), x)
    p = kind._tied({name: torch.from_numpy(a) for name, a in plain.items()})
    loss, z, (to_decoder, to_b_dec) = reference.pursuit_step(x.astype(np.float64), plain["decoder"], plain["b_dec"], 5)
    for found in (kind.gradients, kind.by_autograd):
        agree(found(p, batch_of(x)), p, loss, z, (np.zeros((M, 0)), to_decoder, np.zeros(M), to_b_dec))


@pytest.mark.parametrize("dead_share", [0.0, 0.4])
@pytest.mark.parametrize("arch", ["transcoder", "skip_transcoder"])
def test_that_transcoders_give_the_reference_loss_and_gradients_sparse_and_dense(rng, arch, dead_share):
    x, y = rows(rng), rows(rng, width=9)
    p, plain = drawn(rng, d_out=9, **({"skip": (D, 9)} if arch == "skip_transcoder" else {}))
    dead = rng.random(M) < dead_share
    made = SkipTranscoderConfig if arch == "skip_transcoder" else TranscoderConfig
    kind = architecture(made(d_sae=M, seed=0, k=4, auxk_alpha=0.5, auxk_rows=30, product="float32"), x, y)
    skip = plain.get("skip")
    loss, z, gradients = reference.transcoder_step(x.astype(np.float64), y, *list(plain.values())[:4], 4, skip)
    gradients = gradients[: len(plain)]
    if dead.any():
        missing = y[:30] - (z[:30] @ plain["decoder"] + plain["b_dec"] + (0 if skip is None else x[:30] @ skip))
        centre = np.zeros(D)
        aux, extra = reference.auxk_step(
            x[:30].astype(np.float64), plain["encoder"], plain["decoder"], plain["b_enc"], centre, missing, dead,
            min(6, dead.sum()), 0.5,
        )
        loss, gradients = loss + aux, [*(a + b for a, b in zip(gradients[:3], extra[:3], strict=True)), *gradients[3:]]
    for found in (kind.gradients, kind.by_autograd):
        agree(found(p, batch_of(x, 1, dead, y)), p, loss, z, gradients)


def test_that_a_crosscoder_weighs_features_by_the_sum_of_their_norms_in_each_source(rng):
    x, (p, plain) = rows(rng), drawn(rng)
    sources = (("a", 5), ("b", 4), ("c", 3))
    kind = architecture(CrosscoderConfig(d_sae=M, seed=0, l1=0.7, p_end=1.0, steps=10), x, sources=sources)
    wanted = reference.relu_step(x.astype(np.float64), *plain.values(), 0.7, widths=[5, 4, 3])
    agree(kind.gradients(p, batch_of(x, 9)), p, *wanted)


def test_that_a_cross_layer_transcoder_gives_the_reference_loss_and_gradients(rng, monkeypatch):
    monkeypatch.setattr(clt, "_REVIVE", 0.3)
    layers, m, d, d_out = 3, 8, 5, 4
    x, y = rows(rng, width=layers * d), rows(rng, width=layers * d_out)
    shapes = {"encoder": (layers * m, d), "decoder": (m * 6, d_out), "b_enc": (layers * m,), "b_dec": (layers * d_out,)}
    p, plain = drawn(rng, **shapes, log_threshold=(layers * m,))
    config = CrossLayerConfig(d_sae=m, seed=0, l1=0.7, steps=10, bandwidth=0.8)
    named = {f"{at}{layer}": width for at, width in (("in", d), ("out", d_out)) for layer in range(layers)}
    kind = architecture(config, x, y, *(tuple(named.items())[part] for part in (slice(0, 3), slice(3, 6))))
    dead = rng.random(layers * m) < 0.3
    width = 0.8 * np.sqrt(((x - x.mean(0)).astype(np.float64) ** 2).mean())
    wanted = reference.clt_step(x.astype(np.float64), y, *plain.values(), layers, width, 0.7, dead, 0.3)
    agree(kind.gradients(p, batch_of(x, 9, dead, y)), p, *wanted)


def test_that_nested_widths_rise_to_the_whole_and_nonsense_is_refused():
    assert widths_of("1/2, 1/16, 1/4", 32) == [2, 8, 16, 32]
    assert widths_of("0.25", 10) == [2, 10] and widths_of("", 10) == [10]
    for bad in ("half", "1/0", "2", "-1/2", "0"):
        with pytest.raises(AuditorError, match="no shares"):
            widths_of(bad, 10)
