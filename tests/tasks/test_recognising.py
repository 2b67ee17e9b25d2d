"""What a folder is said to be, by a look at files that anybody may have put there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from auditor.tasks.open import recognise


@pytest.mark.parametrize("manifest", ["[" * 100_000, "{", "[]", '{"format": 3}', "a pipe", "a folder"])
def test_that_a_strange_manifest_makes_no_store(tmp_path: Path, manifest: str) -> None:
    place = tmp_path / "manifest.json"
    if manifest == "a pipe":
        os.mkfifo(place)
    elif manifest == "a folder":
        place.mkdir()
    else:
        place.write_text(manifest, encoding="utf-8")
    assert recognise(tmp_path) == "samples"
