"""`auditor experiment --edit`: edits named on the command line or in a file, run in a project and written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from auditor.cli.main import main
from auditor.project import Project
from auditor.tasks.result import Result, read_result
from tests.analysis.dictionaries import TEXTS


@pytest.fixture(scope="module")
def place(tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a model, samples, and a store of one of its hook points."""
    folder = tmp_path_factory.mktemp("edited")
    (folder / "texts.txt").write_text("\n\n".join(TEXTS))
    project = str(folder / "project")
    assert main(["open", str(tiny_llama_folder), "-p", project]) == 0
    assert main(["open", str(folder / "texts.txt"), "-p", project]) == 0
    settings = ["--model", "tiny-llama", "--samples", "texts", "--hooks", "blocks.1.z", "--context", "16"]
    assert main(["record", "-p", project, *settings]) == 0
    return folder


def experiment(place: Path, *arguments: str) -> int:
    return main(["experiment", "-p", str(place / "project"), "--n-random", "5", *arguments])


def store(place: Path) -> str:
    with Project.open(place / "project") as project:
        return project.artefacts("store")[0].name


def newest(place: Path) -> Result:
    with Project.open(place / "project") as project:
        return read_result(project.artefacts("result")[-1].path)


def test_that_edits_of_the_command_line_are_written_down_with_their_controls(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edits = ["--edit", "ablate blocks.1.z head=2 mean", "--edit", "scale blocks.0.mlp_out at=ordinary factor=0.25"]
    assert experiment(place, *edits, "--samples", "texts", "--n", "4", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n"] == 4 and told["null_n"] == 5 and told["low"] <= told["estimate"] <= told["high"]
    assert told["edits"][0]["edit"] == "Puts its mean over the samples in the place of head 2 of blocks.1.z."
    assert {"token", "before", "after", "low", "control high"} <= set(told["tokens"][0])
    result = newest(place)
    assert result.recipe.config["edit"] == [edits[1], edits[3]] and result.metric is not None
    assert "1. Puts its mean" in result.note and "2. Multiplies blocks.0.mlp_out at ordinary positions" in result.note
    assert (
        result.inputs.keys() >= {"texts"} and result.choice is not None and result.choice.seen == len(TEXTS) + 1
    )  # one has a blank line
    with Project.open(place / "project") as project:
        assert project.runs()[-1].config["edit"] == [edits[1], edits[3]]


def test_that_a_file_of_edits_is_written_out_in_the_recipe(place: Path) -> None:
    (place / "edits.toml").write_text(
        '[[edit]]\nkind = "freeze"\n[[edit]]\nkind = "ablate"\nhook = "blocks.0.attn_out"\n'
    )
    assert experiment(place, "--edit", str(place / "edits.toml"), "--prompt", "The capital of France is") == 0
    result = newest(place)
    assert result.recipe.config["edit"] == ["freeze", "ablate blocks.0.attn_out"]
    assert result.metric is not None and result.metric.n == 1 and result.metric.interval is None
    assert result.further[0].name.endswith("nothing frozen") and result.further[0].estimate != result.metric.estimate


def test_that_rows_are_resampled_from_a_store(place: Path) -> None:
    line = f"ablate blocks.1.z resample head=4 store={store(place)}"
    assert experiment(place, "--edit", line, "--samples", "texts", "--n", "3", "--measure", "loss") == 0
    assert store(place) in newest(place).inputs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--edit", "ablate blocks.1.zz"), "no hook point"),
        (("--edit", "ablat blocks.1.z"), "no edit called"),
        (("--edit", "feature 3"), "no dictionary"),
        (("--edit", "ablate blocks.0.z mean store=STORE"), "blocks.0.z"),
        (("--edit", "ablate blocks.1.z", "--measure", "target"), "target token"),
        (("--edit", "none.toml"), "cannot be read"),
    ],
)
def test_that_a_bad_edit_says_so_and_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    with Project.open(place / "project") as project:
        before = [artefact.id for artefact in project.artefacts()]
    named = [argument.replace("STORE", store(place)) for argument in arguments]
    assert experiment(place, *named, "--samples", "texts") == 2
    assert said in capsys.readouterr().err
    with Project.open(place / "project") as project:
        assert [artefact.id for artefact in project.artefacts()] == before
