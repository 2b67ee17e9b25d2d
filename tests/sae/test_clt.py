"""A cross-layer transcoder encodes and decodes as its formula says, and survives circuit-tracer's files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from auditor import sae as dictionaries
from auditor.base.errors import AuditorError
from auditor.sae.clt import CrossLayerTranscoder

L, D, M, OUT = 3, 5, 40, 4


def random_clt(threshold=True):
    return CrossLayerTranscoder(
        torch.randn(L, D, M), tuple(torch.randn(M, L - layer, OUT) for layer in range(L)), torch.randn(L, M),
        torch.randn(L, OUT), torch.rand(L, M) if threshold else None,
        tuple(f"blocks.{n}.resid_mid" for n in range(L)), tuple(f"blocks.{n}.mlp_out" for n in range(L)),
        meta={"model": "tiny", "train": {"lr": 0.5}},
    )


def by_hand(clt, x):
    z, out = [], [clt.b_dec[layer].double().numpy() + np.zeros((len(x), 1)) for layer in range(L)]
    for layer in range(L):
        pre = x[:, layer].double().numpy() @ clt.W_enc[layer].double().numpy() + clt.b_enc[layer].double().numpy()
        z.append(np.where(pre > (0 if clt.threshold is None else clt.threshold[layer].double().numpy()), pre, 0))
        for later in range(layer, L):
            out[later] = out[later] + z[-1] @ clt.W_dec[layer][:, later - layer].double().numpy()
    return np.concatenate(z, 1), np.concatenate(out, 1)


@pytest.mark.parametrize("threshold", [True, False])
def test_that_encode_and_decode_follow_the_formula_dense_and_sparse(threshold):
    clt, x = random_clt(threshold), torch.randn(20, L, D)
    z, out = by_hand(clt, x)
    assert (clt.d_in, clt.d_out, clt.d_sae) == (L * D, L * OUT, L * M)
    for given in (x, x.flatten(1)):
        np.testing.assert_allclose(clt.encode(given).numpy(), z, atol=1e-5)
    np.testing.assert_allclose(clt.reconstruct(x.flatten(1)).numpy(), out, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(clt.decode_sparse(*clt.encode_sparse(x.flatten(1))).numpy(), out, rtol=1e-4, atol=1e-4)
    written = z @ clt.directions().numpy() + clt.b_dec.flatten().numpy()
    np.testing.assert_allclose(written, out, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("threshold", [True, False])
def test_that_it_comes_back_from_its_folder_and_goes_back_byte_for_byte(tmp_path, threshold, half):
    clt = random_clt(threshold)
    clt.save(tmp_path / "a", half=half)
    back = dictionaries.load_any(tmp_path / "a")
    assert isinstance(back, CrossLayerTranscoder)
    assert (back.hooks, back.hooks_out, back.meta) == (clt.hooks, clt.hooks_out, clt.meta)
    assert back.digest == clt.digest
    for name, tensor in clt.tensors().items():
        torch.testing.assert_close(back.tensors()[name], tensor, rtol=1e-3 if half else 0, atol=1e-4 if half else 0)
    back.save(tmp_path / "b")
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "b").iterdir())
    assert len(names) == 2 * L + 2
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with pytest.raises(AuditorError, match="cross-layer"):
        dictionaries.load(tmp_path / "a")


def test_that_a_folder_that_is_not_right_gets_one_clear_sentence(tmp_path):
    random_clt().save(tmp_path / "a")
    decoder = tmp_path / "a/W_dec_1.safetensors"
    held = load_file(decoder)
    save_file({"W_dec_1": held["W_dec_1"][:, :1].contiguous()}, decoder)
    with pytest.raises(AuditorError, match="W_dec of layer 1"):
        dictionaries.load_any(tmp_path / "a")
    save_file({"W_dec_0": held["W_dec_1"]}, decoder)
    with pytest.raises(AuditorError, match="holds the tensors W_dec_0"):
        dictionaries.load_any(tmp_path / "a")
    decoder.unlink()
    with pytest.raises(AuditorError, match=r"no W_dec_1\.safetensors"):
        dictionaries.load_any(tmp_path / "a")
    with pytest.raises(AuditorError, match="was given width 7"):
        random_clt().encode(torch.zeros(2, 7))
