"""Files that settings may name: inside the folders that were given, links followed, nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditor.base.errors import AuditorError
from auditor.intake.beside import file_within


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("project/deep/a.npy", "lists/b.npy", "elsewhere/c.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "project/in.npy").symlink_to(tmp_path / "project/deep/a.npy")
    (tmp_path / "project/out.npy").symlink_to(tmp_path / "elsewhere/c.npy")
    (tmp_path / "project/ring").symlink_to("ring")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [("deep/a.npy", "project/deep/a.npy"), ("b.npy", "lists/b.npy"), ("in.npy", "project/deep/a.npy"),
     ("{}/project/deep/a.npy", "project/deep/a.npy"), ("../lists/b.npy", "lists/b.npy")],
)  # fmt: skip
def test_that_files_inside_are_found(place: Path, name: str, found: str) -> None:
    folders = [place / "project", place / "lists"]
    assert file_within(name.format(place), folders, "the project") == place / found


@pytest.mark.parametrize(
    ("name", "said"),
    [("{}/elsewhere/c.npy", "outside the project"), ("../elsewhere/c.npy", "outside the project"),
     ("/etc/passwd", "outside the project"), ("out.npy", "outside the project|no file"), ("none.npy", "no file"),
     ("deep", "no file"), ("ring", "no file"), ("a\0b.npy", "no file"), ("x" * 5000, "no file")],
)  # fmt: skip
def test_that_all_else_is_refused(place: Path, name: str, said: str) -> None:
    with pytest.raises(AuditorError, match=said):
        file_within(name.format(place), [place / "project"], "the project")
