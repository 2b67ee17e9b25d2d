"""`auditor compare --evaluate` on a real small project: figures with baselines, as a result that becomes evidence."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from auditor.analysis.evaluation.entities import Kind
from auditor.analysis.evaluation.ravel import Entities
from auditor.base.errors import Stop
from auditor.base.events import Partial
from auditor.base.reporter import EventReporter, Reporter
from auditor.cli.main import main
from auditor.models import Model, open_model
from auditor.project import Project
from auditor.tasks import get_task, run_task
from auditor.tasks.result import Result, read_result
from tests.analysis.dictionaries import activation_dictionary

HOOK = "blocks.1.resid_post"
ANIMALS = ("cat", "horse", "eagle", "salmon", "spider", "tiger", "rabbit", "camel", "parrot", "whale")
TOOLS = ("hammer", "chisel", "ladder", "wrench", "bucket", "shovel", "needle", "anvil", "drill", "brush")
DISHES = ("soup", "bread", "salad", "curry", "omelette", "noodles", "pudding", "stew", "pizza", "rice")
MOODS = {"calm": "It was a quiet morning and the {} was there", "loud": "STOP!!! Look out, the {} is HERE"}


@pytest.fixture(scope="module")
def place(tiny_llama_folder: Path, tiny_llama: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a model, labelled samples, a store of them and two dictionaries."""
    folder = tmp_path_factory.mktemp("evaluated")
    project = str(folder / "project")
    rows = [
        {"text": f"{text.format(word)}, {number} times.", "kind": kind, "mood": mood}
        for number in ("two", "three", "four")
        for mood, text in MOODS.items()
        for kind, words in (("animal", ANIMALS), ("tool", TOOLS), ("dish", DISHES))
        for word in words
    ]
    (folder / "things.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for what in (tiny_llama_folder, folder / "things.jsonl"):
        assert main(["open", str(what), "-p", project]) == 0
    settings = ["--model", "tiny-llama", "--samples", "things", "--hooks", HOOK, "--context", "24"]
    assert main(["record", "-p", project, *settings]) == 0
    for seed in (0, 1):
        activation_dictionary(tiny_llama, HOOK, seed=seed).save(folder / f"sae-{seed}")
        assert main(["open", str(folder / f"sae-{seed}"), "-p", project]) == 0
    return folder


def compare(place: Path, *arguments: str) -> int:
    return main(["compare", "-p", str(place / "project"), "--splits", "2", "--k", "1", "--k", "4", *arguments])


def newest(place: Path) -> Result:
    with Project.open(place / "project") as project:
        return read_result(project.artefacts("result")[-1].path)


def test_that_two_dictionaries_stand_side_by_side_with_their_baselines(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ("--label", "kind", "--spurious", "mood", "--n", "30")
    assert compare(place, "sae-0", "sae-1", "--evaluate", "probing,tpp,scr", *chosen, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    figures = told["figures"]
    assert {one["measure"] for one in figures} == {"probing", "tpp", "scr"}
    assert {one["dictionary"] for one in figures} == {"sae-0", "sae-1"}
    beside = {one["of"] for one in figures if one["name"] == "balanced accuracy, k = 4"}
    assert beside == {"dictionary", "raw neurons", "PCA components", "random directions"}
    for one in figures:
        assert one["low"] <= one["estimate"] <= one["high"] and one["n"] > 50 and one["seeds"] == 2
    assert any("arXiv 2605.18229" in held["note"] for held in told["notes"])
    assert any("animal (30), " in held["note"] and "dish (30)" in held["note"] for held in told["notes"])
    result = newest(place)
    assert result.metric is not None
    assert result.metric.baseline.keys() == {*beside - {"dictionary"}, "dense probe", "majority class"}
    assert result.metric.no_effect == 0.5 and result.metric.interval is not None and result.metric.seeds == (0, 1)
    assert result.table is not None and result.table.columns == ("measure", "figure", "of", "sae-0", "sae-1", "n")
    assert result.inputs.keys() >= {"sae-0", "sae-1"} and result.recipe.config["evaluate"] == ["probing", "tpp", "scr"]


def test_that_the_same_settings_give_the_same_figures_from_a_store_and_from_samples(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for way in ((), (), ("--samples", "things")):
        assert compare(place, "sae-0", "--evaluate", "probing", "--label", "kind", "--n", "20", *way, "--json") == 0
        figures = json.loads(capsys.readouterr().out)["figures"]
        found.append([(one["name"], one["of"], one["estimate"]) for one in figures])
    assert found[0] == found[1]
    for stored, run in zip(found[0], found[2], strict=True):
        assert stored[:2] == run[:2]
        if stored[1] == "dictionary":  # a store keeps float16
            assert stored[2] == pytest.approx(run[2], abs=0.05)


def test_that_absorption_needs_the_model_alone_and_text_lines_are_printed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(place, "sae-0", "--evaluate", "absorption", "--words", "1200") == 0
    said = capsys.readouterr().out
    assert "words absorbed" in said and "absorption was looked for in words that begin with" in said
    result = newest(place)
    assert result.metric is not None and not result.metric.higher_is_more
    assert any(name.startswith("its decoder rows") for name in result.metric.baseline)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sae-0", "--evaluate", "magic"), "there is no measure “magic”; there are probing, tpp, scr"),
        (("sae-0", "--evaluate", "scr", "--label", "kind"), "needs two labels"),
        (("sae-0", "--evaluate", "tpp", "--label", "mood"), "“mood” has 2 values"),
        (("sae-0", "--evaluate", "probing", "--label", "colour"), "have no label “colour”"),
        (("sae-0",), "Features are matched between two dictionaries, and 1 are named"),
        (("sae-0", "sae-0", "--evaluate", "probing"), "A dictionary is named twice"),
        (("sae-0", "--evaluate", "probing", "--k", "0"), "1 or more"),
    ],
)
def test_that_what_is_missing_is_said_in_one_sentence_and_nothing_is_made(
    place: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Project.open(place / "project") as project:
        before = len(project.artefacts("result"))
    assert compare(place, *arguments) == 2
    assert said in capsys.readouterr().err
    with Project.open(place / "project") as project:
        assert len(project.artefacts("result")) == before


class Readable:
    """Entities that a network knows without running it: each value has a direction of the row, which is read off."""

    def __init__(self, model: object, hook: str, kind: Kind, reporter: object = None) -> None:
        rng = np.random.default_rng(0)
        values = rng.integers(0, 3, (60, 3))
        self.directions = np.linalg.qr(rng.standard_normal((576, 9)))[0].T.astype(np.float32)
        rows = 30 * sum(self.directions[3 * at + values[:, at]] for at in range(3))
        self.rows = np.tile(rows, (3, 1)).astype(np.float32)
        self.entities = Entities(kind.attributes, values, np.ones((60, 3), bool))

    def __call__(self, ask: int, bases: np.ndarray, rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = (rows @ self.directions[3 * ask : 3 * ask + 3].T).argmax(1)
        return found


def test_that_ravel_is_told_with_the_row_that_it_leads_to(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditor.analysis.evaluation.entities.Asked", Readable)
    assert compare(place, "sae-0", "--evaluate", "ravel", "--pairs", "12", "--exchange", "4", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    found = {(one["name"], one["of"]): one["estimate"] for one in told["figures"]}
    assert found["cause", "whole row"] == 1 and found["isolation", "whole row"] == 0
    assert found["cause (probe's features)", "whole row"] == 1  # both rankings, each with its ends
    assert {of for _, of in found} == {
        "dictionary", "raw neurons", "PCA components", "random directions", "whole row", "all its features",
    }  # fmt: skip
    assert "RAVEL with 4 features at most; of 60 cities the model knows the country of 60" in told["notes"][0]["note"]
    result = newest(place)
    assert result.metric is not None and result.metric.no_effect == 0.5
    nothing = {metric.name: metric.no_effect for metric in result.further}
    probed = {f"RAVEL: {name} (probe's features)": value for name, value in
              (("disentanglement", 0.5), ("cause", 0), ("isolation", 1))}  # fmt: skip
    assert nothing == {"RAVEL: cause": 0, "RAVEL: isolation": 1, **probed}  # what changes nothing isolates all
    assert "dictionary" not in result.metric.baseline


def test_that_a_dictionary_of_a_place_that_no_store_holds_needs_samples(
    place: Path, tiny_llama: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    activation_dictionary(tiny_llama, "blocks.0.resid_post").save(place / "low")
    assert main(["open", str(place / "low"), "-p", str(place / "project")]) == 0
    capsys.readouterr()
    assert compare(place, "low", "--evaluate", "probing", "--label", "kind") == 2
    assert "has no store of blocks.0.resid_post to take labelled samples from" in capsys.readouterr().err
    with Project.open(place / "project") as project:
        store = project.artefacts("store")[0].name
    assert compare(place, "low", "--evaluate", "probing", "--label", "kind", "--store", store) == 2
    assert "does not hold blocks.0.resid_post of width 576" in capsys.readouterr().err
    assert compare(place, "low", "--evaluate", "probing", "--label", "kind", "--samples", "things", "--n", "20") == 0


def test_that_where_no_label_misleads_the_result_says_so_and_has_the_accuracies_alone(place: Path) -> None:
    assert compare(place, "sae-0", "--evaluate", "scr", "--label", "mood", "--spurious", "kind", "--n", "30") == 0
    result = newest(place)
    assert (
        "SCR does not exist here: the probe that learned where “kind” goes with “mood” is right as often" in result.note
    )
    assert result.metric is None and result.table is not None
    assert [row[1:3] for row in result.table.rows] == [
        ("accuracy", "probe that was misled"), ("accuracy", "probe of balanced samples"),
    ]  # fmt: skip


def test_that_what_a_model_cannot_be_asked_is_said_before_anything_is_encoded(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditor.analysis.evaluation.first_letters._FEWEST", 1 << 30)
    monkeypatch.setattr("auditor.analysis.evaluation.pooled.pool", lambda *_, **__: pytest.fail("it was encoded"))
    assert compare(place, "sae-0", "--evaluate", "probing,absorption", "--label", "kind") == 2
    assert "whole words, and absorption needs" in capsys.readouterr().err


def test_that_a_store_of_the_dictionarys_own_model_is_preferred_and_another_one_is_told(
    place: Path, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other-llama"
    shutil.copytree(tiny_llama_folder, other)
    (file,) = other.glob("*.safetensors")
    weights = load_file(file)
    changed = {name: 2 * x if name.endswith("o_proj.weight") else x for name, x in weights.items()}
    save_file(changed, file, {"format": "pt"})
    project = str(place / "project")
    assert main(["open", str(other), "-p", project]) == 0
    settings = ["--model", "other-llama", "--samples", "things", "--hooks", HOOK, "--context", "24"]
    assert main(["record", "-p", project, *settings]) == 0
    with Project.open(project) as held:
        first, *_, last = held.artefacts("store")
        digests = {name: held.find(name, "model").digest for name in ("tiny-llama", "other-llama")}
    sae = activation_dictionary(open_model(tiny_llama_folder), HOOK)
    for name, digest in digests.items():
        sae.meta |= {"model": name, "model_digest": digest}
        sae.save(tmp_path / f"of-{name}")
        assert main(["open", str(tmp_path / f"of-{name}"), "-p", project]) == 0
    chosen = ("--evaluate", "probing", "--label", "kind", "--n", "20")
    for name, store in (("tiny-llama", first), ("other-llama", last)):
        assert compare(place, f"of-{name}", *chosen) == 0
        result = newest(place)
        assert store.name in result.inputs and "trained on" not in result.note
    assert compare(place, "of-tiny-llama", *chosen, "--store", last.name) == 0
    assert "are of the model “other-llama”, and dictionaries were trained on “tiny-llama”" in newest(place).note


class TooLittle(Readable):
    """The same, but the network knows next to nothing."""

    def __init__(self, model: object, hook: str, kind: Kind, reporter: object = None) -> None:
        super().__init__(model, hook, kind)
        self.entities.known[5:] = False


def test_that_a_measure_that_fails_late_costs_no_other_and_the_result_says_that_it_is_unfinished(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditor.analysis.evaluation.entities.Asked", TooLittle)
    chosen = ("--label", "kind", "--n", "20", "--evaluate", "probing,ravel")
    assert compare(place, "sae-0", *chosen, "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert {one["measure"] for one in told["figures"]} == {"probing"} and not told["ok"]
    (missing,) = told["not_measured"]
    assert (missing["measure"], missing["dictionary"]) == ("ravel", "sae-0")
    assert "knows the country of 5 of 60" in missing["why"]
    result = newest(place)
    assert result.title == "Unfinished: What the features of sae-0 are good for" and result.metric is not None
    assert result.note.startswith("Not measured: RAVEL of sae-0. The model knows the country of 5 of 60")
    assert result.data["not_measured"] == told["not_measured"]
    with Project.open(place / "project") as project:
        assert project.artefacts("result")[-1].name == "probing of sae-0, unfinished"
    assert compare(place, "sae-0", *chosen) == 1
    assert "not measured:" in capsys.readouterr().out
    # Alone it fails as before.
    assert compare(place, "sae-0", "--evaluate", "ravel") == 2
    assert "knows the country of 5 of 60" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "why"), [(Stop(), "It was stopped before."), (ValueError("x"), "broken off: x")])
def test_that_what_was_measured_is_kept_when_it_is_stopped_or_breaks(
    place: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    def end(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("auditor.analysis.evaluation.tpp.tpp", end)
    told = []
    reporter = EventReporter(told.append)
    values = {"dictionaries": ["sae-0"], "evaluate": "probing,tpp", "label": "kind", "n": 20, "k": [1], "splits": 2}
    with Project.open(place / "project") as project, pytest.raises(type(error)):
        run_task("compare", project, get_task("compare").read(values), reporter)
    result = newest(place)
    assert result.title.startswith("Unfinished: ") and why in result.note
    assert {row[0] for row in result.table.rows} == {"k-sparse probing"}
    (kept,) = [event.data["kept"] for event in told if isinstance(event, Partial) and "kept" in event.data]
    assert kept["artefacts"] and {one["measure"] for one in kept["figures"]} == {"probing"}
    assert [(one["measure"], one["dictionary"]) for one in kept["not_measured"]] == [("tpp", "sae-0")]


def test_that_what_was_measured_is_kept_when_its_project_is_closed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"dictionaries": ["sae-0"], "evaluate": "probing,tpp", "label": "kind", "n": 20, "k": [1], "splits": 2}
    with Project.open(place / "project") as project:

        def closed(*_: object, **__: object) -> None:
            project.close()  # as the window does, which has asked the job to stop just before
            raise Stop

        monkeypatch.setattr("auditor.analysis.evaluation.tpp.tpp", closed)
        with pytest.raises(Stop):
            run_task("compare", project, get_task("compare").read(values), Reporter())
        assert not project.writable
    result = newest(place)
    assert result.title.startswith("Unfinished: ") and "It was stopped before." in result.note
    assert {row[0] for row in result.table.rows} == {"k-sparse probing"}
    with Project.open(place / "project") as project:
        assert project.runs()[-1].status == "cancelled" and project.log.check() is None


def test_that_a_stop_before_any_figure_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: object, **__: object) -> None:
        raise Stop

    monkeypatch.setattr("auditor.analysis.evaluation.probing.probing", end)
    before = newest(place)
    assert compare(place, "sae-0", "--evaluate", "probing", "--label", "kind") == 130
    assert newest(place) == before


def test_that_more_samples_or_words_than_memory_holds_are_refused_with_figures(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditor.sae.memory.free_bytes", lambda _: 1 << 27)
    monkeypatch.setattr("auditor.analysis.evaluation.pooled.pool", lambda *_, **__: pytest.fail("it was encoded"))
    for way in (("probing", "--label", "kind"), ("absorption", "--words", "5000"), ("scr", "--label", "kind",
                                                                                    "--spurious", "mood")):  # fmt: skip
        assert compare(place, "sae-0", "--evaluate", *way) == 2
        said = capsys.readouterr().err
        assert "GiB of memory, and 0.1 GiB are free" in said
        assert ("words fit: fewer words (--words)" if way[0] == "absorption" else "fewer samples of each class") in said


def test_that_a_null_is_no_class_and_is_counted(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"text": f"The {word} was there, {number} times.", "kind": kind, "size": None if number == "four" else number}
        for number in ("two", "three", "four", "five")
        for kind, words in (("animal", ANIMALS), ("tool", TOOLS), (None, DISHES))
        for word in words
    ]
    (tmp_path / "gaps.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    project = str(place / "project")
    assert main(["open", str(tmp_path / "gaps.jsonl"), "-p", project]) == 0
    settings = ["--model", "tiny-llama", "--samples", "gaps", "--hooks", HOOK, "--context", "24"]
    assert main(["record", "-p", project, *settings]) == 0
    with Project.open(project) as held:
        store = held.artefacts("store")[-1].name
    capsys.readouterr()
    for way in (("--samples", "gaps"), ("--store", store)):
        assert compare(place, "sae-0", "--evaluate", "probing", "--label", "kind", "--n", "20", *way) == 0
        said = capsys.readouterr().out
        assert "Left out of 120 samples: 40 without “kind”." in said
        assert "Classes of “kind”, with samples: animal (20), tool (20)." in said and "None" not in said


def test_that_samples_run_through_each_dictionarys_own_model(
    place: Path, tiny_llama: Model, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    project = str(place / "project")
    other = tmp_path / "another-llama"
    shutil.copytree(tiny_llama_folder, other)
    (file,) = other.glob("*.safetensors")
    save_file({name: 3 * x if "o_proj" in name else x for name, x in load_file(file).items()}, file, {"format": "pt"})
    assert main(["open", str(other), "-p", project]) == 0
    with Project.open(project) as held:
        digests = {name: held.find(name, "model").digest for name in ("tiny-llama", "another-llama")}
    names = []
    for name, digest in digests.items():
        sae = activation_dictionary(tiny_llama, HOOK)
        sae.meta |= {"model": name, "model_digest": digest}
        sae.save(tmp_path / f"own-{name}")
        assert main(["open", str(tmp_path / f"own-{name}"), "-p", project]) == 0
        names.append(f"own-{name}")
    chosen = ("--evaluate", "probing", "--label", "kind", "--n", "20", "--samples", "things")
    assert compare(place, *names, *chosen) == 0
    both = newest(place)
    assert both.inputs.keys() >= {"tiny-llama", "another-llama"}
    alone = []
    for name in names:
        assert compare(place, name, *chosen) == 0
        alone.append([row[3] for row in newest(place).table.rows])
    assert [[row[at] for row in both.table.rows] for at in (3, 4)] == alone and alone[0] != alone[1]
    assert compare(place, names[1], *chosen, "--model", "tiny-llama") == 0
    assert "own-another-llama was trained on “another-llama” and is evaluated in “tiny-llama”" in newest(place).note


def test_that_a_transcoder_is_probed_where_it_reads_and_ablated_where_it_writes(
    place: Path, tiny_llama: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    read, written = "blocks.1.resid_mid", "blocks.1.mlp_out"
    points = tiny_llama.hook_points
    assert points[read].width == points[written].width == 576
    sae = activation_dictionary(tiny_llama, read)
    outward = activation_dictionary(tiny_llama, written)
    replace(sae, hook_out=written, W_dec=outward.W_dec, b_dec=outward.b_dec).save(place / "across")
    assert main(["open", str(place / "across"), "-p", str(place / "project")]) == 0
    capsys.readouterr()
    chosen = ("--label", "kind", "--n", "20", "--samples", "things")
    assert compare(place, "across", "--evaluate", "probing,tpp", *chosen, "--json") == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert {one["measure"] for one in figures} == {"probing", "tpp"}
    # Raw neurons are those of the place in question: the same as of a dictionary there.
    for sae_there, measure in ((read, "probing"), (written, "tpp")):
        activation_dictionary(tiny_llama, sae_there).save(place / f"at-{sae_there}")
        assert main(["open", str(place / f"at-{sae_there}"), "-p", str(place / "project")]) == 0
        capsys.readouterr()
        assert compare(place, f"at-{sae_there}", "--evaluate", measure, *chosen, "--json") == 0
        own = json.loads(capsys.readouterr().out)["figures"]
        for one in own:
            if one["of"] in ("raw neurons", "PCA components", "dense probe"):
                assert [held["estimate"] for held in figures if (held["measure"], held["name"], held["of"])
                        == (measure, one["name"], one["of"])] == [one["estimate"]]  # fmt: skip
    assert compare(place, "across", "--evaluate", "ravel") == 2
    assert "Absorption or RAVEL needs a dictionary of the raw activations" in capsys.readouterr().err
