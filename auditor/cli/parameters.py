"""The parameters that verbs share: the project, and output as JSON."""

from __future__ import annotations

import os
from pathlib import Path

import click

from auditor.project import Project


def project_option() -> click.Option:
    """--project, which verbs that change something create where it is missing."""
    return click.Option(
        ["--project", "-p"],
        default=lambda: os.environ.get("AUDITOR_PROJECT", "."),
        help="The project's folder; made where it is missing. [AUDITOR_PROJECT, else the current folder]",
    )


def json_option() -> click.Option:
    return click.Option(["--json"], is_flag=True, help="Print one JSON object and nothing else.")


def open_or_create(folder: str | Path) -> Project:
    """The project in `folder`, made where the folder is missing or empty; AuditorError while another holds it."""
    path = Path(folder).expanduser()
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return Project.create(path)
    project = Project.open(path)
    project.must_write()
    return project
