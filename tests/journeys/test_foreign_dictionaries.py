"""Dictionaries of other tools, taken in, examined on the project's own activations, and given back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from auditor.project import Project
from auditor.sae import load
from auditor.sae.formats import formats
from tests.journeys.conftest import HOOK, Begun
from tests.journeys.running import auditor, done, made

FIXTURES = Path(__file__).parents[1] / "sae" / "formats" / "fixtures"


@pytest.fixture
def project(begun: Begun, tmp_path: Path) -> Path:
    shutil.copytree(begun.folder, tmp_path / "project")
    return tmp_path / "project"


def trained(begun: Begun, project: Path):
    return load(made(begun.told["train"], "dictionary"))


def test_that_a_dictionary_goes_out_in_every_format_and_comes_back_as_it_was(begun, project, tmp_path):
    sae = trained(begun, project)
    for name in ("saelens", "sparsify", "dictionary_learning"):
        done("export", begun.told["train"]["artefacts"][0]["id"], tmp_path / name / HOOK, "--format", name, "--project",
             project)  # fmt: skip
        told = done("import", tmp_path / name / HOOK, "--hook", HOOK, "--project", project)
        assert (told["format"], told["hook"], told["features"]) == (name, HOOK, sae.d_sae)
        doctor = told["doctor"]
        assert doctor["verdict"] == "as read" and doctor["store"] and doctor["rows"] > 500
        assert doctor["table"][0]["reading"] == "as read" and doctor["table"][0]["low"] < doctor["table"][0]["fvu"]
        back = load(made(told, "dictionary"))
        x = torch.randn(5, sae.d_in) * 3
        torch.testing.assert_close(back.encode(x), sae.encode(x), atol=1e-4, rtol=1e-4)
        assert back.meta["doctor"]["verdict"] == "as read"
        with Project.open(project, write=False) as held:
            assert held.find(told["artefacts"][0]["id"]).meta["doctor"] == doctor


def test_that_saelens_is_told_hook_points_by_the_names_that_it_runs_models_by(begun, project, tmp_path):
    done("export", begun.told["train"]["artefacts"][0]["id"], tmp_path / "out", "--format", "saelens", "--project",
         project)  # fmt: skip
    told = json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]
    assert told["hook_name"] == HOOK.replace("resid_post", "hook_resid_post")
    assert told["sae_lens_version"].startswith("6.")  # else it takes none of these
    assert load(tmp_path / "out").hook == HOOK


def test_that_sparsify_says_its_hook_point_in_a_folder_of_any_name(begun, project, tmp_path):
    done("export", begun.told["train"]["artefacts"][0]["id"], tmp_path / "out", "--format", "sparsify", "--project",
         project)  # fmt: skip
    told = done("import", tmp_path / "out", "--project", project)
    assert told["hook"] == HOOK and told["doctor"]["verdict"] == "as read"


def test_that_a_wrong_convention_is_named_and_then_read_as_it_says(begun, project, tmp_path):
    sae = trained(begun, project)
    wrong = replace(sae, b_enc=sae.b_enc - sae.b_dec @ sae.W_enc, original=None)
    formats().get("sparsify").write(wrong, tmp_path / "model.layers.0")
    told = done("import", tmp_path / "model.layers.0", "--project", project)
    assert told["hook"] == HOOK  # sparsify names the module
    assert (told["doctor"]["verdict"], told["doctor"]["reading"]) == ("another", "no-b_dec-on-input")
    shown = auditor("import", tmp_path / "model.layers.0", "--project", project)
    assert "Import it with --convention no-b_dec-on-input" in shown.out and "b_dec not subtracted" in shown.out
    again = done("import", tmp_path / "model.layers.0", "--convention", "no-b_dec-on-input", "--project", project)
    assert again["doctor"]["verdict"] == "as read"
    x = torch.randn(5, sae.d_in) * 3
    torch.testing.assert_close(load(made(again, "dictionary")).encode(x), sae.encode(x), atol=1e-3, rtol=1e-3)
    refused = auditor("import", tmp_path / "model.layers.0", "--convention", "upside-down", "--project", project)
    assert refused.code == 2 and "“upside-down” is not a convention of dictionaries" in refused.err


def test_that_the_doctor_looks_again_at_what_was_imported(begun, project, tmp_path):
    sae = trained(begun, project)
    wrong = replace(sae, b_enc=sae.b_enc - sae.b_dec @ sae.W_enc, original=None)
    formats().get("sparsify").write(wrong, tmp_path / "model.layers.0")
    told = done("import", tmp_path / "model.layers.0", "--name", "wrong", "--project", project)
    store = begun.told["record"]["artefacts"][0]["name"]
    where = ("--store", store, "--project", project)
    shown = auditor("doctor", "--dictionary", "wrong", *where)
    assert shown.code == 1 and "b_dec-on-input" in shown.out and "Import it with --convention" in shown.out
    again = auditor("doctor", "--dictionary", "wrong", *where, "--hook", HOOK, "--json")
    assert again.code == 1 and again.json["verdict"] == "another" and not again.json["ok"]
    assert [row["verdict"] for row in again.json["earlier"]] == ["another", "another"]
    assert again.json["readings"][0].keys() == {"convention", "fvu", "low", "high", "l0", "n", "same as"}
    with Project.open(project, write=False) as held:
        kept = held.find(told["artefacts"][0]["id"]).meta
    assert kept["doctor_before"][0] == told["doctor"] and kept["doctor"]["store"] == store
    assert done("doctor", "--dictionary", begun.told["train"]["artefacts"][0]["id"], *where)["verdict"] == "as read"
    nameless = auditor("doctor", "--store", store)
    assert nameless.code == 2 and "No dictionary is named" in nameless.err


def test_that_a_dictionary_without_activations_to_check_with_says_so(begun, project):
    told = done("import", FIXTURES / "sae-lens" / "gated", "--project", project)
    assert told["doctor"]["verdict"] == "unchecked"
    assert "no activations of “blocks.3.resid_post” (width 12)" in told["doctor"]["sentence"]
    store = begun.told["record"]["artefacts"][0]["name"]
    refused = auditor("import", FIXTURES / "sae-lens" / "gated", "--store", store, "--project", project)
    assert refused.code == 2 and "does not hold" in refused.err


def test_that_a_folder_of_several_is_taken_in_whole_or_by_name(project, tmp_path):
    folder = FIXTURES / "sparsify" / "transcoders"
    told = done("import", folder, "--project", project)
    assert [row["name"] for row in told["dictionaries"]] == ["layers.6.mlp", "layers.7.mlp"]
    assert len(told["artefacts"]) == 2
    one = done("import", folder, "--pick", "layers.7.mlp", "--project", project)
    assert (one["hook_out"], one["arch"]) == ("blocks.7.mlp_out", "topk")
    before = sorted((project / "dictionaries").iterdir())
    wrong = auditor("import", folder, "--pick", "layers.9.mlp", "--project", project)
    assert wrong.code == 2 and "It holds: layers.6.mlp, layers.7.mlp" in wrong.err
    # One of seven uses an activation that is not read: then none is taken in.
    many = shutil.copytree(FIXTURES / "sparsify", tmp_path / "many")
    config = many / "groupmax" / "layers.8" / "cfg.json"
    config.write_text(config.read_text("utf-8").replace('"groupmax"', '"sinkhorn"'), "utf-8")
    none = auditor("import", many, "--project", project)
    assert none.code == 2 and "sinkhorn" in none.err
    assert sorted((project / "dictionaries").iterdir()) == before


def test_that_what_was_imported_goes_back_byte_for_byte(project, tmp_path):
    told = done("import", FIXTURES / "sae-lens" / "gated", "--name", "gated", "--project", project)
    assert told["format"] == "saelens"
    done("export", "gated", tmp_path / "back", "--project", project)
    first, back = (
        load_file(path / "sae_weights.safetensors") for path in (FIXTURES / "sae-lens/gated", tmp_path / "back")
    )
    assert first.keys() == back.keys() and all(torch.equal(first[key], back[key]) for key in first)
    done("export", "gated", tmp_path / "npz", "--format", "gemma_scope", "--project", project)
    x = torch.randn(9, 12)
    torch.testing.assert_close(load(tmp_path / "npz").encode(x), load(FIXTURES / "sae-lens/gated").encode(x))
    refused = auditor("export", "gated", tmp_path / "no", "--format", "sparsify", "--project", project)
    assert refused.code == 2 and "sparsify has TopK and GroupMax dictionaries" in refused.err
    assert not (tmp_path / "no").exists()


def test_that_transcoders_of_several_layers_make_one_set(project, tmp_path):
    source = tmp_path / "set"
    source.mkdir()
    (source / "config.yaml").write_text("model_name: tiny\nmodel_kind: transcoder_set\n")
    g = torch.Generator().manual_seed(0)
    for layer in range(2):
        shapes = {"W_enc": (24, 10), "W_dec": (24, 10), "b_enc": (24,), "b_dec": (10,)}
        tensors = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
        save_file(tensors, source / f"layer_{layer}.safetensors")
    told = done("import", source, "--project", project)
    names = ",".join(artefact["id"] for artefact in told["artefacts"])
    done("export", names, tmp_path / "out", "--format", "circuit_tracer", "--project", project)
    assert (tmp_path / "out" / "config.yaml").read_bytes() == (source / "config.yaml").read_bytes()
    for layer in range(2):
        first, back = (load_file(path / f"layer_{layer}.safetensors") for path in (source, tmp_path / "out"))
        assert all(torch.equal(first[key], back[key]) for key in first)
    assert json.loads((made(told, "dictionary") / "cfg.json").read_text())["architecture"] == "transcoder"


def test_that_without_a_store_a_few_samples_run_through_the_model(begun, project, tmp_path):
    sae = replace(trained(begun, project), hook="blocks.1.mlp_out", original=None)
    sae.save(tmp_path / "elsewhere")
    told = done("import", tmp_path / "elsewhere", "--project", project)
    doctor = told["doctor"]
    assert doctor["store"] == f"mixed through {begun.model.name}" and doctor["hook"] == "blocks.1.mlp_out"
    assert doctor["verdict"] == "none fits" and doctor["rows"] > 300 and doctor["samples"] > 20
    with Project.open(project, write=False) as held:
        assert begun.model.name in held.runs()[-1].inputs


def test_that_a_cross_layer_transcoder_comes_in_and_goes_out(project, tmp_path):
    source = tmp_path / "clt"
    source.mkdir()
    (source / "config.yaml").write_text("model_name: tiny\nmodel_kind: cross_layer_transcoder\n")
    g = torch.Generator().manual_seed(0)
    for i in range(2):
        encoder = {f"W_enc_{i}": torch.randn(24, 10, generator=g), f"b_enc_{i}": torch.randn(24, generator=g)}
        save_file(encoder | {f"b_dec_{i}": torch.randn(10, generator=g)}, source / f"W_enc_{i}.safetensors")
        save_file({f"W_dec_{i}": torch.randn(24, 2 - i, 10, generator=g)}, source / f"W_dec_{i}.safetensors")
    told = done("import", source, "--project", project)
    assert (told["arch"], told["features"], told["doctor"]["verdict"]) == ("clt", 48, "unchecked")
    done("export", told["artefacts"][0]["id"], tmp_path / "out", "--project", project)
    for file in source.glob("*.safetensors"):
        first, back = load_file(file), load_file(tmp_path / "out" / file.name)
        assert first.keys() == back.keys() and all(torch.equal(first[key], back[key]) for key in first)
    assert done("open", tmp_path / "out", "--project", project)["kind"] == "dictionary"
    refused = auditor("open", source, "--project", project)
    assert refused.code == 2 and "Take it in with: auditor import" in refused.err
