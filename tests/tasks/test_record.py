"""The verb “record” in a project: what was planned and taken, what does not fit, and going on from a finished store."""

from __future__ import annotations

import shutil
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import auditor.models
from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Reporter
from auditor.project import Project
from auditor.store import open_store
from auditor.store.recipe import RecordConfig
from auditor.tasks import opening
from auditor.tasks.open import OpenConfig
from auditor.tasks.task import run_task
from tests.models.tiny import ALL

HOOK = "blocks.0.resid_post"
WORDS = "the a cat sat on mat and ran over small hill to see moon rise while rain fell def return 12 + = )"


@pytest.fixture
def project(tiny_llama_folder: Path, tmp_path: Path) -> Iterator[Project]:
    rng = np.random.default_rng(2)
    with Project.create(tmp_path / "project") as held:
        run_task("open", held, OpenConfig(path=str(tiny_llama_folder)), Reporter())
        for name, count in (("first", 30), ("more", 12)):
            texts = [" ".join(rng.choice(WORDS.split(), int(rng.integers(8, 30)))) for _ in range(count)]
            (tmp_path / f"{name}.txt").write_text("\n\n".join(texts), encoding="utf-8")
            run_task("open", held, OpenConfig(path=str(tmp_path / f"{name}.txt")), Reporter())
        yield held


def recorded(project: Project, samples: str, **changes) -> dict:
    config = RecordConfig(model="", samples=samples, hooks=(HOOK,), context=32, batch_size=4, device="cpu")
    return run_task("record", project, config.model_copy(update=changes), Reporter())


def test_that_a_recording_tells_what_it_took_beside_what_was_planned(project, monkeypatch) -> None:
    monkeypatch.setattr("auditor.tasks.record._WORTH_A_PROBE", 1)
    told = recorded(project, "first", store_dtype="int8")
    planned, took = told["planned"], told["took"]
    assert took["positions"] == told["rows"] == pytest.approx(planned["positions"], rel=0.4)
    assert took["disk_mb"] == pytest.approx(planned["disk_mb"], rel=0.5)
    assert took["minutes"] > 0 and planned["minutes"] > 0 and took["memory_mb"] > 100
    assert 0 < took["fvu"] < 0.01 and took["clipped"] >= 0
    (ref,) = told["artefacts"]
    meta = project.find(ref, "store").meta
    assert meta["hook_points"] == open_store(project.find(ref, "store").path).hook_points  # a form lists them
    assert meta["planned_disk_mb"] == planned["disk_mb"] and meta["took_fvu"] == took["fvu"]


def test_that_a_hook_point_at_which_no_sample_has_a_position_is_told(project, tmp_path) -> None:
    ALL["clip"].save(tmp_path / "clip")
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        Image.new("RGB", (24, 20), (40 * number, 90, 7)).save(tmp_path / "pictures" / f"{number}.png")
    model, pictures = str(tmp_path / "clip"), str(tmp_path / "pictures")
    hooks = ("vision.blocks.0.resid_post", "image_embeds", "text_embeds")
    told = recorded(project, pictures, model=model, hooks=hooks)
    assert told["rows"] > 0 and told["no_rows_at"] == ["text_embeds"]
    assert "no_rows_at" not in recorded(project, pictures, model=model, hooks=hooks[:2])


def test_that_inputs_that_are_no_longer_what_was_opened_are_told(project, tiny_llama_folder, tmp_path) -> None:
    recorded(project, "first")
    assert not project.runs()[-1].message
    copy = tmp_path / "copy"
    shutil.copytree(tiny_llama_folder, copy)
    run_task("open", project, OpenConfig(path=str(copy)), Reporter())
    before = {held.name: held.digest for held in project.artefacts()}
    with open(copy / "generation_config.json", "w", encoding="utf-8") as file:
        file.write("{}")
    with open(tmp_path / "more.txt", "a", encoding="utf-8") as file:
        file.write("\n\none more")
    recorded(project, "more", model="copy")
    said, inputs = project.runs()[-1].message, project.runs()[-1].inputs
    for name, are in (("copy", "The model “copy” is"), ("more", "The samples “more” are")):
        assert f"{are} no longer what was opened: sha256 {before[name][:8]}…" in said
        assert inputs[name] != before[name] and f"then, {inputs[name][:8]}… now" in said
    recorded(project, "more?limit=5")
    said = project.runs()[-1].message
    assert f"The samples “more” are no longer what was opened: sha256 {before['more'][:8]}…" in said
    assert project.runs()[-1].inputs["more"] == inputs["more"]
    run_task("open", project, OpenConfig(path=str(tmp_path / "more.txt")), Reporter())
    assert project.artefacts("samples")[-1].digest == inputs["more"]
    recorded(project, "more?limit=6")
    assert "The samples" not in project.runs()[-1].message


def test_that_what_cannot_fit_is_refused_with_the_figures(project, monkeypatch) -> None:
    monkeypatch.setattr("auditor.store.plan._free", lambda _: 60_000)
    with pytest.raises(AuditorError, match=r"needs \d.* MB and 0\.1 MB are free") as caught:
        recorded(project, "first", store_dtype="float32")
    assert "another disk" in caught.value.hint
    monkeypatch.setattr("auditor.store.plan._free", lambda _: 1 << 40)
    monkeypatch.setattr("auditor.store.plan._free_memory", lambda _: -1)
    monkeypatch.setattr("auditor.tasks.record._WORTH_A_PROBE", 1)
    with pytest.raises(AuditorError, match=r"of memory and .* are free"):
        recorded(project, "first")
    assert not project.artefacts("store")


