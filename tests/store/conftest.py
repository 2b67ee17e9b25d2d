"""Texts of many lengths for the small networks."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.data import Sample
from tests.small_disks import disk_of

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
    with disk_of("1m", tmp_path / "disk") as place:
        yield place
