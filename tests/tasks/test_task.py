"""A verb's run leaves a record however it ends, finds its inputs by name, id or path, and its place by its settings."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from auditor.base.config import Config, field
from auditor.base.digest import sha256_file
from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Reporter
from auditor.data import open_samples
from auditor.project import Project
from auditor.tasks import tasks
from auditor.tasks.task import MODULES, Run, Task, must_have_device, resolve, run_task


class _Count(Config):
    samples: str = field("", title="Samples", artefact="samples")
    lines: int = field(3, title="Lines", ge=1)
    fault: str = field("", title="Fault")


def _count(run: Run, config: _Count) -> dict[str, Any]:
    read = run.input(config.samples, "samples").path.read_text(encoding="utf-8").splitlines()
    path = run.keyed_path("result", "counted", f"{config.lines:08d}")
    path.write_text("\n".join(read[: config.lines]), encoding="utf-8")
    run.output("result", "counted", path, lines=config.lines)
    faults = {"stop": Stop(), "told": AuditorError("It is raining.", "Wait."), "bug": ZeroDivisionError("by nought")}
    if config.fault:
        raise faults[config.fault]
    return {"counted": len(read)}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project, and the verb “count” in place of any other."""
    verb = Task("count", "Count", "", "tests.tasks.test_task:_Count", _count)
    monkeypatch.setattr(importlib.import_module("auditor.tasks.task"), "get_task", lambda name: verb)
    with Project.create(tmp_path / "project") as made:
        (made.folder / "notes.txt").write_text("one\n\ntwo\n\nthree\n", encoding="utf-8")
        made.add("samples", "notes", made.folder / "notes.txt", digest=open_samples(made.folder / "notes.txt").digest)
        yield made


def test_that_a_run_records_what_went_in_and_what_came_out(project: Project) -> None:
    told = run_task("count", project, _Count(lines=2), Reporter())
    (run,) = project.runs()
    assert (run.id, run.verb, run.status, run.message) == (told["run"], "count", "done", "")
    assert run.config == {"samples": "", "lines": 2, "fault": ""}
    assert run.inputs == {"notes": open_samples(project.folder / "notes.txt").digest}
    assert run.outputs == told["artefacts"] and run.started <= run.ended
    assert {"python", "torch", "numpy"} <= run.environment.keys()
    artefact = project.find(run.outputs[0])
    assert (artefact.run, artefact.kind, artefact.meta) == (run.id, "result", {"lines": 2})
    assert artefact.digest == sha256_file(artefact.path)
    entry = project.log.entries()[-1]
    assert entry["kind"] == "run"
    assert entry["payload"] == {"id": run.id, "status": "done", "inputs": run.inputs, "outputs": run.outputs}


@pytest.mark.parametrize(
    ("fault", "kind", "status", "message"),
    [
        ("told", AuditorError, "failed", "It is raining. Wait."),
        ("bug", ZeroDivisionError, "failed", "by nought"),
        ("stop", Stop, "cancelled", "stopped by the person"),
    ],
)
def test_that_a_run_that_ends_early_says_how(
    project: Project, fault: str, kind: type[BaseException], status: str, message: str
) -> None:
    with pytest.raises(kind):
        run_task("count", project, _Count(fault=fault), Reporter())
    (run,) = project.runs()
    assert (run.status, run.message) == (status, message) and run.ended
    assert run.inputs and project.log.entries()[-1]["payload"]["status"] == status
    assert project.log.check() is None


def test_that_nothing_runs_in_a_project_that_can_only_be_read(project: Project) -> None:
    with Project.open(project.folder) as second:
        assert not second.writable
        with pytest.raises(AuditorError, match="open in another program"):
            run_task("count", second, _Count(), Reporter())
    assert not project.runs()


def test_that_a_run_goes_on_where_one_of_its_places_was_begun_and_nowhere_else(project: Project) -> None:
    begun = project.catalogue.begin_run("count", {}, {})
    shared, own, other = (project.keyed_path("result", name, "ab12cd34") for name in ("shared", "own", "other"))
    run = Run(project, Reporter(), begun, onto=[own])  # another run has the shared one by now
    run.begins([shared, own], _Count(lines=2))
    assert {place: held.config["lines"] for place, held in project.catalogue.begun().items()} == {shared: 2, own: 2}
    with pytest.raises(AuditorError, match="no longer lead to what was begun, but to “other-ab12cd34”"):
        run.begins([other], _Count(lines=2))
    assert other not in project.catalogue.begun()


class _Placed(Config):
    device: str = field("auto", title="Device", choices=["auto", "cpu", "cuda"])


def test_that_a_gpu_that_is_not_there_is_told_before_a_run_begins(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(AuditorError, match="no usable NVIDIA GPU"):
        run_task("count", project, _Placed(device="cuda"), Reporter())
    assert not project.runs()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    must_have_device(_Placed(device="cuda"))


def test_that_equal_settings_have_one_place_and_others_another(project: Project) -> None:
    first, again, other = (run_task("count", project, _Count(lines=n), Reporter()) for n in (2, 2, 1))
    paths = [project.find(told["artefacts"][0]).path for told in (again, other)]
    assert paths[0] != paths[1] and paths[0].name == "counted-00000002.json"
    # The same place is one artefact: the newest run's.
    assert first["artefacts"][0] not in [artefact.id for artefact in project.artefacts()]
    assert len(project.artefacts("result")) == 2


def test_that_artefacts_are_found_by_id_name_and_path_and_the_newest_otherwise(project: Project) -> None:
    notes = project.artefacts("samples")[0]
    for ref in (notes.id, notes.id[:6], "notes", project.folder / "notes.txt", str(notes.path)):
        assert resolve(project, ref, "samples").id == notes.id
    (project.folder / "later.txt").write_text("four\n", encoding="utf-8")
    later = project.add("samples", "later", project.folder / "later.txt")
    assert resolve(project, "", "samples").id == later.id
    with pytest.raises(AuditorError, match="no model yet"):
        resolve(project, "", "model")
    with pytest.raises(AuditorError, match="no samples called “never”"):
        resolve(project, "never", "samples")


def test_that_a_path_is_taken_in_with_its_facts_once_it_was_read(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "more.txt"
    path.write_text("first\n\nsecond\n", encoding="utf-8")
    taken = resolve(project, path, "samples")
    assert (taken.name, taken.path) == ("more", path) and taken.meta == {"samples": 2, "with_image": 0}
    assert resolve(project, path, "samples").id == taken.id
    before = [artefact.id for artefact in project.artefacts()]
    empty = tmp_path / "empty.txt"
    empty.touch()
    with pytest.raises(AuditorError):
        resolve(project, empty, "samples")
    with pytest.raises(AuditorError):
        resolve(project, path, "dictionary")
    assert [artefact.id for artefact in project.artefacts()] == before


def test_that_every_module_declares_one_verb_with_settings_and_help() -> None:
    found = tasks()
    assert [task.name for task in found] == [name.rstrip("_") for name in MODULES]
    for task in found:
        assert task.title and task.help and issubclass(task.config_class(), Config)
        assert set(task.config_class().arguments) <= task.config_class().model_fields.keys()
