"""The parameters that verbs share: the project, and output as JSON."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from auditor.base.errors import AuditorError
from auditor.base.paths import at_home
from auditor.project import Project


def project_option(makes: bool = True) -> click.Option:
    """--project, made where it is missing by the verbs that change something; `makes` False for those that look."""
    made = "; made where it is missing" if makes else ""
    return click.Option(
        ["--project", "-p"],
        default=lambda: os.environ.get("AUDITOR_PROJECT", "."),
        help=f"The project's folder{made}. [AUDITOR_PROJECT, else the current folder]",
    )


def json_option() -> click.Option:
    return click.Option(["--json"], is_flag=True, help="Print one JSON object and nothing else.")


@contextlib.contextmanager
def open_or_create(folder: str | Path) -> Iterator[Project]:
    """The project in `folder`, made where the folder is missing or empty; AuditorError while another holds it.

    A project that was made here is removed again when the first verb in it fails, so a slip leaves nothing.
    """
    path = at_home(folder)
    there = path.exists()
    if there and not (path.is_dir() and not any(path.iterdir())):
        with Project.open(path) as project:
            project.must_write()
            yield project
        return
    with Project.create(path) as project:
        try:
            yield project
        except AuditorError:
            if not project.artefacts():
                project.close()
                shutil.rmtree(path) if not there else _empty(path)
            raise


def _empty(folder: Path) -> None:
    for item in folder.iterdir():
        shutil.rmtree(item) if item.is_dir() else item.unlink()
