"""Pictures of the four layouts on a project, in light and dark, made without a display."""

from __future__ import annotations

import os
import time
from pathlib import Path

from PySide6.QtWidgets import QApplication

from auditor.ui import theme
from auditor.ui.panes import LAYOUTS
from auditor.ui.session import Session
from auditor.ui.window import Window

_SIZE = (1280, 720)
_WAIT_S = 60.0


def take(project: Path, folder: Path, *, themes: tuple[str, ...] = ("light", "dark")) -> list[Path]:
    """Write LAYOUT-THEME.png for every layout into `folder`, each once its reads have arrived; the paths."""
    if QApplication.instance() is None:
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        QApplication([])
    theme.apply("light")
    folder.mkdir(parents=True, exist_ok=True)
    session = Session()
    window = Window(session)
    window.resize(*_SIZE)
    try:
        window.load_commands()
        session.open_project(project)
        window.show()
        return [_grab(window, layout, name, folder) for layout in LAYOUTS for name in themes]
    finally:
        window.close()
        session.close()
        window.deleteLater()
        session.deleteLater()
        theme.apply("light")


def _grab(window: Window, layout: str, name: str, folder: Path) -> Path:
    theme.apply(name)
    window.show_layout(layout)
    window.reset_layout()
    until = time.monotonic() + _WAIT_S
    QApplication.processEvents()
    while window.session.busy and time.monotonic() < until:
        QApplication.processEvents()
        time.sleep(0.01)
    for _ in range(5):
        QApplication.processEvents()
    path = folder / f"{layout}-{name}.png"
    if not window.grab().save(str(path)):
        raise OSError(f"{path} could not be written")
    return path
