"""`auditor window`: opens the window on a project."""

from __future__ import annotations

from pathlib import Path

import click

from auditor.base.errors import AuditorError


@click.command("window")
@click.argument("project", required=False, type=click.Path(path_type=Path))
def command(project: Path | None) -> int:
    """Open the window, on PROJECT where it is given."""
    return open_window(project)


def open_window(project: Path | None) -> int:
    """The window's event loop; AuditorError where Qt is not installed."""
    try:
        from auditor.ui.app import main
    except ImportError as error:
        raise AuditorError(
            f"The window needs {error.name}, which is not installed.", "Install the extra “ui”."
        ) from None
    return main(project)
