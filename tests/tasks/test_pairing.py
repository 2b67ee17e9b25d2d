"""What was learned from a model with its adapter off is put into that model again, not into the one with it on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from auditor.cli.main import main
from auditor.features import open_index
from auditor.models import Model, loading, open_model
from auditor.project import Project
from auditor.sae import load
from auditor.sae.train_config import TrainConfig
from auditor.store import open_store
from auditor.tasks import evaluation
from auditor.tasks.opening import open_model_of_index
from auditor.tasks.pairing import digest_as_used, with_adapter
from auditor.tasks.result import Result, read_result
from auditor.tasks.splicing import splicing_of
from tests.models.peft.make_fixtures import FIXTURES
from tests.models.tiny.entry import word_tokenizer

HOOK = "blocks.1.resid_post"
OF_ANOTHER = "-off” and is used in “lora-on-base-"
SMALL = ("--d-sae", "16", "--k", "4", "--steps", "20", "--batch-size", "16", "--device", "cpu", "--evaluate-rows", "8",
         "--splice-samples", "0")  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a model that an adapter lies over, labelled samples, and a store and a dictionary of its base."""
    folder = tmp_path_factory.mktemp("paired")
    project = str(folder / "project")
    shutil.copytree(FIXTURES / "base-llama", folder / "base")
    word_tokenizer(folder / "base", ends=False)
    texts = [(f"{many} {what}", many) for many in ("one", "two", "three") for what in ("red cat sat", "cat", "red")]
    rows = [{"text": f"{text} {text}", "many": many} for text, many in texts * 8]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["open", str(FIXTURES / "lora"), "--base", str(folder / "base"), "--name", "laid", "-p", project]) == 0
    assert main(["open", str(folder / "texts.jsonl"), "-p", project]) == 0
    hook = ("--samples", "texts", "--hooks", HOOK, "--device", "cpu")
    assert main(["record", "-p", project, "--model", "laid", "--adapter", "off", *hook]) == 0
    assert main(["train", "-p", project, *SMALL]) == 0
    return folder


def run(place: Path, *arguments: str) -> int:
    return main([*arguments, "-p", str(place / "project")])


def newest(place: Path) -> Result:
    with Project.open(place / "project") as project:
        return read_result(project.artefacts("result")[-1].path)


def base_digest(place: Path) -> str:
    return open_model(place / "base").digest


def test_that_a_training_on_its_base_looks_into_its_base(place: Path) -> None:
    with Project.open(place / "project") as project:
        store = open_store(project.artefacts("store")[0].path)
        assert load(project.artefacts("dictionary")[0].path).meta["model_digest"] == base_digest(place)
        splicing = splicing_of(project, store, TrainConfig(device="cpu"))
        assert splicing is not None and splicing._model.digest == base_digest(place)


def test_that_an_index_over_its_base_asks_its_base(place: Path) -> None:
    assert run(place, "index") == 0
    with Project.open(place / "project") as project, open_index(project.artefacts("index")[-1].path) as index:
        assert index.meta["model"]["digest"] == base_digest(place) != project.artefacts("model")[0].digest
        assert not open_model_of_index(project, index).adapter_on


@pytest.mark.parametrize("named", [(), ("--model", "laid")])
def test_that_a_feature_is_tested_in_the_base_unless_the_adapter_is_asked_for(
    place: Path, capsys: pytest.CaptureFixture[str], named: tuple[str, ...]
) -> None:
    with Project.open(place / "project") as project:
        sae = load(project.artefacts("dictionary")[0].path)
        rows = open_store(project.artefacts("store")[0].path).rows(slice(0, 64))
    feature = int(sae.encode(torch.from_numpy(rows)).sum(0).argmax())
    found = {}
    for adapter in ("auto", "off", "on"):
        capsys.readouterr()
        asked = ("--samples", "texts", "--n", "4", "--n-null", "20", "--n-random", "5", "--choose", "all")
        assert run(place, "experiment", str(feature), *asked, *named, "--adapter", adapter) == 0
        result = newest(place)
        assert result.metric is not None and result.recipe.config["adapter"] == ("on" if adapter == "on" else "off")
        found[adapter] = result.metric.estimate
        assert (OF_ANOTHER in capsys.readouterr().err) is (adapter == "on")
    assert found["auto"] == found["off"] != found["on"]


def test_that_edits_of_a_feature_are_made_in_the_base_and_others_in_the_whole(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = ("--prompt", "one two three", "--n-random", "5")
    for edit, adapter in (("feature 0 mode=scale amount=0.5", "off"), ("ablate blocks.0.mlp_out", "on")):
        assert run(place, "experiment", "--edit", edit, *prompt) == 0
        assert newest(place).recipe.config["adapter"] == adapter
    capsys.readouterr()
    assert run(place, "experiment", "--edit", "feature 0 mode=scale amount=0.5", *prompt, "--adapter", "on") == 0
    assert OF_ANOTHER in capsys.readouterr().err


@pytest.mark.parametrize("named", [(), ("--model", "laid")])
def test_that_it_is_evaluated_in_the_base(place: Path, monkeypatch: pytest.MonkeyPatch, named: tuple[str, ...]) -> None:
    own, asked = evaluation.with_adapter, list[Model]()
    monkeypatch.setattr(evaluation, "with_adapter", lambda *given: asked.append(own(*given)) or asked[-1])
    with Project.open(place / "project") as project:
        name = project.artefacts("dictionary")[0].name
    chosen = ("--label", "many", "--n", "20", "--splits", "2", "--k", "1", "--samples", "texts")
    assert run(place, "compare", name, "--evaluate", "probing", *chosen, *named) == 0
    assert asked and {model.digest for model in asked} == {base_digest(place)}
    assert "trained on" not in newest(place).note


def test_that_the_files_of_a_model_are_read_once_for_its_digests(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(loading, "hashed", lambda *given, own=loading.hashed: (read.append(given[0]), own(*given))[1])
    with Project.open(place / "project", write=False) as project:
        artefact = project.artefacts("model")[-1]
    model, base = open_model(artefact.path), base_digest(place)
    read.clear()
    for _ in range(3):  # as each question of a pane does
        assert digest_as_used(artefact, with_adapter(model, "auto", [base])) == base
    assert len(read) == 2  # the adapter and, within, its base


def test_that_a_digest_in_a_strangers_dictionary_that_is_no_text_names_no_model(place: Path) -> None:
    with Project.open(place / "project", write=False) as project:
        model = open_model(project.artefacts("model")[-1].path)
    assert with_adapter(model, "auto", [["a", "list"], base_digest(place)]).adapter_on is False
    assert with_adapter(model, "auto", [["a", "list"]]).adapter_on


def test_that_a_circuit_is_drawn_in_the_base_of_its_dictionaries(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for adapter, kept in (("auto", "off"), ("on", None)):
        capsys.readouterr()
        assert run(place, "trace", "one two three", "--adapter", adapter, "--max-features", "20") == 0
        with Project.open(place / "project") as project:
            assert project.artefacts("result")[-1].meta.get("adapter") == kept
        assert (OF_ANOTHER in capsys.readouterr().err) is (adapter == "on")
