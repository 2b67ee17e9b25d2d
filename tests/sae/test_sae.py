"""A dictionary encodes and decodes as its formula says, and survives its folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from auditor import sae as dictionaries
from auditor.base.errors import AuditorError
from auditor.sae.sae import Sae


def random_sae(arch="topk", d_in=12, d_sae=600, k=4, seed=None):
    g = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**31)))
    shapes = [(d_in, d_sae), (d_sae, d_in), (d_sae,), (d_in,)]
    tensors = [torch.randn(shape, generator=g) / d_in**0.5 for shape in shapes]
    threshold = torch.rand(d_sae, generator=g) if arch == "jumprelu" else None
    return Sae(arch, *tensors, k=k if arch == "topk" else None, threshold=threshold, hook="blocks.3.resid_post")


def by_hand(sae, x):
    w, d, be, bd = (t.double().numpy() for t in (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec))
    pre = (x.double().numpy() - bd) @ w + be
    if sae.arch == "topk":
        z = np.where(pre >= np.sort(pre, axis=-1)[..., -sae.k][..., None], np.maximum(pre, 0), 0)
    else:
        z = np.where(pre > (0 if sae.threshold is None else sae.threshold.double().numpy()), pre, 0)
    return z, z @ d + bd


@pytest.mark.parametrize("arch", ["topk", "relu", "jumprelu"])
def test_that_encode_and_decode_follow_the_formula_dense_and_sparse(arch):
    sae, x = random_sae(arch), torch.randn(3, 7, 12)
    z, recon = by_hand(sae, x)
    np.testing.assert_allclose(sae.encode(x).numpy(), z, atol=1e-5)
    np.testing.assert_allclose(sae.decode(sae.encode(x)).numpy(), recon, atol=1e-4)
    np.testing.assert_allclose(sae.reconstruct(x).numpy(), recon, atol=1e-4)
    values, ids = sae.encode_sparse(x[0])
    np.testing.assert_allclose(torch.zeros(7, 600).scatter_add_(1, ids, values).numpy(), z[0], atol=1e-5)
    assert values.shape[1] == (4 if arch == "topk" else (z[0] > 0).sum(1).max())


@pytest.mark.parametrize("arch", ["topk", "relu"])
def test_that_blocks_do_not_change_the_result(monkeypatch, arch):
    sae, x = random_sae(arch), torch.randn(50, 12)
    whole = sae.reconstruct(x)
    monkeypatch.setattr("auditor.sae.sae._BLOCK_ELEMENTS", 600 * 7)
    assert sae.block_rows == 7
    torch.testing.assert_close(sae.reconstruct(x), whole)
    torch.testing.assert_close(sae.decode_sparse(*sae.encode_sparse(x)), whole)


def test_that_gradients_flow_through_encode():
    sae, x = random_sae(), torch.randn(2, 12, requires_grad=True)
    z = sae.encode(x)
    feature = int(z[0].argmax())
    (gradient,) = torch.autograd.grad(z[0, feature], x)
    torch.testing.assert_close(gradient[0], sae.W_enc[:, feature])


@pytest.mark.parametrize("arch", ["topk", "relu", "jumprelu"])
@pytest.mark.parametrize("half", [False, True])
def test_that_a_dictionary_comes_back_from_its_folder(tmp_path, arch, half):
    sae = random_sae(arch)
    sae.meta = {"model": "tiny", "train": {"lr": 0.5}, "origin": {"prepend_bos": True}}
    sae.save(tmp_path / "d", half=half)
    back = dictionaries.load(tmp_path / "d")
    assert (back.arch, back.k, back.hook, back.d_in, back.d_sae) == (arch, sae.k, sae.hook, 12, 600)
    assert back.meta["train"] == {"lr": 0.5}
    assert back.meta["origin"]["prepend_bos"] is True
    assert back.digest == sae.digest
    for name, tensor in sae.tensors().items():
        torch.testing.assert_close(back.tensors()[name], tensor, rtol=1e-3 if half else 0, atol=1e-4 if half else 0)
    stored = load_file(tmp_path / "d/sae_weights.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16 if half else torch.float32}
    with pytest.raises(AuditorError, match="exists already"):
        sae.save(tmp_path / "d")


def test_that_the_digest_tells_weights_apart():
    sae = random_sae(seed=1)
    same, other = random_sae(seed=1), random_sae(seed=2)
    assert sae.digest == same.digest != other.digest


def written(tmp_path, config=None, weights=None, drop=()):
    sae = random_sae("topk", d_in=6, d_sae=20)
    sae.save(tmp_path / "d")
    stated = json.loads((tmp_path / "d/cfg.json").read_bytes()) | (config or {})
    (tmp_path / "d/cfg.json").write_text(json.dumps({k: v for k, v in stated.items() if k not in drop}))
    if weights is not None:
        save_file(weights(sae.tensors()), tmp_path / "d/sae_weights.safetensors")
    return sae, tmp_path / "d"


def test_that_other_conventions_are_folded_in(tmp_path):
    x = torch.randn(9, 6)
    sae, path = written(tmp_path, {"apply_b_dec_to_input": False, "rescale_acts_by_decoder_norm": True})
    norm = sae.W_dec.norm(dim=1)
    pre = (x @ sae.W_enc + sae.b_enc) * norm  # SAELens: no b_dec on the input, activations times decoder norms
    values, ids = pre.topk(4, dim=1)
    z = torch.zeros(9, 20).scatter(1, ids, values.relu())
    torch.testing.assert_close(dictionaries.load(path).reconstruct(x), (z / norm) @ sae.W_dec + sae.b_dec)


def test_that_configurations_before_version_6_are_read(tmp_path):
    old = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}, "hook_point": "blocks.2.hook_resid_pre"}
    _, path = written(tmp_path, old, drop=("metadata", "architecture", "k"))
    found = dictionaries.load(path)
    assert (found.arch, found.k, found.hook) == ("topk", 3, "blocks.2.hook_resid_pre")


NAN = torch.full((6,), float("nan"))


@pytest.mark.parametrize(
    ("config", "weights", "told"),
    [
        ({"architecture": "gated"}, None, "gated"),
        ({"normalize_activations": "covariance_whitening"}, None, "covariance_whitening"),
        ({"d_in": 7}, None, "d_in"),
        ({"k": 21}, None, "k between 1 and 20"),
        ({"k": "3"}, None, "whole number"),
        ({"metadata": ["hook"]}, None, None),
        (None, lambda t: t | {"b_dec": NAN}, "not finite"),
        (None, lambda t: t | {"W_dec": t["W_dec"].T.contiguous()}, "do not fit"),
        (None, lambda t: {"W_enc": t["W_enc"]}, "holds the tensors W_enc"),
        (None, lambda t: t | {"b_enc": torch.zeros(3)}, "b_enc"),
        (None, lambda t: t | {"b_enc": torch.zeros(20, dtype=torch.int32)}, "not a floating type"),
        (None, lambda t: t | {"scaling_factor": torch.full((20,), 2.0)}, "fine-tuning scale"),
    ],
)
def test_that_a_folder_that_is_not_right_gets_one_clear_sentence(tmp_path, config, weights, told):
    _, path = written(tmp_path, config, weights)
    if told is None:
        assert dictionaries.load(path).hook == ""
    else:
        with pytest.raises(AuditorError, match=told):
            dictionaries.load(path)


DAMAGES = ["no folder", "no weights", "pickle", "cut", "config not JSON", "config a list", "deep"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_that_files_that_are_something_else_get_one_clear_sentence(tmp_path, damage):
    _, path = written(tmp_path)
    weights, config = path / "sae_weights.safetensors", path / "cfg.json"
    if damage == "no folder":
        path = tmp_path / "absent"
    elif damage == "no weights":
        weights.unlink()
    elif damage == "pickle":
        torch.save({"W_enc": torch.zeros(2)}, weights)
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-9])
    else:
        config.write_text({"config not JSON": "{", "config a list": "[]", "deep": "[" * 100_000}[damage])
    with pytest.raises(AuditorError):
        dictionaries.load(path)


def test_that_activations_of_another_width_are_refused():
    with pytest.raises(AuditorError, match="width 12, but was given width 5"):
        random_sae().encode(torch.zeros(2, 5))
    with pytest.raises(AuditorError, match="width 600, but was given width 5"):
        random_sae().decode(torch.zeros(2, 5))


def sparsify_folder(path, **settings):
    sae = random_sae("topk", d_in=6, d_sae=20)
    path.mkdir()
    (path / "cfg.json").write_text(json.dumps({"activation": "topk", "k": 4, "num_latents": 20, "d_in": 6} | settings))
    named = {"encoder.weight": sae.W_enc.T.contiguous(), "encoder.bias": sae.b_enc, "W_dec": sae.W_dec}
    save_file(named | {"b_dec": sae.b_dec}, path / "sae.safetensors")
    return sae


def test_that_a_sparsify_folder_is_read_in_its_own_orientation(tmp_path):
    sae, x = sparsify_folder(tmp_path / "layers.10"), torch.randn(5, 6)
    found = dictionaries.load(tmp_path / "layers.10")
    assert (found.hook, found.k) == ("layers.10", 4)
    torch.testing.assert_close(found.reconstruct(x), sae.reconstruct(x))


OTHER_KINDS = [{"skip_connection": True}, {"activation": "maxout"}, {"k": None}]


@pytest.mark.parametrize("settings", OTHER_KINDS)
def test_that_a_sparsify_folder_of_another_kind_is_refused(tmp_path, settings):
    sparsify_folder(tmp_path / "layers.10", **settings)
    with pytest.raises(AuditorError, match=r"layers\.10"):
        dictionaries.load(tmp_path / "layers.10")
