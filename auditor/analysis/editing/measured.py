"""What a sweep of edits has measured so far, kept in a file, so that one that was stopped or killed goes on from there.

A line of JSON for each batch, in the order in which the sweep measures. What a kill left half of the last line is
measured again.
"""

from __future__ import annotations

import json
import math
import os
import time
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from auditor.base.files import told

_SYNC_SECONDS = 2.0


class Measured:
    """Effects in the order of the sweep (sample, edit, the edit itself before its controls), as far as the file at
    `path` holds them; without a path they are held in memory alone. A full disk is an AuditorError."""

    def __init__(self, path: Path | None = None) -> None:
        self._path, self._synced = path, 0.0
        self._values = array("d")
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
        end = 0
        try:
            with open(path, "r+b") as file:
                for line in file:
                    found = _read(line)
                    if found is None:
                        break
                    self._values.extend(found)
                    end += len(line)
                file.truncate(end)
        except OSError as error:
            raise told(error, path) from error


def _read(line: bytes) -> list[float] | None:
    """The numbers of a line; None where it is cut short or holds anything else."""
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    whole = isinstance(found, list) and all(type(value) is float and math.isfinite(value) for value in found)
    return found if whole else None
