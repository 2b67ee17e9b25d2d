"""Work on a case: evidence with its figure, undo and redo on the disk, and a log entry for each change."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from auditor.audit.case import Case, Finding
from auditor.audit.drawings import against_null
from auditor.audit.evidence import Metric, Null, Recipe
from auditor.base.digest import digest_files, sha256_bytes, sha256_file
from auditor.base.errors import AuditorError
from auditor.project import Project
from auditor.tasks.casework import OpenCase, checked, create_case, open_case
from auditor.tasks.result import Result


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project.create(tmp_path / "project") as made:
        (made.folder / "weights").write_bytes(b"weights")
        files = digest_files(made.folder / "weights")
        made.add("model", "network", made.folder / "weights", meta={"files": files})
        yield made


@pytest.fixture
def opened(project: Project) -> OpenCase:
    return create_case(project, "Padlocks", "A. Auditor", organisation="Audit house")


def result() -> Result:
    null = Null(n=20, mean=0.0, p=1 / 21, description="features that fire as often")
    metric = Metric(name="KL when ablated", estimate=0.3, interval=(0.2, 0.4), n=12, unit="nats", null=null)
    return Result(
        kind="intervention", title="Ablating feature 7", recipe=Recipe(verb="experiment", config={"feature": 7}),
        metric=metric, figure=against_null(metric, [0.01 * n for n in range(20)]), figure_alt="0.3 against 20 features",
        data={"null": [0.0]},
    )  # fmt: skip


def test_that_a_case_names_the_models_and_is_registered(project: Project, opened: OpenCase) -> None:
    (subject,) = opened.case.subjects
    assert (subject.name, subject.digest) == ("network", sha256_file(project.folder / "weights"))
    assert subject.files == {"weights": subject.digest}
    assert opened.case.organisation == "Audit house" and opened.case.environment["python"]
    assert [artefact.id for artefact in project.artefacts("case")] == [opened.artefact.id]
    assert Case.load(opened.artefact.path) == opened.case


def test_that_pinned_evidence_is_on_the_disk_with_its_figure(project: Project, opened: OpenCase) -> None:
    piece = opened.pin(result(), contrary=True)
    assert (piece.id, piece.kind, piece.contrary, piece.exploratory) == ("E1", "intervention", True, True)
    assert piece.metric is not None and piece.metric.estimate == 0.3
    assert piece.figure == "E1.svg" and opened.figures().keys() == {"E1.svg"}
    assert sha256_bytes(opened.figures()["E1.svg"]) == piece.figure_digest
    assert open_case(project).case == opened.case
    assert open_case(project, "Padlocks").case.evidence == (piece,)
    (opened.figures_folder / "E1.svg").unlink()
    with pytest.raises(AuditorError, match=r"figure “E1.svg” of this case is missing"):
        opened.figures()


def test_that_undo_and_redo_are_on_the_disk(opened: OpenCase) -> None:
    opened.pin(result())
    finding = Finding(id="F1", title="t", claim="c", status="inconclusive", severity="info", evidence=("E1",))
    opened.change("Write F1", opened.case.put(finding))
    whole = opened.case
    assert opened.undo() == "Write F1"
    assert Case.load(opened.artefact.path).findings == () and len(opened.case.evidence) == 1
    assert opened.undo() == "Add evidence E1" and opened.undo() is None
    assert Case.load(opened.artefact.path).evidence == ()
    assert [opened.redo(), opened.redo(), opened.redo()] == ["Add evidence E1", "Write F1", None]
    assert Case.load(opened.artefact.path) == whole
    assert opened.figures()


def test_that_each_change_is_in_the_log_with_the_digest_it_gave(project: Project, opened: OpenCase) -> None:
    opened.pin(result())
    opened.undo()
    opened.redo()
    changes = [entry["payload"] for entry in project.log.entries() if entry["kind"] == "case changed"]
    assert [change["change"] for change in changes] == [
        "Add evidence E1", "Undo: Add evidence E1", "Redo: Add evidence E1",
    ]  # fmt: skip
    assert {change["case"] for change in changes} == {opened.artefact.id}
    assert changes[-1]["digest"] == sha256_file(opened.artefact.path) == project.find(opened.artefact.id).digest
    assert changes[0]["digest"] != changes[1]["digest"] and project.log.check() is None


def test_that_a_case_that_cannot_be_written_stays_as_it_was(project: Project, opened: OpenCase) -> None:
    before = opened.artefact.path.read_bytes()
    project.close()
    with pytest.raises(AuditorError, match="only be read"):
        opened.pin(result())
    assert opened.artefact.path.read_bytes() == before and not opened.figures_folder.exists()
    assert opened.case.evidence == ()


def test_that_another_programs_change_is_not_lost(opened: OpenCase, tmp_path: Path) -> None:
    opened.pin(result())
    shutil.copy(opened.artefact.path, tmp_path / "mine.json")
    other = opened.case.changed(summary="Written elsewhere")
    other.save(opened.artefact.path)
    with pytest.raises(AuditorError, match="changed by another program"):
        opened.undo()
    assert Case.load(opened.artefact.path) == other


def test_that_a_field_that_does_not_fit_is_named() -> None:
    with pytest.raises(AuditorError, match="not a finding that can be kept: severity"):
        checked(Finding, id="F1", title="t", claim="c", status="present", severity="dreadful")


def test_that_a_project_without_a_case_says_how_to_start_one(project: Project) -> None:
    with pytest.raises(AuditorError, match="no case yet"):
        open_case(project)
