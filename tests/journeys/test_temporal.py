"""A dictionary that reads samples in order, from training to what it is refused for, by the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from auditor.sae import load
from auditor.sae.sae import Sae
from tests.journeys.conftest import HOOK, Begun
from tests.journeys.running import auditor, done, made

TRAIN = (
    "train", "--d-sae", 64, "--k", 6, "--batch-size", 256, "--steps", 40, "--evaluate-rows", 1024, "--device", "cpu",
    "--heads", 2, "--bottleneck", 4, "--lr", "0.01", "--splice-samples", 4,
)  # fmt: skip


@pytest.fixture
def where(begun: Begun, tmp_path: Path) -> tuple[object, ...]:
    shutil.copytree(begun.folder, tmp_path / "project")
    return ("--project", tmp_path / "project")


def test_that_a_temporal_dictionary_is_trained_indexed_searched_spliced_and_given_to_saelens(where, begun, tmp_path):
    told = done(*TRAIN, "--arch", "temporal", *where)
    sae, name = load(made(told, "dictionary")), told["artefacts"][0]["id"]
    assert isinstance(sae, Sae) and sae.context is not None and (sae.d_sae, sae.k) == (64, 6)
    quality, spliced = sae.meta["quality"], sae.meta["spliced"]
    assert 0 < quality["fvu"] < 0.9 and 0 < quality["l0"] <= 6 and quality["by_kind"].keys() == {"text", "image"}
    assert spliced["n"] > 20 and spliced["kl"] > 0 and spliced["baselines"].keys() >= {"mean", "pca", "neurons"}
    index = done("index", "--dictionary", name, "--top", 3, "--per-band", 1, *where)
    place = made(index, "index")
    found = done("search", "--text", "The capital of France is Paris.", "--index", place, *where)
    assert found["features"] and all(row["activation"] > 0 for row in found["features"])
    done("export", name, tmp_path / "out", "--format", "saelens", *where)
    back = done("import", tmp_path / "out", "--hook", HOOK, *where)
    assert back["arch"] == "temporal" and back["doctor"]["verdict"] in ("as read", "undecided")
    assert back["doctor"]["table"][0]["fvu"] == pytest.approx(quality["fvu"], rel=0.5)
    for refused in (
        ("experiment", 3, "--dictionary", name, "--samples", "mixed"), ("trace", "Paris is in", "--dictionaries", name),
        ("export", name, tmp_path / "other", "--format", "sparsify"),
    ):  # fmt: skip
        ended = auditor(*refused, *where)
        assert ended.code == 2 and "Traceback" not in ended.err, ended
        assert "temporal" in ended.err or "something else" in ended.err, ended.err
    streamed = auditor(*TRAIN, "--arch", "temporal", "--model", begun.model.name, "--samples", "mixed", *where)
    assert streamed.code == 2 and "come from a store" in streamed.err


def test_that_signed_and_grouped_dictionaries_are_trained_and_indexed(where):
    for arch, features in (("abstopk", 128), ("groupmax", 64)):
        told = done(*TRAIN, "--arch", arch, "--k", 4, *where)
        sae = load(made(told, "dictionary"))
        assert sae.d_sae == features and 0 < sae.meta["quality"]["fvu"] < 0.9
        index = done("index", "--dictionary", told["artefacts"][0]["id"], "--top", 3, "--per-band", 1, *where)
        assert index["features"] == features
