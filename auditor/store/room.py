"""A recording whose disk is full waits until there is room, and tells how much is missing."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from auditor.base.reporter import Reporter
from auditor.store.disk import FullDisk

_LOOK_S = 0.25
# A quota or a file-size limit shows in no figure of free room: only trying tells that it is gone.
_TRY_S = 10.0


class UntilRoom:
    """What a `StoreWriter` calls when the disk is full. `done` of `total` samples is where the recording is."""

    def __init__(self, folder: Path, reporter: Reporter, total: int) -> None:
        self._folder, self._reporter = folder, reporter
        self.done, self.total, self.seconds = 0, total, 0.0

    def __call__(self, full: FullDisk) -> None:
        """Wait until there is room, or the person resumes, or it is time to try again. Stop when cancelled."""
        begun = time.monotonic()
        note = f"waiting: the disk is full, {full.missing / 1e6:.1f} MB more must be free"
        self._reporter.partial("disk_full", message=full.message, missing=full.missing)
        while time.monotonic() - begun < _TRY_S:
            checked = time.monotonic()
            self._reporter.step(self.done, self.total, note, "samples")
            resumed = time.monotonic() - checked > _LOOK_S  # it was paused just now
            time.sleep(_LOOK_S)
            if resumed or shutil.disk_usage(self._folder).free >= full.needed:
                break
        self.seconds += time.monotonic() - begun
