"""AbsTopK, GroupMax and temporal dictionaries in training: loss and gradients against numpy, and their way back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from auditor.base.errors import AuditorError
from auditor.sae import load
from auditor.sae.archs.abstopk import AbsTopK, AbsTopKConfig
from auditor.sae.archs.architecture import Batch
from auditor.sae.archs.groupmax import GroupMax, GroupMaxConfig
from auditor.sae.archs.temporal import Temporal, TemporalConfig
from auditor.sae.formats import formats
from auditor.sae.parameters import leaves
from auditor.sae.sae import Sae
from auditor.sae.scaling import Reading, Scaling
from tests.reference import sae as reference
from tests.reference import temporal as in_order
from tests.sae.made import batch_of
from tests.sae.temporal import temporal

D, M, N, K = 12, 40, 60, 4
CPU = torch.device("cpu")
SETTINGS = {"d_sae": M, "seed": 0, "k": K, "auxk_alpha": 0.5, "auxk_rows": 30}


@pytest.fixture
def rng():
    return np.random.default_rng()


def made(kind, config, factor=1.0, in_order=False):
    reading = Reading((("h", D),), in_order=in_order)
    return kind(config, Scaling(reading, torch.full((D,), factor), torch.full((D,), factor)), None, CPU)


def drawn(rng, **more):
    """Parameters, and the same in float64 numpy."""
    shapes = {"encoder": (M, D), "decoder": (M, D), "b_enc": (M,), "b_dec": (D,)} | more
    arrays = {name: (rng.standard_normal(shape) * 0.3).astype(np.float32) for name, shape in shapes.items()}
    tensors = leaves({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, CPU)
    return tensors, {name: array.astype(np.float64) for name, array in arrays.items()}


def signed_revival(x, plain, missing, dead):
    """AuxK by magnitude: over features of one side each, twice as many, and its gradients to those of two."""
    two = [np.concatenate([plain[name], -plain[name]]) for name in ("encoder", "decoder", "b_enc")]
    loss, (e, d, b, rest) = reference.auxk_step(
        x, *two, plain["b_dec"], missing, np.tile(dead, 2), min(D // 2, 2 * dead.sum()), 0.5
    )
    return loss, [e[:M] - e[M:], d[:M] - d[M:], b[:M] - b[M:], rest]


@pytest.mark.parametrize("dead_share", [0.0, 0.3])
@pytest.mark.parametrize("name", ["abstopk", "groupmax"])
def test_that_loss_and_gradients_are_the_references(rng, name, dead_share):
    x, (p, plain) = rng.standard_normal((N, D)).astype(np.float32), drawn(rng)
    dead = rng.random(M) < dead_share
    if name == "abstopk":
        kind, keep = made(AbsTopK, AbsTopKConfig(**SETTINGS)), reference.largest_by_magnitude
    else:
        kind, keep = made(GroupMax, GroupMaxConfig(**SETTINGS)), reference.largest_of_groups
    loss, z, gradients = reference.chosen_step(x.astype(np.float64), *plain.values(), lambda pre: keep(pre, K))
    if dead.any():
        missing = x[:30] - (z[:30] @ plain["decoder"] + plain["b_dec"])
        if name == "abstopk":
            aux, extra = signed_revival(x[:30].astype(np.float64), plain, missing, dead)
        else:
            aux, extra = reference.auxk_step(
                x[:30].astype(np.float64), *plain.values(), missing, dead, min(D // 2, dead.sum()), 0.5
            )
        loss, gradients = loss + aux, [a + b for a, b in zip(gradients, extra, strict=True)]
    for found in (kind.gradients, kind.by_autograd):
        outcome = found(p, batch_of(x, dead=dead))
        assert float(outcome.loss.detach()) == pytest.approx(loss, rel=1e-4)
        assert float(outcome.l0) == pytest.approx((z != 0).sum(1).mean())
        assert outcome.counts.tolist() == (z != 0).sum(0).tolist()
        for tensor, want in zip(p.named().values(), gradients, strict=True):
            np.testing.assert_allclose(tensor.grad.numpy(), want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_that_abstopk_ends_as_both_sides_of_its_features_and_saelens_reads_the_signs(rng, tmp_path):
    p, plain = drawn(rng)
    with torch.no_grad():  # as training keeps them
        p.decoder /= p.decoder.norm(dim=1, keepdim=True)
    kind = made(AbsTopK, AbsTopKConfig(**SETTINGS), factor=0.5)
    x = rng.standard_normal((N, D)).astype(np.float32) * 2
    sae = kind.finish(p)
    pre = (0.5 * x - plain["b_dec"]) @ plain["encoder"].T + plain["b_enc"]
    z = pre * reference.largest_by_magnitude(pre, K) * 2
    positive, negative = sae.encode(torch.from_numpy(x)).chunk(2, 1)
    np.testing.assert_allclose((positive - negative).numpy(), z, rtol=1e-3, atol=1e-4)
    assert sae.d_sae == 2 * M and not ((positive > 0) & (negative > 0)).any()
    again = kind.adopt(sae)
    torch.testing.assert_close(kind.finish(again).W_enc, sae.W_enc)
    formats().get("saelens").write(sae, tmp_path / "out")
    said = json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert (said["architecture"], said["d_sae"], said["k"]) == ("abstopk", M, K)
    back = load(tmp_path / "out")
    torch.testing.assert_close(back.encode(torch.from_numpy(x)), sae.encode(torch.from_numpy(x)), rtol=0, atol=0)
    with pytest.raises(AuditorError, match="two sides"):
        kind.adopt(Sae("topk", sae.W_enc + 0.1, sae.W_dec, sae.b_enc, sae.b_dec, k=K))


def test_that_groupmax_ends_as_it_is_and_goes_on(rng, tmp_path):
    p, _ = drawn(rng)
    kind = made(GroupMax, GroupMaxConfig(**SETTINGS), factor=0.5)
    sae = kind.finish(p)
    assert sae.arch == "groupmax" and sae.k == K
    codes = sae.encode(torch.randn(N, D))
    assert ((codes.view(N, K, -1) > 0).sum(2) <= 1).all() and float((codes > 0).sum(1).float().mean()) > 2
    torch.testing.assert_close(kind.finish(kind.adopt(sae)).W_dec, sae.W_dec)
    for name in ("sparsify", "saelens", "dictionary_learning"):
        write = formats().get(name).write
        if name == "sparsify":
            write(sae, tmp_path / "h")
            torch.testing.assert_close(load(tmp_path / "h").W_enc, sae.W_enc, rtol=0, atol=0)
        else:
            with pytest.raises(AuditorError):
                write(sae, tmp_path / name)
    with pytest.raises(AuditorError, match="3 equal groups"):
        made(GroupMax, GroupMaxConfig(**SETTINGS | {"k": 3}))


def test_that_temporal_gives_the_reference_loss_and_its_slopes(rng):
    narrow, heads, runs = M // 4, 2, [9, 1, 14, 6]
    names = {"q_target": narrow, "k_ctx": narrow, "v_ctx": M, "c_proj": M}
    more = {f"attn_layers.0.{name}.weight": (size, M) for name, size in names.items()}
    more |= {f"attn_layers.0.{name}.bias": (size,) for name, size in names.items()}
    kind = made(Temporal, TemporalConfig(d_sae=M, seed=0, k=K, heads=heads, bottleneck=4), in_order=True)
    _, plain = drawn(rng, **more)
    tensors = {name: torch.from_numpy(array).float() for name, array in plain.items()}
    p = leaves(tensors | {"encoder": tensors["decoder"][:, :0], "b_enc": torch.zeros(M)}, CPU)
    x, judged = rng.standard_normal((sum(runs), D)), rng.random(sum(runs)) < 0.7
    batch = Batch(torch.from_numpy(x).float(), 0, torch.zeros(M, dtype=torch.bool), torch.empty(0), runs,
                  torch.from_numpy(judged))  # fmt: skip

    def loss(arrays):
        attention = tuple(arrays[f"attn_layers.0.{name}.{part}"] for name in names for part in ("weight", "bias"))
        whole = arrays["decoder"] * D**0.5
        return in_order.temporal_loss(runs, x, whole, arrays["b_dec"], [attention], heads, K, judged)

    outcome = kind.gradients(p, batch)
    value, z = loss(plain)
    assert float(outcome.loss.detach()) == pytest.approx(value, rel=1e-4)
    assert outcome.counts.tolist() == (z[judged] > 0).sum(0).tolist()
    for name in ("decoder", "b_dec", *more):
        gradient = (p.named()[name].grad).numpy()
        for _ in range(3):
            at = tuple(rng.integers(0, size) for size in plain[name].shape)
            up, down = ({**plain, name: plain[name].copy()} for _ in range(2))
            up[name][at] += 1e-5
            down[name][at] -= 1e-5
            slope = (loss(up)[0] - loss(down)[0]) / 2e-5
            assert gradient[at] == pytest.approx(slope, rel=2e-2, abs=2e-4 * float(np.abs(gradient).max()) + 1e-6), name


def test_that_temporal_ends_on_the_raw_scale_and_goes_on(rng):
    config = TemporalConfig(d_sae=32, seed=0, k=K, heads=2, bottleneck=4)
    kind = made(Temporal, config, factor=0.5, in_order=True)
    p, runs = kind.begin(batch_of(rng.standard_normal((N, D)).astype(np.float32))), [9, 21]
    x = torch.randn(30, D) * 2
    sae = kind.finish(p)
    batch = Batch(0.5 * x, 0, torch.zeros(32, dtype=torch.bool), x, runs, torch.ones(30, dtype=torch.bool))
    squared = (sae.reconstruct(x, runs) - x).pow(2).sum()
    assert float(kind.loss(p, batch).squared_error) == pytest.approx(0.25 * float(squared), rel=1e-4)
    assert sae.kind == "temporal autoencoder" and (sae.encode(x, runs) > 0).sum(1).max() <= K
    for name, tensor in kind.adopt(sae).named().items():
        torch.testing.assert_close(tensor, p.named()[name], msg=name)
    for other in (temporal(D, d_sae=64), Sae("relu", *(torch.zeros(s) for s in ((D, 32), (32, D), (32,), (D,))))):
        with pytest.raises(AuditorError):
            kind.adopt(other)
    with pytest.raises(AuditorError, match="multiple of 24"):
        made(Temporal, TemporalConfig(d_sae=32, seed=0, k=K, heads=3, bottleneck=8), in_order=True)
