"""Starts the window. It imports no torch: the engines load when a job or a read first needs them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from PySide6.QtWidgets import QApplication

from auditor.base.offline import go_offline
from auditor.project import settings
from auditor.ui import theme
from auditor.ui.collector import ShortCollections
from auditor.ui.session import Session
from auditor.ui.window import Window


def main(project: Path | str | None = None, *, shown: Callable[[Window], object] | None = None) -> int:
    """Open the window, on `project` where given, and run until it is closed; the exit status.

    `shown` is called once the window is on screen; it may close it again.
    """
    go_offline()
    app = application()
    session = Session()
    before = sys.excepthook
    sys.excepthook = _tell_bugs_to(session)
    window = Window(session)
    collections = ShortCollections()
    collections.install()
    try:
        if project is not None:
            session.attempt(lambda: session.open_project(project))
        window.show()
        if shown is not None:
            app.processEvents()
            shown(window)
        return app.exec() if window.isVisible() else 0
    finally:
        collections.remove()
        sys.excepthook = before
        session.close()


def application() -> QApplication:
    """The application, dressed as the person left it."""
    held = QApplication.instance()
    app = held if isinstance(held, QApplication) else QApplication(sys.argv[:1])
    app.setApplicationName("Auditor")
    app.setApplicationDisplayName("Auditor")
    app.setDesktopFileName("auditor")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    kept = settings.read()
    name = str(kept.get("theme", _system_theme(app)))
    size = kept.get("text_scale", 100)
    theme.apply(name if name in theme.NAMES else "light", size if isinstance(size, int) else 100)
    return app


def _system_theme(app: QApplication) -> str:
    from PySide6.QtCore import Qt

    return "dark" if app.styleHints().colorScheme() == Qt.ColorScheme.Dark else "light"


def _tell_bugs_to(
    session: Session,
) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """An exception that nobody caught in a slot is shown in the strip, and written to stderr as usual."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        if isinstance(error, Exception):
            session.error(error.with_traceback(trace))

    return hook
