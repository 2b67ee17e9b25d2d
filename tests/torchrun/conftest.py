"""Texts that are run through the small networks."""

from __future__ import annotations

import pytest

from tests.small_disks import disk_of
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
    with disk_of("16m", tmp_path / "disk") as place:
        yield place
