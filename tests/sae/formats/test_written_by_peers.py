"""What SAELens, sparsify and dictionary_learning saved gives their own figures, and goes back byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from auditor.base.errors import AuditorError
from auditor.sae import load
from auditor.sae.formats import dictionaries_in, formats
from auditor.sae.formats.saelens import stored

FIXTURES = Path(__file__).parent / "fixtures"
SIGNED = {"abstopk", "checkpoint-abstopk"}


def every() -> list[str]:
    return sorted(
        file.relative_to(FIXTURES).as_posix().removesuffix(".expected") for file in FIXTURES.rglob("*.expected")
    )


def expected_of(name: str) -> tuple[dict[str, torch.Tensor], list[int] | None]:
    """What the package gave, and the samples that its rows are, where they matter."""
    expected = load_file(FIXTURES / f"{name}.expected")
    return expected, expected["runs"].tolist() if "runs" in expected else None


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the one file of weights in a folder, with its own type."""
    weights = [file for file in path.iterdir() if file.name in ("sae_weights.safetensors", "sae.safetensors", "ae.pt")]
    assert len(weights) == 1
    if weights[0].suffix == ".safetensors":
        return load_file(weights[0])
    state = torch.load(weights[0], weights_only=True)
    return state.get("ae", state)


def test_that_the_fixtures_are_of_the_versions_that_the_benches_use():
    made = json.loads((FIXTURES / "made.json").read_text())
    assert made["sae-lens"]["sae-lens"] == "6.54.12"
    assert made["sparsify"]["eai-sparsify"] == "1.3.3"
    assert made["dictionary-learning"]["dictionary-learning"] == "0.1.0"
    assert len(every()) >= 48


@pytest.mark.parametrize("name", every())
def test_that_activations_and_output_are_the_packages_own(name):
    sae, (expected, runs) = load(FIXTURES / name), expected_of(name)
    close = {"rtol": 1e-5, "atol": 1e-5}
    acts = sae.encode(expected["x"], runs)
    if Path(name).name in SIGNED:
        positive, negative = acts.chunk(2, dim=1)
        acts = positive - negative
    torch.testing.assert_close(acts, expected["acts"], **close)
    torch.testing.assert_close(sae.reconstruct(expected["x"], runs), expected["out"], **close)
    assert float(expected["acts"].abs().max()) > 0.1
    values, ids = sae.encode_sparse(expected["x"], runs)
    again = sae.complete(sae.decode_sparse(values, ids), expected["x"], runs)
    torch.testing.assert_close(again, expected["out"], **close)


@pytest.mark.parametrize("name", every())
@pytest.mark.parametrize("through_a_project", [False, True])
def test_that_it_goes_back_byte_for_byte_in_its_own_format(tmp_path, name, through_a_project):
    sae = load(FIXTURES / name)
    assert sae.original is not None
    write = formats().get(sae.original.format).write
    assert write is not None
    if through_a_project:  # where it lies in our own layout in between
        sae.save(tmp_path / "ours")
        sae = load(tmp_path / "ours")
    write(sae, tmp_path / "back")
    first, back = tensors_of(FIXTURES / name), tensors_of(tmp_path / "back")
    assert first.keys() == back.keys()
    for key, tensor in first.items():
        assert back[key].dtype == tensor.dtype and back[key].shape == tensor.shape, key
        assert back[key].reshape(-1).view(torch.uint8).tolist() == tensor.reshape(-1).view(torch.uint8).tolist(), key
    for settings in ("cfg.json", "config.json"):
        if (FIXTURES / name / settings).is_file():
            said = json.loads((FIXTURES / name / settings).read_text())
            assert json.loads((tmp_path / "back" / settings).read_text()) == said
    x, runs = expected_of(name)[0]["x"], expected_of(name)[1]
    torch.testing.assert_close(load(tmp_path / "back").reconstruct(x, runs), sae.reconstruct(x, runs))
    for beside in ("activation_scaler.json", "activation_whitening.safetensors"):
        assert (tmp_path / "back" / beside).exists() == (FIXTURES / name / beside).exists()


@pytest.mark.parametrize("name", every())
def test_that_it_is_the_same_dictionary_once_saved_here(tmp_path, name):
    sae, (expected, runs) = load(FIXTURES / name), expected_of(name)
    x = expected["x"]
    sae.save(tmp_path / "ours")
    back = load(tmp_path / "ours")
    assert (back.arch, back.hook, back.hook_out, back.normalise) == (sae.arch, sae.hook, sae.hook_out, sae.normalise)
    torch.testing.assert_close(back.encode(x, runs), sae.encode(x, runs), rtol=0, atol=0)
    torch.testing.assert_close(back.reconstruct(x, runs), sae.reconstruct(x, runs), rtol=0, atol=0)


def test_that_only_what_the_canonical_weights_lose_is_kept_twice():
    assert not load(FIXTURES / "sae-lens" / "standard").original.tensors
    assert not load(FIXTURES / "sparsify" / "bfloat16" / "layers.5").original.tensors
    assert set(load(FIXTURES / "sae-lens" / "jumprelu-no-input-bias").original.tensors) == {"b_enc"}
    gated = load(FIXTURES / "sae-lens" / "gated")
    assert set(gated.original.tensors) == {"W_enc", "r_mag", "b_gate"}
    assert {"W_dec", "b_dec", "b_mag"} <= set(stored(gated, "gated"))


def test_that_a_folder_of_several_names_them():
    assert set(dictionaries_in(FIXTURES / "sparsify")) == {
        "layers.3", "expanded/layers.4", "bfloat16/layers.5", "groupmax/layers.8", "groupmax/layers.9.mlp",
        "transcoders/layers.6.mlp", "transcoders/layers.7.mlp",
    }  # fmt: skip
    with pytest.raises(AuditorError, match=r"holds 2 dictionaries: layers\.6\.mlp, layers\.7\.mlp"):
        load(FIXTURES / "sparsify" / "transcoders")
    assert load(FIXTURES / "sparsify" / "expanded").hook == "layers.4"


def test_that_what_a_dictionary_is_of_is_read():
    skip = load(FIXTURES / "sae-lens" / "skip-transcoder")
    assert (skip.hook, skip.hook_out, skip.kind) == ("blocks.3.hook_resid_post", "blocks.3.hook_mlp_out", "transcoder")
    assert (skip.d_in, skip.d_out, skip.W_skip.shape) == (12, 8, (12, 8))
    coder = load(FIXTURES / "sparsify" / "transcoders" / "layers.6.mlp")
    assert (coder.hook, coder.hook_out) == ("layers.6.mlp.input", "layers.6.mlp")
    assert coder.meta["origin"]["model_name"] == "EleutherAI/pythia-70m"
    matryoshka = load(FIXTURES / "dictionary-learning" / "MatryoshkaBatchTopKSAE")
    assert matryoshka.hook == "resid_post_layer_4" and matryoshka.meta["origin"]["k"] == 5
    assert load(FIXTURES / "sae-lens" / "topk-hook-z").meta["origin"]["reshape_activations"] == "hook_z"
