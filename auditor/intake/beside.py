"""Files that lines of settings may name: only those inside folders that a person gave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from auditor.base.errors import AuditorError


def file_within(name: str, folders: Sequence[Path], where: str) -> Path:
    """The plain file `name` in the first of `folders` that has it, links followed; an absolute name has to lie in one
    of them, too. AuditorError otherwise, with `where` as what these folders are; nothing of the file is read."""
    roots = [folder.resolve() for folder in folders]
    try:
        places = [(root / name).resolve() for root in roots]
        inside = [place for place in places if any(place.is_relative_to(root) for root in roots)]
        found = next((place for place in inside if place.is_file()), None)
    except (OSError, ValueError, RuntimeError):
        raise AuditorError(f"“{name[:120]}” is no file's name.", f"Name a file in {where}.") from None
    if not inside:
        raise AuditorError(f"“{name}” lies outside {where}.", "Copy it there, and name it again.")
    if found is None:
        raise AuditorError(f"There is no file “{name}” in {where}.", "Copy it there, or check its name.")
    return found
