"""`auditor experiment --edit`: edits named on the command line or in a file, run in a project and written down."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from auditor.analysis.editing import parse_edit
from auditor.audit.figures import figure_kind
from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Reporter
from auditor.cli.main import main
from auditor.project import Project
from auditor.sae import load
from auditor.store import open_store
from auditor.tasks import get_task, run_task
from auditor.tasks.result import Result, read_result
from auditor.tasks.unfinished import go_on, start_anew, unfinished
from tests.analysis.dictionaries import TEXTS
from tests.models.tiny import ALL


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


def test_that_a_classifier_of_pictures_is_edited_and_swept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ALL["vit"].save(tmp_path / "vit")
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (24, 20), (70 * number, 90, 7)).save(tmp_path / "pictures" / f"{number}.png")
    for opened in ("vit", "pictures"):
        assert main(["open", str(tmp_path / opened), "-p", str(tmp_path / "project")]) == 0
    for edit, title in (
        ("ablate vision.blocks.1.z head=2 zero", "1 edit: KL of the class distribution when edited"),
        ("ablate vision.blocks.*.z head=* zero", "edits one by one: KL of the class distribution when edited"),
    ):
        capsys.readouterr()
        assert experiment(tmp_path, "--edit", edit, "--model", "vit", "--samples", "pictures", "--json") == 0
        told, result = json.loads(capsys.readouterr().out), newest(tmp_path)
        assert title in result.title and told["metric"].startswith("KL of the class distribution") and told["n"] == 3
        assert "next" not in result.note
    assert experiment(tmp_path, "--edit", edit, "--model", "vit", "--samples", "pictures", "--measure", "loss") == 2
    assert "“vit” predicts no text." in capsys.readouterr().err


def test_that_a_file_of_edits_is_written_out_in_the_recipe(place: Path) -> None:
    (place / "edits.toml").write_text(
        '[[edit]]\nkind = "freeze"\n[[edit]]\nkind = "ablate"\nhook = "blocks.0.attn_out"\n'
    )
    assert experiment(place, "--edit", str(place / "edits.toml"), "--prompt", "The capital of France is") == 0
    result = newest(place)
    assert result.recipe.config["edit"] == ["freeze", "ablate blocks.0.attn_out"]
    assert result.metric is not None and result.metric.n == 1 and result.metric.interval is None
    assert result.further[0].name.endswith("nothing frozen") and result.further[0].estimate != result.metric.estimate


@pytest.mark.parametrize("edit", ["ablate blocks.1.z head=2", "ablate blocks.1.z head=0:2"])
def test_that_a_test_of_edits_says_which_model_it_opens_and_from_where(
    place: Path, tiny_llama_folder: Path, capsys: pytest.CaptureFixture[str], edit: str
) -> None:
    assert experiment(place, "--edit", edit, "--samples", "texts", "--n", "2", "--context", "4") == 0
    found = f"the model “tiny-llama” from {tiny_llama_folder.resolve()}"
    assert f"Opening {found}…" in capsys.readouterr().err.splitlines()
    with Project.open(place / "project") as project:
        run = max(project.runs(), key=lambda run: run.started)
        assert run.message == f"Opened {found}." and run.inputs["tiny-llama"] == project.artefacts("model")[-1].digest


def test_that_a_sweep_of_heads_gives_a_row_for_each_and_a_map(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "ablate blocks.*.z mean head=*"
    measure = ("--measure", "target", "--target", " a")
    assert experiment(place, "--edit", line, "--samples", "texts", "--n", "2", *measure, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tested"] == 18 and told["planned"]["runs"] == 18 * 6 * 2 and len(told["largest"]) == 18
    sizes = [abs(row["effect"]) for row in told["largest"]]
    assert sizes == sorted(sizes, reverse=True) and told["estimate"] == told["largest"][0]["effect"]
    result = newest(place)
    grid = result.data["grid"]
    assert grid["rows"] == ["blocks.0.z", "blocks.1.z"] and grid["columns"] == [str(head) for head in range(9)]  # type: ignore[index,call-overload]
    assert result.table is not None and {"low", "high", "control mean", "p", "q"} <= set(result.table.columns)
    (written,) = result.recipe.config["edit"]  # type: ignore[misc]
    assert parse_edit(str(written)) == parse_edit(line)
    assert result.metric is not None and result.metric.null is not None and result.metric.null.family == 18
    assert result.figure is not None and result.figure.count("<rect") >= 18
    assert figure_kind(result.figure.encode()) == "svg"


def test_that_a_sweep_that_ends_early_keeps_what_it_measured_and_goes_on(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.analysis.editing import sweep

    own, ran = sweep.edited, list[int]()

    def fails(*given):  # type: ignore[no-untyped-def]
        ran.append(given[-1])
        if len(ran) > 4:  # 3 of the plan, the first sample
            raise AuditorError("The network is gone.", "Bring it back.")
        return own(*given)

    settings = ("--edit", "ablate blocks.1.z head=0:2", "--samples", "texts", "--n", "3", "--context", "4")
    monkeypatch.setattr(sweep, "edited", fails)
    assert experiment(place, *settings) == 2
    told = capsys.readouterr().err
    assert "The network is gone. Bring it back." in told and "Kept as “edits" in told and "1 of 3 samples" in told
    part = newest(place)
    assert part.title.startswith("Unfinished: 2 edits") and "stopped before its end, at 1 of 3 samples" in part.note
    assert part.metric is not None and part.metric.n == 1 and part.choice is not None and part.choice.shown == 1
    monkeypatch.setattr(sweep, "edited", lambda *given: (ran.append(given[-1]), own(*given))[1])
    ran.clear()
    assert experiment(place, *settings, "--json") == 0
    assert sum(ran[3:]) == 2 * 2 * 6  # two samples, two edits, each and five controls
    whole = newest(place)
    assert whole.data["n"] == 3 and "stopped" not in whole.data and not whole.title.startswith("Unfinished")
    first = [values[0] for values in whole.data["per_sample"]]  # type: ignore[union-attr,index]
    assert [[value] for value in first] == part.data["per_sample"]
    assert not list((place / "project/results").glob("*.unfinished"))


def test_that_a_sweep_whose_project_is_closed_is_stopped_and_goes_on_when_it_is_open_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.analysis.editing import sweep

    own, ran = sweep.edited, list[int]()
    values = {"edit": ["ablate blocks.1.z head=3:5"], "samples": "texts", "n": 3, "context": 4, "n_random": 5}
    with Project.open(place / "project") as project:
        before = project.artefacts()

        def closed(*given):  # type: ignore[no-untyped-def]
            ran.append(given[-1])
            if len(ran) > 4:  # 3 of the plan, the first sample
                project.close()
                raise Stop
            return own(*given)

        monkeypatch.setattr(sweep, "edited", closed)
        with pytest.raises(Stop):
            run_task("experiment", project, get_task("experiment").read(values), Reporter())
    monkeypatch.setattr(sweep, "edited", lambda *given: (ran.append(given[-1]), own(*given))[1])
    ran.clear()
    with Project.open(place / "project") as project:
        *held, kept = project.artefacts()
        assert held == before and read_result(kept.path).title.startswith("Unfinished: 2 edits")
        (left,) = unfinished(project)
        assert (left.work, left.reached) == ("tests of edits", "12 of 36 runs") and left.run is not None
        assert left.run.config["samples"] == project.find("texts", "samples").id and left.run.config["model"]
        run_task("experiment", project, get_task("experiment").read(values), Reporter())
    assert sum(ran[3:]) == 2 * 2 * 6  # two samples, two edits, each and five controls


SWEEP = {"edit": ["ablate blocks.1.z head=0:2"], "samples": "texts", "n": 3, "context": 5, "n_random": 5}


@pytest.fixture
def begun(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project with the tests of edits that were stopped after the first of three samples."""
    from auditor.analysis.editing import sweep

    shutil.copytree(place / "project", tmp_path / "project")
    own, ran = sweep.edited, list[int]()

    def stopped(*given):  # type: ignore[no-untyped-def]
        ran.append(given[-1])
        if len(ran) > 4:  # 3 of the plan, the first sample
            raise Stop
        return own(*given)

    with Project.open(tmp_path / "project") as project:
        with monkeypatch.context() as patched:
            patched.setattr(sweep, "edited", stopped)
            with pytest.raises(Stop):
                run_task("experiment", project, get_task("experiment").read(SWEEP), Reporter())
        yield project


