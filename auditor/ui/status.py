"""The status bar: device and memory, the air gap with what is known of it, and the state of the case."""

from __future__ import annotations

import sys

import psutil
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QStatusBar, QWidget

from auditor.base.offline import levels
from auditor.ui.session import Session
from auditor.ui.widgets.numbers import figure
from auditor.ui.widgets.plain_text import PlainLabel

_EVERY_MS = 3000
_GB = 1e9


class Status(QStatusBar):
    """Three lasting facts; each says on hover where it comes from."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.setSizeGripEnabled(False)
        self.device = PlainLabel()
        self.gap = PlainLabel()
        self.case = PlainLabel()
        self.project = PlainLabel()
        for label in (self.device, self.gap, self.case):
            self.addWidget(label)
        self.addPermanentWidget(self.project)
        self._timer = QTimer(self)
        self._timer.setInterval(_EVERY_MS)
        self._timer.timeout.connect(self.look)
        self._timer.start()
        session.status_changed.connect(self._told)
        session.project_changed.connect(self.look)
        self._told("case", session.status.get("case", ""))
        self.look()

    def look(self) -> None:
        """Read the machine again: microseconds, so it may run in the GUI thread."""
        self.device.setText(device_text())
        memory = psutil.virtual_memory()
        self.device.set_tip(
            f"This program uses {figure(psutil.Process().memory_info().rss / _GB, 'GB')}; "
            f"{figure(memory.available / _GB, 'GB')} of {figure(memory.total / _GB, 'GB')} are free."
        )
        walls = levels()
        holding = "·".join(str(wall.number) for wall in walls if wall.holds)
        open_ = "·".join(str(wall.number) for wall in walls if not wall.holds)
        self.gap.setText(f"air gap: verified {holding or 'none'}" + (f", open {open_}" if open_ else ""))
        self.gap.set_role("good" if not open_ else "" if holding else "warn")
        self.gap.set_tip(
            "\n".join(f"{w.number} {w.name}: {'holds' if w.holds else 'open'} ({w.detail})" for w in walls)
        )
        project = self._session.project
        self.project.setText("" if project is None else project.name if project.writable else f"{project.name} (read)")

    def _told(self, name: str, text: str) -> None:
        if name == "case":
            self.case.setText(f"case: {text or 'none'}")


def device_text() -> str:
    """The device in use and its memory. Asks torch only where a job has already loaded it."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and getattr(cuda, "is_initialized", lambda: False)():
        free, total = cuda.mem_get_info()
        return f"cuda:0 {cuda.get_device_name(0)} · {(total - free) / _GB:.0f}/{total / _GB:.0f} GB"
    memory = psutil.virtual_memory()
    used = (memory.total - memory.available) / _GB
    return f"cpu, {psutil.cpu_count()} cores · {used:.1f}/{memory.total / _GB:.0f} GB"
