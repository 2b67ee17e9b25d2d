"""What a sweep of edits has measured so far, kept in a file, so that one that was stopped or killed goes on from there.

Lines of JSON: how many values the whole sweep has, and by what they are measured, then a list for each batch, in the
order in which the sweep measures. What a kill left half of the last line is measured again.
"""

from __future__ import annotations

import json
import math
import os
import time
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.base.errors import AuditorError
from auditor.base.files import told

_WHOLE, _BY = "values", "by"
_SYNC_SECONDS = 2.0
_LONGEST = 16 << 20  # bytes of a line: a damaged file may be one of any length


class Measured:
    """Effects in the order of the sweep (sample, edit, the edit itself before its controls), as far as the file at
    `path` holds them; without a path they are held in memory alone. The file tells that they are `whole` in all, and
    `by` what they are measured: plain values; of a file that is there already what it tells, none where an earlier
    version wrote it. A full disk, and a link in the file's place, are an AuditorError."""

    def __init__(self, path: Path | None = None, whole: int = 0, by: Mapping[str, Any] | None = None) -> None:
        self._path, self._whole, self._synced = path, whole, 0.0
        self.by: Mapping[str, Any] = by or {}
        self._values = array("d")
        if path is not None and path.is_symlink():  # what it leads to is not ours to cut
            raise AuditorError(f"“{path.name}” is a link, which is not followed.", "Remove it, then start again.")
        if path is not None and path.is_file():
            self._take(path)

    def __len__(self) -> int:
        return len(self._values)

    def values(self) -> NDArray[np.float64]:
        """float64 [values so far]."""
        return np.array(self._values)

    def add(self, values: Sequence[float]) -> None:
        """Keep a batch."""
        self._values.extend(values)
        if self._path is None:
            return
        try:
            with open(self._path, "ab") as file:
                if self._whole and not file.tell():
                    file.write(json.dumps({_WHOLE: self._whole, _BY: self.by}).encode() + b"\n")
                file.write(json.dumps(list(values)).encode() + b"\n")
                if time.monotonic() - self._synced > _SYNC_SECONDS:
                    file.flush()
                    os.fsync(file.fileno())
                    self._synced = time.monotonic()
        except OSError as error:
            raise told(error, self._path) from error

    def forget(self) -> None:
        """Remove the file: the whole is kept elsewhere."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _take(self, path: Path) -> None:
        end, by = 0, dict[str, Any]()
        try:
            with open(path, "r+b") as file:
                while line := file.readline(_LONGEST):
                    found = _read(line)
                    if found is None:
                        break
                    if isinstance(found, list):
                        self._values.extend(found)
                    else:
                        by = found.get(_BY, {})
                    end += len(line)
                file.truncate(end if self._values else 0)  # who measures the first value says by what
        except OSError as error:
            raise told(error, path) from error
        if self._values:
            self.by = by


def reached(path: Path) -> tuple[int, int]:
    """How many values the file at `path` holds, of how many (0: it does not say). AuditorError where it cannot be
    read."""
    held, whole = 0, 0
    try:
        with open(path, "rb") as file:
            while line := file.readline(_LONGEST):
                found = _read(line)
                if found is None:
                    break
                held, whole = (held + len(found), whole) if isinstance(found, list) else (held, found[_WHOLE])
    except OSError as error:
        raise AuditorError(f"“{path.name}” cannot be read ({error.strerror}).", "Check the disk.") from error
    return held, whole


def measured_by(path: Path) -> Mapping[str, Any]:
    """By what the file at `path` was measured, as it tells; nothing where it does not, or cannot be read."""
    try:
        with open(path, "rb") as file:
            first, second = _read(file.readline(_LONGEST)), _read(file.readline(_LONGEST))
    except OSError:
        return {}
    by: Mapping[str, Any] = first.get(_BY, {}) if isinstance(first, dict) and isinstance(second, list) else {}
    return by


def _read(line: bytes) -> list[float] | dict[str, Any] | None:
    """The numbers of a line, or how many there are to be and by what; None where it is cut short or holds anything
    else."""
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict):
        fits = {_WHOLE} <= found.keys() <= {_WHOLE, _BY} and type(found[_WHOLE]) is int
        return found if fits and isinstance(found.get(_BY, {}), dict) else None
    whole = isinstance(found, list) and all(type(value) is float and math.isfinite(value) for value in found)
    return found if whole else None
