"""Work whose disk is full waits until there is room, and tells how much is missing."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from auditor.base.files import existing
from auditor.base.reporter import Reporter
from auditor.store.disk import FullDisk

_LOOK_S = 0.25
# A quota or a file-size limit shows in no figure of free room: only trying tells that it is gone.
_TRY_S = 10.0


class UntilRoom:
    """What is called where something to be written in `folder` finds the disk full. `done` of `total` units is where
    the work is; `seconds` were waited so far, pauses left out."""

    def __init__(self, folder: Path, reporter: Reporter, total: int, unit: str = "samples") -> None:
        self._folder, self._reporter, self._unit = folder, reporter, unit
        self.done, self.total, self.seconds = 0, total, 0.0

    def __call__(self, full: FullDisk) -> None:
        """Wait until there is room, or the person resumes, or it is time to try again. Stop when cancelled."""
        begun, folder = time.monotonic(), existing(self._folder)
        rested = self._reporter.rested
        note = f"waiting: the disk is full, {full.missing / 1e6:.1f} MB more must be free in {folder}"
        if not full.again:
            told = {"message": f"{full.message} It goes on by itself once there is room.", "folder": str(folder)}
            self._reporter.partial("disk_full", needed=full.needed, missing=full.missing, step=self.done, **told)
        try:
            while time.monotonic() - begun < _TRY_S:
                checked = time.monotonic()
                self._reporter.step(self.done, self.total, note, self._unit)
                resumed = time.monotonic() - checked > _LOOK_S  # it was paused just now
                time.sleep(_LOOK_S)
                if resumed or shutil.disk_usage(folder).free >= full.needed:
                    break
            self._reporter.step(self.done, self.total, "the disk is tried again", self._unit)
        finally:
            self.seconds += time.monotonic() - begun - (self._reporter.rested - rested)
