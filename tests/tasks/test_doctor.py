"""The doctor looks at a dictionary of the project again: on other activations, with the earlier verdicts kept."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.project import Project
from auditor.sae import load
from auditor.sae.train_config import TrainConfig
from auditor.sae.trainer import train
from auditor.store import StoredSample, StoreWriter, open_store
from auditor.tasks import run_task
from auditor.tasks.doctor import DoctorConfig
from tests.torchrun.runs import HOOK, stored


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A project with two stores of the same rows, and a dictionary that is right, and one whose hook point is not."""
    folder = tmp_path_factory.mktemp("doctor") / "p"
    with Project.create(folder) as project:
        for name in ("first", "second"):
            path = stored(project.new_path("store", name))
            project.add("store", name, path, digest=open_store(path).digest)
        settings = TrainConfig(d_sae=64, k=3, steps=150, batch_size=128, lr=1e-2, device="cpu", evaluate_rows=0)
        path = project.new_path("dictionary", "right")
        sae = train(settings, open_store(project.find("first").path), path)
        project.add("dictionary", "right", path, digest=sae.digest, meta={"arch": "topk"})
        elsewhere = project.new_path("dictionary", "elsewhere")
        other = replace(sae, hook="blocks.7.resid_post", original=None)
        other.save(elsewhere)
        project.add("dictionary", "elsewhere", elsewhere, digest=other.digest)
    return folder


@pytest.fixture
def project(begun, tmp_path):
    shutil.copytree(begun, tmp_path / "p")
    with Project.open(tmp_path / "p") as held:
        yield held


def examine(project, **settings):
    return run_task("doctor", project, DoctorConfig(**settings), Reporter())


def test_that_every_convention_is_told_and_the_verdict_kept_beside_the_earlier_ones(project):
    told = examine(project, dictionary="right", store="first")
    assert told["ok"] and told["verdict"] == "as read" and told["store"] == "first" and not told["earlier"]
    assert len(told["readings"]) > 4 and told["readings"][0]["convention"] == "as read"
    for row in told["readings"]:
        assert row["low"] <= row["fvu"] <= row["high"] and row["l0"] > 0 and row["n"] == told["rows"] == 2048
    before = project.find("right")
    kept = before.meta["doctor"]
    assert kept["store_digest"] == project.find("first").digest and before.meta["arch"] == "topk"
    again = examine(project, dictionary="right", store="second")
    held = project.find("right")
    assert (held.id, held.digest, held.path) == (before.id, before.digest, before.path)
    assert held.meta["doctor"]["store"] == "second" and held.meta["doctor_before"] == [kept]
    assert again["earlier"] == [{name: kept[name] for name in ("when", "verdict", "store", "rows")}]
    examine(project, dictionary="right", store="first")
    assert [past["store"] for past in project.find("right").meta["doctor_before"]] == ["first", "second"]
    assert project.runs()[-1].inputs.keys() == {"right", "first"}
    assert project.log.check() is None


def test_that_a_hook_point_can_be_named_and_what_cannot_be_examined_is_told(project):
    with pytest.raises(AuditorError, match=r"does not hold “blocks\.7\.resid_post”"):
        examine(project, dictionary="elsewhere", store="first")
    with pytest.raises(AuditorError, match=r"cannot be examined: the project holds no activations of “blocks\.7"):
        examine(project, dictionary="elsewhere")
    assert "doctor" not in project.find("elsewhere").meta
    told = examine(project, dictionary="elsewhere", hook=HOOK)
    assert told["verdict"] == "as read" and (told["store"], told["hook"]) == ("second", HOOK)


def test_that_a_dictionary_of_another_tool_is_examined_on_the_model_that_it_names(project):
    """The newer store has a hook point of the same name and width, of another model."""
    other = project.new_path("store", "other")
    meta = {"model": {"name": "newer", "digest": "1" * 64}}
    with StoreWriter(other, {HOOK: 24}, meta, "float32") as writer:
        rows = np.random.default_rng().normal(size=(64, 24)).astype("f4")
        writer.append([StoredSample(id="a")], {HOOK: rows}, np.zeros(64, int), np.arange(64), np.ones(64, int),
                      np.full(64, -1))  # fmt: skip
        project.add("store", "other", other, digest=writer.finish().digest)
    sae = load(project.find("right").path)
    meta = {"origin": {"format": "dictionary_learning", "model_name": "someone/Tiny"}}
    place = project.new_path("dictionary", "foreign")
    foreign = replace(sae, meta=meta, original=None)
    foreign.save(place)
    project.add("dictionary", "foreign", place, digest=foreign.digest)
    told = examine(project, dictionary="foreign")
    assert told["verdict"] == "as read" and told["store"] == "second"