def left(project: Project) -> Path:
    (one,) = unfinished(project)
    return one.places[0]


def test_that_a_sweep_goes_on_after_an_update_that_measures_alike_and_tells_so(
    begun: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditor.__version__", "0.2.0")
    (name,) = (one.name for one in unfinished(begun))
    told = go_on(begun, name, Reporter())
    whole = read_result(begun.artefacts("result")[-1].path)
    assert told["n"] == 3 and whole.data["n"] == 3 and not unfinished(begun)
    run = next(run for run in begun.runs() if run.id == told["run"])
    assert "12 of 36 runs were measured before; since then auditor 0.1.0 → 0.2.0. The first 12, measured" in run.message
    again = run_task("experiment", begun, get_task("experiment").read(SWEEP), Reporter())
    assert read_result(begun.find(again["artefacts"][0]).path).data["per_sample"] == whole.data["per_sample"]


def test_that_a_program_that_measures_otherwise_says_so_and_starts_anew_where_that_is_asked_for(
    begun: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.analysis.editing import sweep

    own, place = sweep.edited, left(begun)
    kept = place.read_bytes()
    monkeypatch.setattr("auditor.__version__", "0.2.0")
    monkeypatch.setattr(sweep, "edited", lambda *given: ([1.01 * value for value in own(*given)[0]], []))
    with pytest.raises(
        AuditorError, match=r"differ by up to .* from what was kept .*auditor 0\.1\.0 → 0\.2\.0"
    ) as caught:
        go_on(begun, place.stem, Reporter())
    assert "--anew" in caught.value.hint and place.read_bytes() == kept
    start_anew(begun, place.stem, Reporter())
    whole = read_result(begun.artefacts("result")[-1].path)
    assert whole.data["n"] == 3 and not unfinished(begun)


def test_that_what_was_begun_with_other_settings_says_which(begun: Project) -> None:
    (one,) = unfinished(begun)
    assert one.run is not None
    begun.catalogue.begin_at(one.run.id, one.places[0], one.run.config | {"n_random": 6, "context": 6})
    with pytest.raises(AuditorError, match="n_random was 5 and is 6") as caught:
        go_on(begun, one.name, Reporter())
    assert "context was 5 and is 6" in caught.value.message and "--anew" in caught.value.hint
    assert left(begun) == one.places[0]


def test_that_a_file_that_only_the_catalogue_calls_a_sweep_is_neither_looked_into_nor_cut(
    begun: Project, tmp_path: Path
) -> None:
    """A project from elsewhere may name any file."""
    (one,) = unfinished(begun)
    assert one.run is not None
    stranger, head = tmp_path / "thesis.txt", one.places[0].read_bytes().partition(b"\n")[0]
    stranger.write_bytes(text := b"three years of work\n" * 9)
    link = one.places[0].with_name("edits-0a1b2c3d.unfinished")
    link.symlink_to(stranger)
    for place in (stranger, link):
        other = one.run.config | {"n_random": 6}
        with begun.catalogue._open() as db:
            db.execute("DELETE FROM begun")
            begun.catalogue.begin_at(one.run.id, one.places[0], other)
            db.execute("UPDATE begun SET place = ?", (str(place),))
        begun.catalogue.begin_at(one.run.id, one.places[0], other)
        with pytest.raises(AuditorError, match="n_random was 5 and is 6"):
            go_on(begun, one.name, Reporter())
        assert stranger.read_bytes() == text and one.places[0].read_bytes().startswith(head)
    one.places[0].unlink()
    one.places[0].symlink_to(stranger)
    with pytest.raises(AuditorError, match="is a link"):
        run_task("experiment", begun, get_task("experiment").read(SWEEP), Reporter())
    assert stranger.read_bytes() == text


def test_that_a_setting_that_an_update_brings_is_no_other_one_as_long_as_it_is_as_usual(begun: Project) -> None:
    """It changes the name under which the same settings are kept, and is not in what was kept before."""
    place = left(begun)
    head, _, rest = place.read_bytes().partition(b"\n")
    told = json.loads(head)
    del told["by"]["settings"]["each"]
    (run,) = (one.run for one in unfinished(begun))
    assert run is not None
    earlier = place.with_name("edits-0a1b2c3d.unfinished")
    place.rename(earlier)
    earlier.write_bytes(json.dumps(told).encode() + b"\n" + rest)
    begun.catalogue.forget_begun([place])
    begun.catalogue.begin_at(run.id, earlier, run.config)
    assert go_on(begun, earlier.stem, Reporter())["n"] == 3
    assert not unfinished(begun)


def test_that_a_sweep_is_planned_without_a_result(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Project.open(place / "project") as project:
        before = [artefact.id for artefact in project.artefacts()]
    line, prompt = "ablate blocks.*.z head=*", "The capital"
    assert experiment(place, "--edit", line, "--prompt", prompt, "--plan", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["edits"] == 18 and told["runs"] == 18 * 6 and told["minutes"] > 0
    with Project.open(place / "project") as project:
        assert [artefact.id for artefact in project.artefacts()] == before


def test_that_edits_are_tested_one_by_one_where_that_is_asked_for(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edits = ["--edit", "ablate blocks.1.z", "--edit", "scale blocks.0.mlp_out factor=0"]
    assert experiment(place, *edits, "--each", "--prompt", "The capital of France is", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["edit"] for row in told["largest"]} == {"blocks.1.z", "blocks.0.mlp_out"}
    assert told["largest"][0]["low"] is None  # one prompt has no interval


def test_that_arrays_are_read_from_the_project_and_beside_the_list_alone(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vector = np.random.default_rng(0).standard_normal(576).astype(np.float32)
    for file in (place / "project/u.npy", place / "lists/v.npy", place / "w.npy"):
        file.parent.mkdir(exist_ok=True)
        np.save(file, vector)
    prompt = ("--prompt", "The capital of France is")
    add = "add blocks.0.resid_post direction={}"
    assert experiment(place, "--edit", add.format("u.npy"), *prompt) == 0
    assert "u.npy" in newest(place).inputs
    (place / "lists/list.json").write_text(json.dumps([add.format("v.npy")]))
    assert experiment(place, "--edit", str(place / "lists/list.json"), *prompt) == 0
    capsys.readouterr()
    for name in (str(place / "w.npy"), "../w.npy", "/etc/shadow.npy"):
        assert experiment(place, "--edit", add.format(name), *prompt) == 2
        assert "outside the project" in capsys.readouterr().err
    assert experiment(place, "--edit", add.format("v.npy"), *prompt) == 2
    np.save(place / "project/u.npy", np.full(576, np.nan, np.float32))
    assert experiment(place, "--edit", add.format("u.npy"), *prompt) == 2
    assert "not finite" in capsys.readouterr().err


def test_that_an_adapter_is_switched_off_for_a_recording_a_training_and_an_experiment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.models.peft.make_fixtures import FIXTURES
    from tests.models.tiny.entry import word_tokenizer

    project, base = str(tmp_path / "project"), tmp_path / "base-llama"
    shutil.copytree(FIXTURES / "base-llama", base)
    word_tokenizer(base, ends=False)
    assert main(["open", str(FIXTURES / "lora"), "--base", str(base), "--name", "laid", "-p", project]) == 0
    assert main(["open", str(base), "-p", project]) == 0
    (tmp_path / "texts.txt").write_text("\n\n".join(["one two three", "red cat sat"] * 40))
    assert main(["open", str(tmp_path / "texts.txt"), "-p", project]) == 0
    kept = {}
    for name, model, adapter in (("on", "laid", "on"), ("off", "laid", "off"),
                                 ("base", "base-llama", "on")):  # fmt: skip
        hook = ["--hooks", "blocks.1.resid_post", "--samples", "texts"]
        assert main(["record", "-p", project, "--model", model, "--adapter", adapter, *hook]) == 0
        with Project.open(project) as held:
            kept[name] = open_store(held.artefacts("store")[-1].path)
    assert kept["off"].meta["model"]["adapter"]["on"] is False and kept["on"].meta["model"]["adapter"]["on"] is True
    assert kept["off"].meta["model"]["digest"] == kept["base"].meta["model"]["digest"]
    rows = {name: store.rows(slice(0, 4)) for name, store in kept.items()}
    assert np.array_equal(rows["off"], rows["base"]) and not np.array_equal(rows["off"], rows["on"])
    small = ["--hook", "blocks.1.resid_post", "--samples", "texts", "--buffer-rows", "1024", "--d-sae", "8", "--k", "2",
             "--steps", "3", "--batch-size", "8", "--evaluate-rows", "4", "--splice-samples", "0"]  # fmt: skip
    learned = {}
    for name, model, adapter in (("on", "laid", "on"), ("off", "laid", "off"),
                                 ("base", "base-llama", "on")):  # fmt: skip
        assert main(["train", "-p", project, "--model", model, "--adapter", adapter, *small]) == 0
        with Project.open(project) as held:
            learned[name] = load(held.artefacts("dictionary")[-1].path)
    assert learned["off"].meta["model_digest"] == learned["base"].meta["model_digest"]
    assert torch.equal(learned["off"].W_dec, learned["base"].W_dec)
    assert not torch.equal(learned["off"].W_dec, learned["on"].W_dec)
    assert main(["train", "-p", project, "--adapter", "off", "--d-sae", "8"]) == 2
    assert "a store was recorded before" in capsys.readouterr().err
    edit = ["--edit", "ablate blocks.0.mlp_out", "--prompt", "one two three", "--n-random", "5", "--json"]
    effects = {}
    for name, model, adapter in (("off", "laid", "off"), ("base", "base-llama", "on"),
                                 ("on", "laid", "on")):  # fmt: skip
        capsys.readouterr()
        assert main(["experiment", "-p", project, "--model", model, "--adapter", adapter, *edit]) == 0
        effects[name] = json.loads(capsys.readouterr().out)["estimate"]
    assert effects["off"] == effects["base"] != effects["on"]
    assert main(["record", "-p", project, "--model", "base-llama", "--adapter", "off", "--samples", "texts"]) == 2
    assert "No adapter lies over" in capsys.readouterr().err


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


def test_that_edits_of_one_place_are_told_apart(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["scale blocks.1.z factor=0.3", "scale blocks.1.z factor=0.6", "ablate blocks.0.mlp_out"]
    edits = [word for line in lines for word in ("--edit", line)]
    assert experiment(place, *edits, "--each", "--prompt", "The capital of France is", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["edit"] for row in told["largest"]} == {*lines[:2], "blocks.0.mlp_out"}


@pytest.mark.parametrize(("error", "code", "head"), [(Stop(), 130, 5), (AuditorError("The network is gone."), 2, 7)])
def test_that_a_sweep_that_ends_early_says_as_json_what_it_kept(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, code: int,
    head: int,
) -> None:  # fmt: skip
    from auditor.analysis.editing import sweep

    own, ran = sweep.edited, list[int]()

    def ends(*given):  # type: ignore[no-untyped-def]
        ran.append(given[-1])
        if len(ran) > 4:  # 3 of the plan, the first sample
            raise error
        return own(*given)

    monkeypatch.setattr(sweep, "edited", ends)
    line = f"ablate blocks.1.z head={head}:{head + 2}"
    capsys.readouterr()
    assert experiment(place, "--edit", line, "--samples", "texts", "--n", "3", "--context", "4", "--json") == code
    told = json.loads(capsys.readouterr().out)
    part, result = told["unfinished"], newest(place)
    assert told["error"] == (str(error) or "Stopped.")
    assert part["kept"].startswith(f"Kept as “{part['result']}”: 1 of 3 samples.")
    assert part["tested"] == 2 and result.metric is not None and part["estimate"] == result.metric.estimate
    assert read_result(Path(part["artefacts"][0]["path"])) == result and result.title.startswith("Unfinished")
