"""`auditor demo`: the sample audit, in the window or, without a display, as files."""

from __future__ import annotations

from pathlib import Path

import click

from auditor.base import paths
from auditor.cli import console
from auditor.cli.parameters import json_option


@click.command("demo", params=[json_option()])
@click.option("--from-scratch", is_flag=True, help="Record, train, index, analyse and report again.")
@click.option("--headless", is_flag=True, help="Write report, bundle and pictures instead of opening the window.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Where files go. [build/sample-audit]")
def command(from_scratch: bool, headless: bool, out: Path | None, json: bool) -> int:
    """Open the sample audit: real networks, already recorded, with dictionary, index, circuits and a case."""
    from auditor.tasks.sample_audit import prepare

    folder = (out or paths.build() / "sample-audit").absolute()
    with console.reporting(json) as reporter:
        project = prepare(folder / "project", reporter, from_scratch=from_scratch)
        if headless:
            from auditor.tasks.sample_audit import write_files

            told = write_files(project, folder, reporter)
    if not headless:
        project.close()
        from auditor.cli.window import open_window

        return open_window(project.folder)
    project.close()
    told |= {"pictures": _pictures(project.folder, folder / "pictures")}
    if json:
        console.print_json(told)
    else:
        for name, value in told.items():
            console.say(f"{name}: {value}")
    return 0 if told["verified"] else 1


def _pictures(project: Path, folder: Path) -> str:
    """Pictures of every pane, where Qt is installed."""
    try:
        from auditor.ui.pictures import take
    except ImportError as error:
        return f"none: {error.name} is not installed"
    taken = take(project, folder)
    return f"{len(taken)} in {folder}"
