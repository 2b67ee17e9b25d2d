"""Writing to a disk that may be full: again once there is room, or one sentence that says how much is missing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from auditor.base.errors import AuditorError
from auditor.base.files import existing, full_disk, full_disk_behind

_LEAST_ROOM = 1 << 20
T = TypeVar("T")


class FullDisk(AuditorError):
    """There is no room for `needed` bytes that are to be written; `missing` more must be free. `again`: there was none
    before either."""

    def __init__(self, message: str, hint: str, needed: int, missing: int) -> None:
        super().__init__(message, hint)
        self.needed, self.missing, self.again = needed, missing, False


class Disk:
    """The disk under the file or folder `path`, which is being made; `safe` says what of it cannot be lost any more.
    `seconds` went into writing so far.

    `when_full` is called with a FullDisk error, as often as needed, and returns when to try again.
    """

    def __init__(self, path: Path, safe: Callable[[], str], when_full: Callable[[FullDisk], None] | None) -> None:
        self.when_full, self.seconds = when_full, 0.0
        self._path, self._safe = path, safe

    def surely(self, action: Callable[[], T], needed: int = 0) -> T:
        """What `action` gives, which writes `needed` bytes; it is called again after a full disk. AuditorError where
        the disk is full and nobody waits for it, or is not there."""
        again = False
        while True:
            begun = time.monotonic()
            try:
                return action()
            except (OSError, AuditorError) as error:
                cause = full_disk_behind(error) or (error if isinstance(error, OSError) else error.__cause__)
                if not isinstance(cause, OSError):
                    raise
                told = self._told(cause, needed)
                if not isinstance(told, FullDisk) or self.when_full is None:
                    raise told from cause
            finally:
                self.seconds += time.monotonic() - begun
            told.again, again = again, True
            self.when_full(told)

    def _told(self, error: OSError, needed: int) -> AuditorError:
        name, safe = self._path.name, self._safe()
        if not full_disk(error):
            return AuditorError(
                f"“{name}” cannot be written ({error.strerror}); {safe}.",
                "Is the disk or stick still there, and may you write to it? Then start again: it goes on.",
            )
        folder = existing(self._path.parent)
        free, needed = shutil.disk_usage(existing(self._path)).free, max(needed, _LEAST_ROOM)
        missing = max(needed - free, _LEAST_ROOM)
        return FullDisk(
            f"The disk is full: “{name}” needs {_size(needed)} and {_size(free)} are free in {folder}; {safe}.",
            f"Free at least {_size(missing)} more, then start again: it goes on.",
            needed,
            missing,
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
