"""From a model folder to a verified bundle on the command line, in this process, on real weights."""

from __future__ import annotations

import csv
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from auditor.project import Project
from tests.journeys.conftest import HOOK, PICTURES, TEXTS, Begun
from tests.journeys.running import auditor, done, made

TEXT = "The door was locked with an old brass padlock."
PROMPT = "The capital of France is"


@dataclass
class Journey:
    """One project on its way, with the steps that others go on from: each is done once, whichever test needs it first,
    so that the tests may run in any order and in several processes. `verbs` are those that were started."""

    project: Path
    out: Path
    begun: Begun
    verbs: set[str] = field(default_factory=set)

    def do(self, *arguments: object) -> dict[str, Any]:
        self.verbs.add(str(arguments[0]))
        return done(*arguments, "--project", self.project)

    @cached_property
    def found(self) -> list[dict[str, Any]]:
        """Features of a middling density."""
        return self.do("search", "density>0.005 density<0.3", "--limit", 40)["features"]

    @cached_property
    def feature(self) -> int:
        return min(self.found, key=lambda row: abs(row["density"] - 0.05))["feature"]

    @cached_property
    def graph(self) -> dict[str, Any]:
        return self.do("trace", PROMPT, "--max-features", 60, "--max-logits", 3)

    @cached_property
    def effect(self) -> dict[str, Any]:
        return self.do(
            "experiment", self.feature, "--samples", "mixed", "--n", 4, "--n-null", 20, "--n-random", 5,
            "--context", 16,
        )  # fmt: skip


