"""Zip archives from anywhere: names, counts, sizes and ratios checked before a member is read."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath

from auditor.base.errors import AuditorError

MAX_MEMBERS = 200_000
MAX_MEMBER_BYTES = 1 << 30
MAX_TOTAL_BYTES = 32 << 30
MAX_RATIO = 100
RATIO_FROM_BYTES = 1 << 20
_HINT = "The archive was not opened; ask its sender for another."


def members(path: Path | str, *, most: int = MAX_MEMBER_BYTES) -> Mapping[str, int]:
    """Names and sizes in bytes of a zip's files, of at most `most` each. AuditorError for an archive that is damaged or
    could do harm."""
    return _members(*_identity(Path(path)), most)


def read_member(path: Path | str, name: str, *, most: int = MAX_MEMBER_BYTES) -> bytes:
    """The bytes of one file of a checked archive, at most `most`. AuditorError if it is not there or damaged."""
    archive = Path(path)
    size = members(archive, most=max(most, MAX_MEMBER_BYTES)).get(name)
    if size is None:
        raise AuditorError(f"“{archive.name}” holds no file “{name}”.", "Check the list that names it.")
    if size > most:
        raise AuditorError(f"“{name}” in “{archive.name}” is larger than {most:,} bytes.", _HINT)
    try:
        with _opened(*_identity(archive)).open(name) as member:
            data = member.read(size + 1)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, EOFError) as error:
        raise AuditorError(f"“{name}” in “{archive.name}” is damaged.", "Copy the archive again.") from error
    if len(data) != size:
        raise AuditorError(f"“{name}” in “{archive.name}” is not as long as the archive says.", _HINT)
    return data


def _identity(path: Path) -> tuple[Path, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise AuditorError(f"There is no archive at “{path}”.", "Check the path.") from error
    return path, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=4)
def _opened(path: Path, size: int, changed: int) -> zipfile.ZipFile:
    # Reading the list of a large archive anew for every member would take longer than the member.
    return zipfile.ZipFile(path)


@lru_cache(maxsize=16)
def _members(path: Path, size: int, changed: int, most: int) -> dict[str, int]:
    # Size and time are arguments so that a changed file is checked again.
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise AuditorError(f"“{path.name}” is not a sound zip archive.", "Copy it again.") from error
    if len(entries) > MAX_MEMBERS:
        raise AuditorError(f"“{path.name}” holds {len(entries):,} files; at most {MAX_MEMBERS:,} are read.", _HINT)
    if sum(entry.file_size for entry in entries) > MAX_TOTAL_BYTES:
        raise AuditorError(f"“{path.name}” would unpack to more than {MAX_TOTAL_BYTES >> 30} GiB.", _HINT)
    found: dict[str, int] = {}
    seen: set[str] = set()
    for entry in entries:
        _check(path, entry, most)
        if entry.filename.casefold() in seen:
            raise AuditorError(f"“{path.name}” holds “{entry.filename}” twice.", _HINT)
        seen.add(entry.filename.casefold())
        if not entry.is_dir():
            found[entry.filename] = entry.file_size
    return found


def _check(path: Path, entry: zipfile.ZipInfo, most: int) -> None:
    name = entry.filename
    parts = PurePosixPath(name).parts
    outside = name.startswith(("/", "\\")) or ".." in parts or "\\" in name or ":" in name or "\x00" in name
    if outside or not name:
        raise AuditorError(f"“{path.name}” names a file outside itself: “{name}”.", _HINT)
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise AuditorError(f"“{name}” in “{path.name}” is a link.", _HINT)
    if entry.flag_bits & 0x1:
        raise AuditorError(f"“{name}” in “{path.name}” is encrypted.", "Decrypt the archive first.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise AuditorError(f"“{name}” in “{path.name}” is packed in an unusual way.", "Pack it as an ordinary zip.")
    if entry.file_size > most:
        raise AuditorError(f"“{name}” in “{path.name}” is larger than {most >> 20} MiB.", _HINT)
    if entry.file_size > RATIO_FROM_BYTES and entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
        raise AuditorError(f"“{name}” in “{path.name}” unpacks to over {MAX_RATIO} times its size.", _HINT)
