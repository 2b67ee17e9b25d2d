"""Pictures of every pane on a project, in light and dark, made without a display."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PySide6.QtWidgets import QApplication

from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.session import Session
from auditor.ui.window import Window

# What a picture is called, the layout it shows, and the pane that is in front.
_SHOTS = (
    ("explore", "explore", "features"),
    ("record", "train", "recording"),
    ("train", "train", "training"),
    ("store", "train", "store"),
    ("circuit", "circuit", "circuits"),
    ("case", "case", "case"),
)
_SIZE = (1280, 720)
_WAIT_S = 60.0


def take(project: Path, folder: Path, *, themes: tuple[str, ...] = ("light", "dark")) -> list[Path]:
    """Write start-THEME.png, explore-…, record-…, train-…, store-…, circuit-… and case-… into `folder`, once the reads
    have arrived; the paths."""
    with _opened(folder) as (session, window):
        taken = [_grab(window, "start", name, folder) for name in themes]
        session.open_project(project)
        _settle(window)
        _choose_feature(session)
        for shot, layout, pane in _SHOTS:
            for name in themes:
                theme.apply(name)
                window.show_layout(layout)
                window.reset_layout()
                session.open_pane(pane)
                taken.append(_grab(window, shot, name, folder))
        return taken


def take_training(
    project: Path, folder: Path, settings: Mapping[str, Any], *, at: float = 0.6,
    themes: tuple[str, ...] = ("light", "dark"),
) -> list[Path]:  # fmt: skip
    """Train a dictionary with `settings` in the window on `project`, and write training-THEME.png into `folder` where
    that part of its steps is done, and trained-THEME.png at its end; the paths. AuditorError where it fails."""
    from auditor.ui.panes.training import Training

    with _opened(folder) as (session, window):
        session.open_project(project)
        window.show_layout("train")
        window.reset_layout()
        pane = session.open_pane("training")
        assert isinstance(pane, Training)
        _settle(window)
        pane.form.set_all(settings)
        pane.start()
        live = session.jobs[-1]
        _wait(lambda: not live.live or (live.share or 0.0) >= at)
        taken = []
        for name in themes:
            theme.apply(name)
            _wait(lambda: not live.live, 0.5)
            taken.append(_grab_now(window, "training", name, folder))
        _wait(lambda: not live.live)
        if live.outcome != "done":
            raise AuditorError(live.message or "The training was stopped.", live.hint)
        _settle(window)
        return [*taken, *(_grab(window, "trained", name, folder) for name in themes)]


@contextmanager
def _opened(folder: Path) -> Iterator[tuple[Session, Window]]:
    """A window of the size of the pictures, light, and its session; both closed in the end. Makes `folder`."""
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
        window.show()
        yield session, window
    finally:
        window.close()
        session.close()
        window.deleteLater()
        session.deleteLater()
        theme.apply("light")


def _wait(done: Callable[[], bool], seconds: float = 3600.0) -> None:
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        QApplication.processEvents()
        time.sleep(0.01)


def _grab(window: Window, shot: str, name: str, folder: Path) -> Path:
    theme.apply(name)
    _settle(window)
    return _grab_now(window, shot, name, folder)


def _grab_now(window: Window, shot: str, name: str, folder: Path) -> Path:
    path = folder / f"{shot}-{name}.png"
    if not window.grab().save(str(path)):
        raise OSError(f"{path} could not be written")
    return path


def _settle(window: Window) -> None:
    """Let everything that is being read arrive."""
    until = time.monotonic() + _WAIT_S
    QApplication.processEvents()
    while window.session.busy and time.monotonic() < until:
        QApplication.processEvents()
        time.sleep(0.01)
    for _ in range(5):
        QApplication.processEvents()


def _choose_feature(session: Session) -> None:
    """The feature that the case's first finding is about, so that the pictures show one."""
    from auditor.audit.case import Case

    cases = session.artefacts("case")
    findings = Case.load(cases[-1].path).findings if cases else ()
    for finding in findings:
        hook, name = finding.location.get("hook point", ""), finding.location.get("feature", "")
        for dictionary in session.artefacts("dictionary"):
            if dictionary.meta.get("hook") == hook and name.split()[-1:] and name.split()[-1].isdigit():
                session.select_feature(dictionary.id, int(name.split()[-1]))
                return
