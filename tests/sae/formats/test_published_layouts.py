"""Files as the publishers of dictionaries lay them out, read here and by ten lines of numpy with the same result."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from auditor.base.errors import AuditorError
from auditor.sae import load
from auditor.sae.formats import dictionaries_in, formats
from auditor.sae.formats.circuit_tracer import write_set

D, M, OUT = 10, 24, 6


def rng():
    return np.random.default_rng(np.random.SeedSequence().generate_state(1)[0])


def drawn(generator, *shape):
    return (generator.standard_normal(shape) * (0.3 if len(shape) == 1 else 0.5)).astype(np.float32)


def rows(generator, width=D, n=40):
    return (2 * generator.standard_normal((n, width)) + 0.5).astype(np.float32)


def relu(pre):
    return np.maximum(pre, 0)


def top_k(pre, k):
    """The k largest of each row, if above zero."""
    least = np.sort(pre, 1)[:, -k][:, None]
    return np.where(pre >= least, relu(pre), 0)


def same(sae, x, acts, out):
    """What is read gives these activations and this output."""
    np.testing.assert_allclose(sae.encode(torch.from_numpy(x)).numpy(), acts, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(sae.reconstruct(torch.from_numpy(x)).numpy(), out, atol=2e-5, rtol=1e-4)
    assert (acts > 0).any() and (acts == 0).any()


def gemma(generator, capitals=True, d_out=D):
    w = {"W_enc": drawn(generator, D, M), "W_dec": drawn(generator, M, d_out), "b_enc": drawn(generator, M)}
    w |= {"b_dec": drawn(generator, d_out), "threshold": np.abs(drawn(generator, M)) * 3}
    return w if capitals else {name.lower(): array for name, array in w.items()}


@pytest.mark.parametrize("capitals", [True, False])
def test_that_gemma_scopes_archives_are_read_and_written_back(tmp_path, capitals):
    g = rng()
    w, x = gemma(g, capitals), rows(g)
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_12" / "width_16k" / "average_l0_82"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **w)
    sae = load(folder)
    p = {name.lower(): array for name, array in w.items()}
    pre = x @ p["w_enc"] + p["b_enc"]
    z = pre * (pre > p["threshold"])
    same(sae, x, z, z @ p["w_dec"] + p["b_dec"])
    assert (sae.hook, sae.hook_out, load(folder / "params.npz").hook) == ("blocks.12.hook_resid_post", "", sae.hook)
    sae.save(tmp_path / "ours")
    formats().get("gemma_scope").write(load(tmp_path / "ours"), tmp_path / "back")
    with np.load(tmp_path / "back" / "params.npz") as back:
        assert set(back.files) == set(w)
        assert all(np.array_equal(back[name], array) and back[name].dtype == array.dtype for name, array in w.items())


def test_that_gemma_scopes_dictionaries_of_the_embedding_are_for_scaled_activations(tmp_path):
    g = rng()
    w, x = gemma(g), rows(g)
    folder = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_6"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **w)
    pre = x @ (w["W_enc"] / D**0.5) + w["b_enc"]
    z = pre * (pre > w["threshold"])
    sae = load(folder)
    same(sae, x, z, z @ (w["W_dec"] * D**0.5) + w["b_dec"])
    assert sae.hook == "hook_embed"
    formats().get("gemma_scope").write(sae, tmp_path / "back")
    with np.load(tmp_path / "back" / "params.npz") as back:
        assert all(np.array_equal(back[name], array) for name, array in w.items())


def test_that_gemma_scopes_transcoders_read_one_hook_point_and_predict_another(tmp_path):
    g = rng()
    w, x = gemma(g, d_out=OUT), rows(g)
    folder = tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_3" / "width_16k" / "average_l0_50"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **w)
    pre = x @ w["W_enc"] + w["b_enc"]
    z = pre * (pre > w["threshold"])
    sae = load(folder)
    same(sae, x, z, z @ w["W_dec"] + w["b_dec"])
    assert (sae.hook, sae.hook_out) == ("blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out")


def test_that_gemma_scope_2_with_its_affine_skip_is_read_and_written_back(tmp_path):
    g = rng()
    w, x = gemma(g, capitals=False) | {"affine_skip_connection": drawn(g, D, D)}, rows(g)
    folder = tmp_path / "transcoder_all" / "layer_5_width_16k_l0_big_affine"
    folder.mkdir(parents=True)
    save_file(w, folder / "params.safetensors")
    config = {"architecture": "jump_relu", "affine_connection": True, "model_name": "gemma-v3-1b-pt"}
    (folder / "config.json").write_text(json.dumps(config))
    pre = x @ w["w_enc"] + w["b_enc"]
    z = pre * (pre > w["threshold"])
    sae = load(folder)
    same(sae, x, z, z @ w["w_dec"] + w["b_dec"] + x @ w["affine_skip_connection"])
    assert (sae.hook, sae.meta["origin"]["model_name"]) == ("blocks.5.hook_mlp_in", "gemma-v3-1b-pt")
    formats().get("gemma_scope").write(sae, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == config
    back = load_file(tmp_path / "back" / "params.safetensors")
    assert set(back) == set(w) and all(np.array_equal(back[name], array) for name, array in w.items())
    with pytest.raises(AuditorError, match="one layer of a cross-layer transcoder"):
        save_file(w | {"w_dec": drawn(g, M, 4, D)}, folder / "params.safetensors")
        load(folder)


def openai(generator, path, activation, settings):
    w = {"encoder.weight": drawn(generator, M, D), "decoder.weight": drawn(generator, D, M)}
    w |= {"latent_bias": drawn(generator, M), "pre_bias": drawn(generator, D)}
    state = {name: torch.from_numpy(array) for name, array in w.items()}
    state |= {"stats_last_nonzero": torch.zeros(M, dtype=torch.int64), "latents_activation_frequency": torch.zeros(M)}
    torch.save(state | {"activation": activation, "activation_state_dict": settings}, path)
    return w


def test_that_openais_topk_normalises_each_row_and_undoes_it(tmp_path):
    g = rng()
    folder = tmp_path / "resid_post_attn_v5_32k" / "autoencoders"
    folder.mkdir(parents=True)
    w, x = openai(g, folder / "8.pt", "TopK", {"k": 4, "postact_fn": "ReLU"}), rows(g)
    mean, std = x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True)
    z = top_k(((x - mean) / (std + 1e-5) - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"], 4)
    sae = load(folder / "8.pt")
    same(sae, x, z, (z @ w["decoder.weight"].T + w["pre_bias"]) * std + mean)
    assert (sae.hook, sae.k, sae.normalise) == ("blocks.8.hook_resid_mid", 4, "layer_norm")


def test_that_openais_relu_does_not_normalise(tmp_path):
    g = rng()
    w, x = openai(g, tmp_path / "0.pt", "ReLU", {}), rows(g)
    z = relu((x - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"])
    same(load(tmp_path / "0.pt"), x, z, z @ w["decoder.weight"].T + w["pre_bias"])


@pytest.mark.parametrize("kind", ["standard", "topk", "gated"])
def test_that_prismas_dictionaries_are_read(tmp_path, kind):
    g = rng()
    w = {"W_enc": drawn(g, D, M), "W_dec": drawn(g, M, D), "b_dec": drawn(g, D), "b_enc": drawn(g, M)}
    w |= {name: drawn(g, M) for name in ("b_gate", "r_mag", "b_mag")} if kind == "gated" else {}
    config = {"d_in": D, "hook_point_layer": 9, "layer_subtype": "hook_mlp_out", "activation_fn_str": "relu"}
    config |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}} if kind == "topk" else {}
    config |= {"normalize_activations": "layer_norm"} if kind == "standard" else {}
    folder = tmp_path / "prisma"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({name: torch.from_numpy(array) for name, array in w.items()}, folder / "weights.pt")
    x = rows(g)
    mean, std = (x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True)) if kind == "standard" else (0, 1)
    centred = (x - mean) / (std + (1e-5 if kind == "standard" else 0)) - w["b_dec"]
    if kind == "gated":
        z = (centred @ w["W_enc"] + w["b_gate"] > 0) * relu(centred @ (w["W_enc"] * np.exp(w["r_mag"])) + w["b_mag"])
    else:
        pre = centred @ w["W_enc"] + w["b_enc"]
        z = top_k(pre, 3) if kind == "topk" else relu(pre)
    sae = load(folder)
    same(sae, x, z, (z @ w["W_dec"] + w["b_dec"]) * std + mean)
    assert sae.hook == "blocks.9.hook_mlp_out"


@pytest.mark.parametrize("transcodes", [False, True])
def test_that_llama_scopes_norms_of_the_data_are_folded_in(tmp_path, transcodes):
    g = rng()
    w = {"encoder.weight": drawn(g, M, D), "encoder.bias": drawn(g, M), "decoder.bias": drawn(g, D)}
    w["decoder.weight"] = drawn(g, D, M)
    w["decoder.weight"] /= np.linalg.norm(w["decoder.weight"], axis=0)
    norms = {"in": 64.0 if transcodes else 6.3125, "out": 3.390625 if transcodes else 6.3125}
    hooks = (
        ("blocks.8.ln2.hook_normalized", "blocks.8.hook_mlp_out") if transcodes else ("blocks.8.hook_resid_post",) * 2
    )
    config = {"d_model": D, "d_sae": M, "hook_point_in": hooks[0], "hook_point_out": hooks[1], "act_fn": "jumprelu",
              "jump_relu_threshold": 0.25, "dataset_average_activation_norm": norms, "top_k": 50,
              "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": not transcodes,
              "apply_decoder_bias_to_pre_encoder": False}  # fmt: skip
    folder = tmp_path / "Llama3_1-8B-Base-L8-8x"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "hyperparams.json").write_text(json.dumps(config))
    save_file(w, folder / "checkpoints" / "final.safetensors")
    x = rows(g)
    scale_in, scale_out = D**0.5 / norms["in"], D**0.5 / norms["out"]
    # SAELens' way: thresholds times s, on activations of s x; then back to the raw scale of activations.
    pre = (scale_in * x) @ w["encoder.weight"].T + w["encoder.bias"]
    z = pre * (pre > 0.25 * scale_in)
    same(load(folder), x, z / scale_in, (z @ w["decoder.weight"].T + w["decoder.bias"]) / scale_out)


def test_that_llamascopiums_gate_counts_decoder_norms(tmp_path):
    g = rng()
    w = {"W_E": drawn(g, D, M), "b_E": drawn(g, M), "W_D": drawn(g, M, D), "b_D": drawn(g, D)}
    theta = drawn(g, M)
    hook = "blocks.4.hook_resid_post"
    norm = np.float32(7.5)
    stored = w | {"activation_function.log_jumprelu_threshold": theta, f"dataset_average_activation_norm.{hook}": norm}
    config = {"sae_type": "sae", "d_model": D, "expansion_factor": M / D, "act_fn": "jumprelu", "hook_point_in": hook,
              "hook_point_out": hook, "norm_activation": "dataset-wise"}  # fmt: skip
    folder = tmp_path / "scopium"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: np.asarray(array) for name, array in stored.items()}, folder / "sae_weights.safetensors")
    x, scale = rows(g), D**0.5 / 7.5
    pre = (scale * x) @ w["W_E"] + w["b_E"]
    z = pre * (pre * np.linalg.norm(w["W_D"], axis=1) > np.exp(theta))
    same(load(folder), x, z / scale, (z @ w["W_D"] + w["b_D"]) / scale)


def test_that_a_crosscoder_of_llamascopium_sums_its_heads(tmp_path):
    g = rng()
    w = {"W_E": drawn(g, 3, D, M), "b_E": drawn(g, 3, M), "W_D": drawn(g, 3, M, D), "b_D": drawn(g, 3, D)}
    config = {"sae_type": "crosscoder", "d_model": D, "n_heads": 3, "act_fn": "relu", "norm_activation": "inference",
              "hook_points": [f"blocks.{layer}.hook_resid_post" for layer in range(3)]}  # fmt: skip
    folder = tmp_path / "cross"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(w, folder / "sae_weights.safetensors")
    x = rows(g, 3 * D)
    z = relu(sum(x.reshape(-1, 3, D)[:, h] @ w["W_E"][h] + w["b_E"][h] for h in range(3)))
    sae = load(folder)
    same(sae, x, z, np.concatenate([z @ w["W_D"][h] + w["b_D"][h] for h in range(3)], 1))
    assert (sae.kind, sae.sources[1]) == ("crosscoder", ("blocks.1.hook_resid_post", D))
    (folder / "config.json").write_text(json.dumps(config | {"act_fn": "jumprelu"}))
    save_file(w | {"activation_function.log_jumprelu_threshold": drawn(g, M)}, folder / "sae_weights.safetensors")
    with pytest.raises(AuditorError, match="gates each feature anew"):
        load(folder)


def test_that_a_crosscoder_of_two_models_is_read_side_by_side(tmp_path):
    g = rng()
    w = {"W_enc": drawn(g, 2, D, M), "b_enc": drawn(g, M), "W_dec": drawn(g, M, 2, D), "b_dec": drawn(g, 2, D)}
    (tmp_path / "cfg.json").write_text(json.dumps({"model_a": "base", "model_b": "chat", "hook_point": "blocks.14"}))
    torch.save({name: torch.from_numpy(array) for name, array in w.items()}, tmp_path / "cc_weights.pt")
    x = rows(g, 2 * D)
    z = relu(sum(x.reshape(-1, 2, D)[:, m] @ w["W_enc"][m] for m in range(2)) + w["b_enc"])
    sae = load(tmp_path)
    same(sae, x, z, (np.einsum("bh,hmd->bmd", z, w["W_dec"]) + w["b_dec"]).reshape(len(x), -1))
    assert sae.sources == (("base: blocks.14", D), ("chat: blocks.14", D))


def test_that_saevs_line_of_settings_and_weights_are_read(tmp_path):
    g = rng()
    w = {"W_enc": drawn(g, D, M), "W_dec": drawn(g, M, D), "b_dec": drawn(g, D), "b_enc": drawn(g, M)}
    with open(tmp_path / "sae.pt", "wb") as file:
        file.write(json.dumps({"schema": 5, "cfg": {"activation": {"top_k": 3}}, "commit": "x", "lib": "0.1"}).encode())
        file.write(b"\n")
        torch.save({name: torch.from_numpy(array) for name, array in w.items()}, file)
    x = rows(g)
    z = top_k((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 3)
    same(load(tmp_path), x, z, z @ w["W_dec"] + w["b_dec"])


def test_that_sparsifys_old_signed_coders_keep_both_sides_of_a_feature(tmp_path):
    g = rng()
    w = {"encoder.weight": drawn(g, M, D), "encoder.bias": drawn(g, M), "W_dec": drawn(g, M, D), "b_dec": drawn(g, D)}
    folder = tmp_path / "layers.2"
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps({"k": 4, "num_latents": M, "d_in": D, "signed": True}))
    save_file(w, folder / "sae.safetensors")
    x = rows(g)
    pre = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
    z = np.where(np.abs(pre) >= np.sort(np.abs(pre), 1)[:, -4][:, None], pre, 0)
    sae = load(folder)
    same(sae, x, np.concatenate([relu(z), relu(-z)], 1), z @ w["W_dec"] + w["b_dec"])
    formats().get("sparsify").write(sae, tmp_path / "back")
    back = load_file(tmp_path / "back" / "sae.safetensors")
    assert set(back) == set(w) and all(np.array_equal(back[name], array) for name, array in w.items())


YAML = """# transcoders of every layer
model_name: "google/gemma-2-2b"
model_kind: transcoder_set
feature_input_hook: mlp.hook_in
feature_output_hook: "hook_mlp_out"
scan: gemma  # where the features are shown
transcoders:
  - "hf://someone/transcoders/layer_0.safetensors"
  - "hf://someone/transcoders/layer_1.safetensors"
