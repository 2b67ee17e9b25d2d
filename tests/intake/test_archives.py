"""Zip archives: members are read only from archives that cannot do harm."""

from __future__ import annotations

import stat
import warnings
import zipfile
from pathlib import Path

import pytest

from auditor.base.errors import AuditorError
from auditor.intake.archives import members, read_member


def archive(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        warnings.simplefilter("ignore")
        for name, data in entries:
            opened.writestr(name, data)
    return path


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def test_that_members_are_listed_and_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", ("one.txt", b"1"), ("in/two.txt", b"22"))
    assert members(path) == {"one.txt": 1, "in/two.txt": 2}
    assert read_member(path, "in/two.txt") == b"22"
    with pytest.raises(AuditorError, match=r"holds no file “three\.txt”"):
        read_member(path, "three.txt")
    with pytest.raises(AuditorError, match="larger than"):
        read_member(path, "in/two.txt", most=1)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([("../up.txt", b"x")], "outside itself"),
        ([("/etc/passwd", b"x")], "outside itself"),
        ([("a\\..\\b", b"x")], "outside itself"),
        ([("C:evil", b"x")], "outside itself"),
        ([("a.txt", b"x"), ("a.txt", b"y")], "twice"),
        ([("a.txt", b"x"), ("A.TXT", b"y")], "twice"),
        ([(link("a"), b"/etc/passwd")], "is a link"),
        ([("bomb", bytes(20 << 20))], "times its size"),
    ],
)
def test_that_a_harmful_archive_is_refused(tmp_path: Path, entries: list[tuple[str, bytes]], said: str) -> None:
    path = archive(tmp_path / "a.zip", *entries)
    with pytest.raises(AuditorError, match=said):
        members(path)


def test_that_a_damaged_archive_is_told(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", ("one.txt", b"1" * 50))
    whole = path.read_bytes()
    path.write_bytes(whole[:30])
    with pytest.raises(AuditorError, match="not a sound zip"):
        members(path)
    flipped = bytearray(whole)
    flipped[40] ^= 0xFF
    path.write_bytes(bytes(flipped))
    with pytest.raises(AuditorError, match="damaged"):
        read_member(path, "one.txt")


def test_that_a_changed_archive_is_checked_again(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", ("one.txt", b"1"))
    assert read_member(path, "one.txt") == b"1"
    archive(path, ("one.txt", b"12345"))
    assert read_member(path, "one.txt") == b"12345"
