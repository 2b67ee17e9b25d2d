"""A journal whose first entry was acknowledged is there after a power cut, under its name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from auditor.store.journal import Entry, Journal


def test_that_the_name_of_a_new_journal_is_synced_before_its_first_entry_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        synced.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    journal = Journal(tmp_path / "a.journal")
    for number in range(3):
        journal.add(Entry({"number": number}, {"sample": np.arange(number + 1, dtype=np.int32)}))
    assert synced == ["file", "folder", "file", "file"]
    assert [entry.facts["number"] for entry in Journal(tmp_path / "a.journal").entries] == [0, 1, 2]
