"""The window's tests run offscreen, with settings of their own, and fail on a left-over thread, timer or widget."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import pytest
from PySide6.QtCore import QCoreApplication, QEvent, QTimer
from PySide6.QtWidgets import QApplication

from auditor.ui import theme
from auditor.ui.session import Session

_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Keep whether the test itself passed, for its teardown."""
    report = yield
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """A window closed after its test does not ask whether a job may stop: nobody would answer. A test that passed must
    not leave one."""
    from auditor.ui.window import Window

    left: list[Window] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Window, "_may_stop", lambda window: not left.append(window))
        done = yield
    assert not (left and item.stash.get(_PASSED, False)), "the test left a job running"
    return done


@pytest.fixture(scope="session")
def qapp() -> QApplication:
    held = QApplication.instance()
    app = held if isinstance(held, QApplication) else QApplication([])
    theme.apply("light", 100)
    return app


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITOR_CONFIG", str(tmp_path / "config"))


@pytest.fixture(autouse=True)
def nothing_left_over(own_settings: None, qapp: QApplication) -> Iterator[None]:
    """Names what a test leaves: running threads of ours, top-level widgets, active timers."""
    widgets_before = {id(widget) for widget in qapp.topLevelWidgets()}
    timers_before = {id(timer) for timer in _timers(qapp)}
    yield
    settle()
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("auditor-")]
    widgets = [widget for widget in qapp.topLevelWidgets() if id(widget) not in widgets_before]
    timers = [timer for timer in _timers(qapp) if id(timer) not in timers_before]
    names = [f"{type(w).__name__} {w.objectName()}" for w in widgets if type(w).__module__.startswith("auditor")]
    assert not threads, f"threads left running: {threads}"
    assert not names, f"widgets left over: {names}"
    assert not timers, f"timers left running: {[timer.parent() for timer in timers]}"
    if theme.name() != "light" or theme.scale() != 100:
        theme.apply("light", 100)


@pytest.fixture
def session(qapp: QApplication) -> Iterator[Session]:
    """A session without a project; its threads end with the test."""
    made = Session()
    yield made
    made.close()
    made.deleteLater()
    settle()


@pytest.fixture
def project_session(session: Session, tmp_path: Path) -> Session:
    """A session on an empty new project."""
    session.create_project(tmp_path / "project", "Padlock audit")
    return session


def settle() -> None:
    """Let deferred deletions happen."""
    gc.collect()
    for _ in range(3):
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        QCoreApplication.processEvents()


def _timers(app: QApplication) -> list[QTimer]:
    owners = [app, *app.topLevelWidgets()]
    return [timer for owner in owners for timer in owner.findChildren(QTimer) if timer.isActive()]