@pytest.fixture(scope="module")
def way(begun: Begun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    folder = tmp_path_factory.mktemp("way")
    shutil.copytree(begun.folder, folder / "project")
    (folder / "out").mkdir()
    yield Journey(folder / "project", folder / "out", begun)


def test_that_model_and_samples_are_told_as_they_are(way: Journey) -> None:
    model, samples = way.begun.told["model"], way.begun.told["samples"]
    assert (model["kind"], model["family"], model["layers"], model["width"]) == ("model", "paired", 2, 576)
    assert {"text", "image"} <= set(model["modalities"])
    assert _point(model)["width"] == 576
    assert (samples["kind"], samples["samples"], samples["with_image"]) == ("samples", TEXTS + PICTURES, PICTURES)


def _point(model: dict[str, Any]) -> dict[str, Any]:
    return next(point for point in model["hook_points"] if point["hook"] == HOOK)


def test_that_the_recording_holds_texts_and_pictures(way: Journey) -> None:
    told = way.begun.told["record"]
    assert told["hooks"] == [HOOK] and made(told, "store").is_dir()
    assert told["image_rows"] == PICTURES * 16
    assert told["rows"] == told["text_rows"] + told["image_rows"] + told["special_rows"]
    assert TEXTS * 4 < told["text_rows"] < TEXTS * 48 * 4


def test_that_the_dictionary_explains_more_than_nothing(way: Journey) -> None:
    told = way.begun.told["train"]
    assert 0 < told["fvu"] < 1 and told["l0"] == pytest.approx(8, abs=0.01)
    assert way.begun.told["index"]["features"] == 256 and way.begun.told["index"]["live"] > 30


def test_that_features_are_found_by_their_figures(way: Journey) -> None:
    rows = way.found
    assert rows and all(0.005 < row["density"] < 0.3 for row in rows)
    assert len({row["feature"] for row in rows}) == len(rows) <= 40


def test_that_features_are_found_by_what_a_text_or_a_picture_makes_fire(way: Journey) -> None:
    rows = way.do("search", "--text", TEXT)["features"]
    assert rows and all(row["activation"] > 0 and 0 <= row["feature"] < 256 for row in rows)
    assert all(row["token"] in TEXT for row in rows)
    picture = next(way.begun.samples.parent.glob("*.webp"))
    seen = way.do("search", "--image", picture)["features"]
    assert seen and all(row["activation"] > 0 for row in seen)


def test_that_a_circuit_is_traced(way: Journey) -> None:
    told = way.graph
    assert 1 <= len(told["outputs"]) <= 3 and sum(out["probability"] for out in told["outputs"]) <= 1.001
    assert 0 <= told["replacement"] <= told["completeness"] <= 1 and told["nodes"] > 10


def test_that_a_feature_is_tested_against_others(way: Journey) -> None:
    told = way.effect
    assert told["metric"].startswith("KL") and told["estimate"] >= 0 and 2 <= told["n"] <= 4
    assert told["low"] <= told["estimate"] <= told["high"] and 0 < told["p"] <= 1
    assert any("random directions" in name for name in told["baseline"])


def test_that_two_dictionaries_are_compared(way: Journey) -> None:
    first = Path(way.begun.told["train"]["artefacts"][0]["path"]).stem
    second = way.do(
        "train", "--store", way.begun.told["record"]["artefacts"][0]["id"], "--d-sae", 256, "--k", 8, "--steps", 5,
        "--seed", 1, "--batch-size", 256, "--evaluate-rows", 512, "--device", "cpu",
    )  # fmt: skip
    told = way.do("compare", first, made(second, "dictionary").stem)
    assert 0 <= told["low"] <= told["matched"] <= told["high"] <= 1 and told["n"] > 0
    same = way.do("compare", first, first)
    assert same["matched"] == 1 and same["median_cosine"] == pytest.approx(1, abs=1e-5)


def test_that_artefacts_go_out_and_come_in_again(way: Journey) -> None:
    told, out = way.begun.told, way.out
    names = {verb: told[verb]["artefacts"][0]["name"] for verb in ("record", "train", "index")}
    way.do("export", names["record"], out / "rows.npy")
    rows = np.load(out / "rows.npy").astype(np.float32)
    assert rows.shape == (told["record"]["rows"], 576) and np.isfinite(rows).all() and rows.std() > 0

    way.do("export", told["index"]["artefacts"][0]["id"], out / "features.csv")
    with open(out / "features.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 256

    way.do("export", told["train"]["artefacts"][0]["id"], out / "saelens")
    assert {path.name for path in (out / "saelens").iterdir()} >= {"cfg.json", "sae_weights.safetensors"}
    back = way.do("import", out / "saelens", "--name", "back")
    assert (back["features"], back["width"], back["hook"]) == (256, 576, HOOK)
    assert way.do("compare", told["train"]["artefacts"][0]["id"], "back")["matched"] == 1

    graph = way.graph["artefacts"][0]["id"]
    way.do("export", graph, out / "graph.json")
    way.do("export", graph, out / "graph.svg")
    assert (out / "graph.svg").read_text(encoding="utf-8").startswith("<svg")
    assert json.loads((out / "graph.json").read_text(encoding="utf-8"))["nodes"]
    again = way.do("import", out / "graph.json")
    assert again["nodes"] == way.graph["nodes"]
    assert again["replacement"] == pytest.approx(way.graph["replacement"], abs=1e-3)

    held = np.random.default_rng().normal(size=(40, 576)).astype(np.float32)
    with h5py.File(out / "foreign.h5", "w") as file:
        file["acts"] = held
    told_h5 = way.do("import", out / "foreign.h5", "--hook", HOOK)
    assert told_h5["rows"] == 40 and told_h5["mapping"]["dataset"].endswith("acts")
    way.do("export", told_h5["artefacts"][0]["id"], out / "foreign.npy")
    np.testing.assert_allclose(np.load(out / "foreign.npy"), held, atol=2e-3)


def test_the_case_from_a_sealed_question_to_a_verified_bundle(way: Journey) -> None:
    (effect,) = (artefact["name"] for artefact in way.effect["artefacts"])
    assert effect.startswith("effect")
    way.do("case", "new", "A title beyond what a file's name can hold: " + "long, " * 60, "--author", "A. Auditor")
    way.do("case", "new", "What block 0 holds", "--author", "A. Auditor")
    asked = way.do(
        "case", "ask", "The feature changes the output", "--null", "No more than others", "--metric",
        "KL of the next-token distribution when ablated", "--threshold", 0.01, "--n", 4,
    )  # fmt: skip
    assert asked == {"question": "Q1", "sealed": asked["sealed"]} and re.fullmatch("[0-9a-f]{64}", asked["sealed"])
    assert way.do("case", "add", effect, "--question", "Q1")["kind"] == "intervention"
    assert way.do("case", "add", "--feature", way.feature)["kind"] == "examples"
    assert way.do("case", "add", way.graph["artefacts"][0]["id"])["kind"] == "circuit"
    assert way.do("case", "add", way.begun.told["train"]["artefacts"][0]["name"])["kind"] == "reconstruction"
    assert way.do("case", "add", way.begun.told["record"]["artefacts"][0]["id"])["kind"] == "other"
    assert way.do("case", "add", "--search", "density>0.005")["kind"] == "search"
    found = way.do(
        "case", "find", "The feature", "--claim", "It changes the output.", "--status", "inconclusive", "--question",
        "Q1", "--evidence", "E1", "--evidence", "E2",
    )  # fmt: skip
    assert found["finding"] == "F1" and found["missing_for_next"]
    shown = way.do("case", "show")
    assert [piece["id"] for piece in shown["evidence"]] == [f"E{n}" for n in range(1, 7)]
    assert shown["questions"][0]["sealed"]
    assert shown["findings"][0]["stands"] == found["stands"]

    report = way.do("report")
    bundle = Path(report["bundle"])
    html = Path(report["html"]).read_text(encoding="utf-8")
    assert "What block 0 holds" in html and "<script" not in html
    assert Path(report["pdf"]).read_bytes().startswith(b"%PDF")

    unsigned = auditor("verify", bundle, "--json")
    assert unsigned.code == 1 and not unsigned.json["ok"]
    signed = done("sign", bundle, "--key", way.out / "me.pem", "--new-key", "--name", "A. Auditor")
    verdict = done("verify", bundle)
    assert verdict["ok"] and verdict["signers"][0]["fingerprint"] == signed["fingerprint"]
    assert auditor("verify", bundle, "--author", "0" * 64).code == 1

    flipped = bytearray(bundle.read_bytes())
    flipped[_place_of(bundle, "report.html") + 500] ^= 1
    (way.out / "flipped.audit.zip").write_bytes(flipped)
    refused = auditor("verify", way.out / "flipped.audit.zip", "--json")
    assert refused.code == 1 and not refused.json["ok"]
    assert any("report.html" in check["detail"] for check in refused.json["checks"] if not check["ok"])


def _place_of(bundle: Path, member: str) -> int:
    with zipfile.ZipFile(bundle) as archive:
        return archive.getinfo(member).header_offset + 30 + len(member)


def test_that_every_verb_left_a_record_and_the_log_holds(way: Journey) -> None:
    """Of those that the tests before this one started here, where they run in several processes."""
    assert way.effect and way.graph
    looking = {"search", "case"}
    with Project.open(way.project, write=False) as project:
        runs = project.runs()
        assert {"open", *way.begun.told} - {"model", "samples"} | way.verbs - looking == {run.verb for run in runs}
        assert all(run.status == "done" and run.ended for run in runs)
        assert project.log.check() is None
    assert not [path for path in way.project.rglob("*") if path.name.endswith(".partial")]
