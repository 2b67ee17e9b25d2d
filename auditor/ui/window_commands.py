"""The commands of the window itself: projects, undo, layouts, themes, text size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from PySide6.QtWidgets import QFileDialog, QWidget

import auditor
from auditor.base.paths import build
from auditor.base.reporter import Reporter
from auditor.project import settings
from auditor.ui import theme
from auditor.ui.commands import Command
from auditor.ui.leaving import may_leave
from auditor.ui.panes import LAYOUTS, PANES
from auditor.ui.session import Session


class Shell(Protocol):
    """What these commands need of the window."""

    def open_palette(self) -> None: ...
    def show_layout(self, name: str) -> None: ...
    def reset_layout(self) -> None: ...
    def close(self) -> bool: ...
    @property
    def layout_name(self) -> str: ...


def commands(session: Session, shell: Shell, parent: QWidget) -> list[Command]:
    """All of them, in the order of the menus."""
    return [*_file(session, shell, parent), *_edit(session, shell), *_view(session, shell), *_help(session)]


def dress(name: str = "", text_scale: int = 0) -> None:
    """Change theme or text size and remember it."""
    theme.apply(name or theme.name(), text_scale or theme.scale())
    settings.write(theme=theme.name(), text_scale=theme.scale())


def _file(session: Session, shell: Shell, parent: QWidget) -> list[Command]:
    def new() -> None:
        chosen, _ = QFileDialog.getSaveFileName(parent, "New project: name its folder", str(Path.home()))
        if chosen and may_leave(session, parent):
            session.create_project(Path(chosen))

    def open_() -> None:
        chosen = QFileDialog.getExistingDirectory(parent, "Open a project's folder", str(Path.home()))
        if chosen and may_leave(session, parent):
            session.open_project(Path(chosen))

    def close() -> None:
        if may_leave(session, parent):
            session.close_project()

    def take(chosen: str) -> None:
        if chosen:
            session.offer_path(Path(chosen))

    def sample() -> None:
        if may_leave(session, parent):
            open_sample(session, parent)

    return [
        Command(id="file.new", title="New project…", keys="Ctrl+N", menu="File", icon="folder-plus", run=new),
        Command(id="file.open", title="Open project…", keys="Ctrl+O", menu="File", icon="folder-open", run=open_),
        Command(id="file.sample", title="Open the sample audit", menu="File", icon="play",
                run=sample),
        Command(id="file.add-folder", title="Add a folder to the project…", keys="Ctrl+Shift+O", needs="writable",
                menu="File", icon="plus", help="A model, images, a store, a dictionary or an index.",
                run=lambda: take(QFileDialog.getExistingDirectory(parent, "Add a folder", str(Path.home())))),
        Command(id="file.add-file", title="Add a file to the project…", needs="writable", menu="File", icon="plus",
                help="Samples, GGUF weights or a bundle.",
                run=lambda: take(QFileDialog.getOpenFileName(parent, "Add a file", str(Path.home()))[0])),
        Command(id="file.close", title="Close project", keys="Ctrl+W", needs="project", menu="File", icon="x",
                run=close),
        Command(id="file.quit", title="Quit", keys="Ctrl+Q", menu="File", run=shell.close),
    ]  # fmt: skip


def open_sample(session: Session, parent: QWidget) -> None:
    """Unpack the sample audit where that has not been done, and open it."""
    folder = build() / "sample-audit" / "project"
    if session.project is not None and session.project.folder == folder:
        return

    def work(reporter: Reporter) -> dict[str, Any]:
        from auditor.tasks.sample_audit import prepare

        prepare(folder, reporter).close()
        return {}

    live = session.run("Prepare the sample audit", work)

    def show() -> None:
        if may_leave(session, parent):  # another job may have begun meanwhile
            session.attempt(lambda: session.open_project(folder))

    live.done.connect(lambda _: show())


def _edit(session: Session, shell: Shell) -> list[Command]:
    return [
        Command(id="edit.undo", title="Undo", keys="Ctrl+Z", needs="undo", menu="Edit", icon="undo-2",
                run=session.undo.undo),
        Command(id="edit.redo", title="Redo", keys="Ctrl+Shift+Z", needs="redo", menu="Edit", icon="redo-2",
                run=session.undo.redo),
        Command(id="edit.find", title="Find anything…", keys="Ctrl+K", menu="Edit", icon="search",
                run=shell.open_palette),
    ]  # fmt: skip


def _view(session: Session, shell: Shell) -> list[Command]:
    made = [
        Command(id="view.back", title="Back", keys="Alt+Left", needs="back", menu="View", icon="arrow-left",
                run=session.back),
        Command(id="view.forward", title="Forward", keys="Alt+Right", needs="forward", menu="View",
                icon="arrow-right", run=session.forward),
    ]  # fmt: skip
    for number, (name, title) in enumerate(LAYOUTS.items(), start=1):
        made.append(
            Command(id=f"view.layout.{name}", title=f"Layout: {title}", keys=f"Ctrl+{number}", needs="project",
                    menu="View", run=_call(shell.show_layout, name), checked=_is(shell, name))
        )  # fmt: skip
    made.append(
        Command(id="view.reset", title="Reset this layout", needs="project", menu="View", icon="rotate-ccw",
                run=shell.reset_layout)
    )  # fmt: skip
    for entry in PANES:
        made.append(
            Command(id=f"view.pane.{entry.id}", title=f"Pane: {entry.title}", needs="project", menu="View",
                    run=_call(session.open_pane, entry.id), help="Brings it to the front, also where it was closed.")
        )  # fmt: skip
    for name in theme.NAMES:
        title = f"Theme: {theme.tokens()['themes'][name]['title'].lower()}"
        made.append(
            Command(id=f"view.theme.{name}", title=title, menu="View", run=_call(dress, name), checked=_worn(name))
        )
    return [
        *made,
        Command(id="view.larger", title="Larger text", keys="Ctrl++", menu="View", icon="plus",
                run=lambda: dress(text_scale=_next(1))),
        Command(id="view.smaller", title="Smaller text", keys="Ctrl+-", menu="View", icon="minus",
                run=lambda: dress(text_scale=_next(-1))),
        Command(id="view.normal", title="Normal text", keys="Ctrl+0", menu="View", run=lambda: dress(text_scale=100)),
    ]  # fmt: skip


def _help(session: Session) -> list[Command]:
    def about() -> None:
        session.say(f"Auditor {auditor.__version__}, Apache-2.0. It runs on this machine alone.", "good")

    return [Command(id="help.about", title="About Auditor", menu="Help", icon="info", run=about)]


def _next(step: int) -> int:
    near = min(theme.SCALES, key=lambda size: abs(size - theme.scale()))
    at = theme.SCALES.index(near) + step
    return theme.SCALES[min(len(theme.SCALES) - 1, max(0, at))]


def _call(function: Callable[[str], object], name: str) -> Callable[[], object]:
    return lambda: function(name)


def _is(shell: Shell, name: str) -> Callable[[], bool]:
    return lambda: shell.layout_name == name


def _worn(name: str) -> Callable[[], bool]:
    return lambda: theme.name() == name
