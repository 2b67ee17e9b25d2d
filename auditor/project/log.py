"""The audit log: an append-only file of JSON lines in which each entry carries the digest of the one before.

An entry is {index, time, kind, payload, prev, entry}: `prev` is the digest of the entry before ("" for the first) and
`entry` is the SHA-256 of the canonical JSON of the other five. So a change, a removal, a swap or a cut in the middle
shows as the first entry whose digest does not follow; a cut at the end shows against a head noted elsewhere (the
report prints it and the signature covers it). Times are what this machine's clock claimed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from auditor.base.digest import digest_json
from auditor.base.errors import AuditorError
from auditor.base.files import told

_FIELDS = ("index", "time", "kind", "payload", "prev")


class Log:
    """The log at `path`; `writable` False refuses to append."""

    def __init__(self, path: Path, writable: bool = True) -> None:
        self.path = path
        self.writable = writable
        self._lock = threading.Lock()
        self._last: dict[str, Any] | None = None

    def append(self, kind: str, **payload: Any) -> dict[str, Any]:
        """Add an entry and return it once it is on the disk."""
        if not self.writable:
            raise AuditorError("This project is open for reading only.", "Close it in the other program first.")
        with self._lock:
            last = self._last or self._read_last()
            entry: dict[str, Any] = {
                "index": last["index"] + 1 if last else 0,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "kind": kind,
                "payload": payload,
                "prev": last["entry"] if last else "",
            }
            entry["entry"] = digest_json(entry)
            self._write(json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            self._last = entry
            return entry

    def _write(self, line: bytes) -> None:
        before = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "ab", buffering=0) as file:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, before)  # the next entry must not be glued to half of this one
            raise told(error, self.path) from error

    def entries(self) -> list[dict[str, Any]]:
        """All entries, oldest first; a last line that a kill cut short is left out."""
        return read_entries(self.path.read_bytes()) if self.path.exists() else []

    @property
    def head(self) -> str:
        """The digest of the newest entry, "" where there is none."""
        last = self._last or self._read_last()
        return str(last["entry"]) if last else ""

    def check(self) -> int | None:
        """The index of the first entry that does not follow from the one before, or None where all do."""
        return first_break(self.entries())

    def _read_last(self) -> dict[str, Any] | None:
        entries = self.entries()
        if self.writable and self.path.exists():
            self._drop_torn_line()
        return entries[-1] if entries else None

    def _drop_torn_line(self) -> None:
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(self.path, data.rfind(b"\n") + 1)


def read_entries(data: bytes) -> list[dict[str, Any]]:
    """The entries in the bytes of a log; AuditorError names the line that is not one."""
    lines = data.split(b"\n")[:-1]
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or not {*_FIELDS, "entry"} <= entry.keys():
            raise AuditorError(f"Line {number} of the audit log is not a log entry.", "The log was changed or damaged.")
        entries.append(entry)
    return entries


def first_break(entries: Iterable[dict[str, Any]]) -> int | None:
    """The position of the first entry whose index, `prev` or own digest is not what it must be."""
    prev = ""
    for position, entry in enumerate(entries):
        if entry["index"] != position or entry["prev"] != prev or entry["entry"] != _digest(entry):
            return position
        prev = entry["entry"]
    return None


def _digest(entry: dict[str, Any]) -> str | None:
    try:
        return digest_json({name: entry[name] for name in _FIELDS})
    except (ValueError, RecursionError):
        return None  # NaN, half a character or a depth: nothing that this program wrote