"""


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk", "skip"])
def test_that_circuit_tracers_sets_are_read_and_written_back(tmp_path, kind):
    g = rng()
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "config.yaml").write_text(YAML)
    layers, x = [], rows(g)
    for layer in range(2):
        w = {"W_enc": drawn(g, M, D), "W_dec": drawn(g, M, D), "b_enc": drawn(g, M), "b_dec": drawn(g, D)}
        w |= {"activation_function.threshold": np.abs(drawn(g, M)) * 3} if kind == "jumprelu" else {}
        w |= {"k": np.array(5)} if kind == "topk" else {"W_skip": drawn(g, D, D)} if kind == "skip" else {}
        save_file(w, folder / f"layer_{layer}.safetensors")
        layers.append(w)
    found = dictionaries_in(folder)
    assert list(found) == ["layer_0.safetensors", "layer_1.safetensors"]
    saes = [load(place) for place, _ in found.values()]
    for sae, w in zip(saes, layers, strict=True):
        pre = x @ w["W_enc"].T + w["b_enc"]
        z = top_k(pre, 5) if kind == "topk" else relu(pre)
        z = pre * (pre > w["activation_function.threshold"]) if kind == "jumprelu" else z
        same(sae, x, z, z @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"].T if kind == "skip" else 0))
    assert (saes[1].hook, saes[1].hook_out) == ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    assert saes[1].meta["origin"]["model_name"] == "google/gemma-2-2b"
    saes[1].save(tmp_path / "ours")
    write_set([saes[0], load(tmp_path / "ours")], tmp_path / "back")
    assert (tmp_path / "back" / "config.yaml").read_text() == YAML
    for layer, w in enumerate(layers):
        back = load_file(tmp_path / "back" / f"layer_{layer}.safetensors")
        assert set(back) == set(w)
        assert all(np.array_equal(back[name], array) and back[name].dtype == array.dtype for name, array in w.items())


@pytest.mark.parametrize("name", ["sparsify", "dictionary_learning", "gemma_scope", "circuit_tracer"])
def test_that_a_format_without_a_place_for_a_dictionary_says_so_and_leaves_nothing(tmp_path, name):
    g = rng()
    w = openai(g, tmp_path / "0.pt", "TopK", {"k": 4})
    assert w
    with pytest.raises(AuditorError, match="Export it as saelens"):
        formats().get(name).write(load(tmp_path / "0.pt"), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"0.pt"}


@pytest.mark.parametrize("name", ["sparsify", "dictionary_learning", "gemma_scope", "circuit_tracer", "saelens"])
def test_that_a_dictionary_survives_every_format_that_has_a_place_for_it(tmp_path, name):
    """From circuit-tracer's TopK, or ReLU where TopK has no place, to another format and back."""
    g = rng()
    w = {"W_enc": drawn(g, M, D), "W_dec": drawn(g, M, D), "b_enc": drawn(g, M), "b_dec": drawn(g, D)}
    if name == "dictionary_learning":
        named = {"encoder.weight": w["W_enc"], "encoder.bias": w["b_enc"], "bias": w["b_dec"]}
        named["decoder.weight"] = w["W_dec"].T.copy()
        torch.save({key: torch.from_numpy(array) for key, array in named.items()}, tmp_path / "ae.pt")
        (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder", "layer": 1}}))
        sae = load(tmp_path)
        sae.original = None
    else:
        (tmp_path / "config.yaml").write_text(YAML)
        save_file(w | ({"k": np.array(5)} if name in ("sparsify", "circuit_tracer") else {}),
                  tmp_path / "layer_3.safetensors")  # fmt: skip
        sae = load(tmp_path / "layer_3.safetensors")
        sae.original = None
    formats().get(name).write(sae, tmp_path / "out-transcoder")
    place, held = next(iter(dictionaries_in(tmp_path / "out-transcoder").values()))
    back = held.read(place)
    x = torch.from_numpy(rows(g))
    torch.testing.assert_close(back.encode(x), sae.encode(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(back.reconstruct(x), sae.reconstruct(x), rtol=1e-5, atol=1e-5)
