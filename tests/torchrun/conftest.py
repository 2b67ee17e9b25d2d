"""Texts that are run through the small networks."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.torchrun.processes import ROOT


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A file with 120 lines of this program's licence."""
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    lines = [line.strip() for line in (ROOT / "LICENSE").read_text("utf-8").splitlines() if len(line.split()) > 4]
    file.write_text("\n".join(lines[:120]), "utf-8")
    return file


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 16 MiB; skipped where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk may be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
