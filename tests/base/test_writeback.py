"""Bytes are on their way to the disk before an fsync, where the system can be asked for that."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from auditor.base import writeback


@pytest.mark.parametrize("platform", [sys.platform, "win32"])
def test_that_what_is_begun_stays_what_was_written(
    platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    writeback._call.cache_clear()
    with open(tmp_path / "a", "wb", buffering=0) as file:
        for number in range(3):
            file.write(bytes([number]) * 5000)
            writeback.begin_writing(file.fileno())
    assert (tmp_path / "a").read_bytes() == b"".join(bytes([number]) * 5000 for number in range(3))
    writeback._call.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_that_linux_is_asked_for_the_whole_file_and_takes_it(tmp_path: Path) -> None:
    writeback._call.cache_clear()
    call = writeback._call()
    with open(tmp_path / "a", "wb") as file:
        assert call(file.fileno(), 0, 0, writeback._WRITE) == 0
    assert call(10**6, 0, 0, writeback._WRITE) == -1
    writeback.begin_writing(10**6)  # the fsync that follows tells what is wrong
