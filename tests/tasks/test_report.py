"""The verb “report”: a bundle with its copies, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Reporter
from auditor.project import Project
from auditor.tasks import get_task, run_task
from auditor.tasks.casework import create_case


@pytest.fixture
def project(tmp_path: Path):
    with Project.create(tmp_path / "audit") as made:
        create_case(made, "Padlocks", "A. Auditor")
        yield made


def reported(project: Project, reporter: Reporter) -> list[str]:
    run_task("report", project, get_task("report").read({}), reporter)
    return sorted(path.name for path in project.folder_of("bundle").iterdir())


def test_that_a_report_lies_beside_its_bundle(project: Project) -> None:
    assert reported(project, Reporter()) == ["Padlocks.audit.zip", "Padlocks.html", "Padlocks.pdf"]


@pytest.mark.parametrize("ends", [AuditorError("The disk is full."), Stop()], ids=["full disk", "stopped"])
def test_that_a_report_that_ends_early_leaves_nothing(project: Project, ends: Exception, monkeypatch) -> None:
    def copied(path: Path, data: bytes) -> None:
        path.write_bytes(data)
        if path.suffix == ".pdf":
            raise ends

    monkeypatch.setattr("auditor.tasks.report.write_atomic", copied)
    with pytest.raises(type(ends)):
        reported(project, Reporter())
    assert list(project.folder_of("bundle").iterdir()) == [] and project.artefacts("bundle") == []
