"""Texts of many lengths for the small networks."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from auditor.data import Sample

WORDS = "the a cat sat on mat and ran over small hill to see moon rise while rain fell def return 12 + = )"


@pytest.fixture(scope="session")
def texts() -> list[Sample]:
    rng = np.random.default_rng(1)
    words = np.array(WORDS.split())
    return [
        Sample(f"s{number}", text=" ".join(rng.choice(words, int(rng.integers(3, 60)))), group=f"g{number % 5}")
        for number in range(150)
    ]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB; skipped where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk may be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