def test_that_a_new_store_goes_on_from_a_finished_one(project) -> None:
    first = recorded(project, "first")
    more = recorded(project, "more", append_to=first["artefacts"][0], hooks=())
    assert more["hooks"] == [HOOK] and more["rows"] > first["rows"] > more["took"]["positions"]
    old, new = (project.find(told["artefacts"][0], "store") for told in (first, more))
    store = open_store(new.path)
    assert store.meta["appended_to"]["digest"] == old.digest and store.n_samples >= 42
    run = next(run for run in project.catalogue.runs() if run.id == new.run)
    assert run.inputs[old.name] == old.digest


@pytest.mark.parametrize(
    ("changes", "said", "opens"),
    [
        ({"hooks": ("blocks.1.resid_post",)}, "hook points", True),
        ({"hooks": ("blocks.1.resid_post",), "store_dtype": "float32"}, "stored numbers", False),
        ({"model": "another"}, "model", False),
    ],
)
def test_that_what_cannot_be_recorded_behind_a_store_is_refused_before_anything_is_run(
    project, tmp_path, monkeypatch, changes, said, opens
) -> None:
    """Before the model is opened, where that is not needed to tell."""
    old = recorded(project, "first")["artefacts"][0]
    ALL["llama"].save(tmp_path / "another")
    run_task("open", project, OpenConfig(path=str(tmp_path / "another")), Reporter())
    opened, own = [], opening.model_at
    monkeypatch.setattr(opening, "model_at", lambda *given: opened.append(given[0]) or own(*given))
    monkeypatch.setattr("auditor.store.plan.plan", lambda *_: pytest.fail("it was planned"))
    monkeypatch.setattr("auditor.tasks.record._WORTH_A_PROBE", 0)
    model = project.artefacts("model")[0].id
    with pytest.raises(AuditorError, match=f"must have its {said}"):
        recorded(project, "more", **{"append_to": old, "model": model} | changes)
    assert bool(opened) is opens


def test_that_the_network_is_opened_as_far_as_it_is_recorded_unless_the_whole_is_open(project, monkeypatch) -> None:
    plain, opened = auditor.models.open_model, []
    monkeypatch.setattr(opening, "_models", OrderedDict())
    monkeypatch.setattr(auditor.models, "open_model", lambda *a, **k: opened.append(plain(*a, **k)) or opened[-1])
    part = project.find(recorded(project, "first")["artefacts"][0], "store")
    assert [model.until for model in opened] == [HOOK]
    assert open_store(part.path).meta["model"]["digest"] == project.artefacts("model")[0].digest
    opening.model_at(project.artefacts("model")[0].path, device="cpu")
    recorded(project, "more")
    assert [model.until for model in opened] == [HOOK, None]
    assert [model.until for model in opening._models.values()] == [None]


class StopsAt(Reporter):
    """Is stopped once so many samples are done."""

    def __init__(self, done: int) -> None:
        super().__init__()
        self.most = done

    def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
        if total and done >= self.most:
            raise Stop


def test_that_a_recording_that_went_on_tells_what_was_planned_and_what_each_run_took(project, monkeypatch) -> None:
    monkeypatch.setattr("auditor.tasks.record._WORTH_A_PROBE", 1)
    config = RecordConfig(model="", samples="first", hooks=(HOOK,), context=32, batch_size=4, device="cpu")
    planned: list[dict] = []
    for most in (8, 20):
        with pytest.raises(Stop):
            reporter = StopsAt(most)
            reporter.partial = lambda kind, **data: planned.append(data) if kind == "planned" else None
            run_task("record", project, config, reporter)
    told = run_task("record", project, config, Reporter())
    first, *_ = planned
    assert planned == [first, first] and told["planned"] == first and first["minutes"] > 0
    parts = told["parts"]
    assert len(parts) == 3 and all(part["positions"] > 0 and part["minutes"] > 0 for part in parts)
    assert sum(part["positions"] for part in parts) == told["rows"] == told["took"]["positions"]
    assert told["took"]["minutes"] == pytest.approx(sum(part["minutes"] for part in parts))
    meta = project.find(told["artefacts"][0], "store").meta
    assert meta["parts"] == parts and meta["planned_positions"] == first["positions"]
    assert not project.catalogue.begun()


def test_that_of_a_run_that_was_killed_the_time_is_not_known(project) -> None:
    config = RecordConfig(model="", samples="first", hooks=(HOOK,), context=32, batch_size=4, device="cpu")
    with pytest.raises(Stop):
        run_task("record", project, config, StopsAt(12))
    (place,) = project.catalogue.begun()
    project.catalogue.set_spent(place, {"planned": {"minutes": 3.0}, "parts": []})  # as a kill leaves it
    told = run_task("record", project, config, Reporter())
    killed, last = told["parts"]
    assert killed["minutes"] is None and killed["positions"] > 0 and last["minutes"] > 0
    assert killed["positions"] + last["positions"] == told["rows"] and "minutes" not in told["took"]
    assert told["planned"] == {"minutes": 3.0}


@pytest.mark.parametrize("damage", ["", "[", "[1]", '{"planned": 3, "parts": {}}', '{"parts": [1, {"minutes": 2}]}'])
def test_that_damaged_notes_of_earlier_runs_keep_nobody_from_going_on(project, damage) -> None:
    config = RecordConfig(model="", samples="first", hooks=(HOOK,), context=32, batch_size=4, device="cpu")
    with pytest.raises(Stop):
        run_task("record", project, config, StopsAt(12))
    with sqlite3.connect(project.catalogue.path) as db:
        db.execute("UPDATE begun SET spent = ?", (damage,))
    db.close()
    told = run_task("record", project, config, Reporter())
    assert [part["minutes"] is None for part in told["parts"]] == [True, False] and "planned" not in told
