"""The person's own settings (theme, text size, recent projects): one TOML file in their settings folder."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import tomlkit

from auditor.base.files import write_atomic
from auditor.base.paths import user_config

_RECENT = 12


def read() -> dict[str, Any]:
    """The settings; empty where there is no readable file, since a lost preference must not keep anyone out."""
    try:
        return tomllib.loads(_path().read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def write(**changes: Any) -> None:
    """Change some settings and keep the rest, comments too."""
    try:
        document = tomlkit.parse(_path().read_text("utf-8"))
    except (OSError, ValueError):
        document = tomlkit.document()
    document.update(changes)
    write_atomic(_path(), tomlkit.dumps(document).encode())


def recent_projects() -> list[Path]:
    """Projects opened before that still exist, newest first."""
    noted = read().get("recent")
    folders = [folder for folder in noted if isinstance(folder, str)] if isinstance(noted, list) else []
    return [Path(folder) for folder in folders if os.path.exists(os.path.join(folder, "catalogue.sqlite"))]


def note_recent(folder: Path) -> None:
    """Put `folder` at the head of the recent projects."""
    held = [str(folder), *(str(p) for p in recent_projects() if p != folder)]
    write(recent=held[:_RECENT])


def _path() -> Path:
    return user_config() / "settings.toml"
