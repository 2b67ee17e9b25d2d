"""The main window: top bar with menus, search and layouts; docks with panes; message strip; status bar."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PySide6.QtCore import QEvent, Qt, QTimer
from PySide6.QtGui import (
    QAction,
    QCloseEvent,
    QDragEnterEvent,
    QDropEvent,
    QKeySequence,
    QResizeEvent,
    QShowEvent,
)
from PySide6.QtWidgets import QHBoxLayout, QMainWindow, QMenu, QMenuBar, QPushButton, QWidget

from auditor.base.errors import AuditorError
from auditor.project.project import is_project
from auditor.ui import theme, window_commands
from auditor.ui.commands import MENUS, Command
from auditor.ui.docks import Docks
from auditor.ui.leaving import may_leave
from auditor.ui.messages import Strip
from auditor.ui.palette import Palette
from auditor.ui.panes import LAYOUTS
from auditor.ui.panes.start import Start
from auditor.ui.session import Session
from auditor.ui.status import Status
from auditor.ui.widgets.controls import box, column, row, tool
from auditor.ui.widgets.drops import Drops
from auditor.ui.widgets.plain_text import menu_text, tooltip

_ONE_LINE = 125
# At which each pane has the room that it needs beside the rail of the project.
_NARROWEST, _LOWEST = 1000, 600
_WATCHED = (QEvent.Type.MouseButtonPress, QEvent.Type.MouseButtonRelease, QEvent.Type.LayoutRequest)
_THEME_ICONS = {"light": "sun", "dark": "moon", "contrast": "contrast"}


class Window(QMainWindow):
    """One window on one session."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.setWindowTitle("Auditor")
        self.resize(1280, 720)
        self._bound()
        self._scale = theme.scale()
        self._actions: dict[str, QAction] = {}
        self._tabs: dict[str, QPushButton] = {}
        self._drops = Drops()
        self.setAcceptDrops(True)
        self.docks = Docks(self, session)
        session.commands.add(*window_commands.commands(session, self, self))
        self._menu_bar = QMenuBar()
        self._menu_bar.setNativeMenuBar(False)
        self.setMenuWidget(box(column(self._top_bar(), gap="")))
        self.start = Start(session)
        self.setCentralWidget(self.start)
        self.setStatusBar(Status(session))
        self.strip = Strip(session, self)
        for dock in self.docks.docks.values():
            dock.raised.connect(self.strip.raise_)
        self.palette_frame = Palette(session, self)
        self._connect()
        self._fill_menus()
        self._project_changed()
        self._loader = QTimer(self)
        self._loader.setInterval(1)
        self._loader.timeout.connect(self._load_one)
        self._loader.start()

    @property
    def layout_name(self) -> str:
        """The layout in view: explore, train, circuit or case; empty without a project."""
        return self.docks.layout

    def show_layout(self, name: str) -> None:
        """Bring one of the four layouts."""
        if self.session.project is None:
            return
        before = self.focusWidget()
        self.docks.save()
        self.docks.show_layout(name)
        if self.focusWidget() is not before:  # it was in a pane that is gone; Qt would ring the next button
            self.setFocus()
        self._mark()

    def reset_layout(self) -> None:
        """Put the present layout back as it is designed."""
        self.docks.reset()

    def open_palette(self) -> None:
        """Show Ctrl+K over the window."""
        self.palette_frame.open()

    def load_commands(self) -> None:
        """Load the commands of every pane now, not one by one between events."""
        self.docks.load_commands()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.setFocus()

    def event(self, event: QEvent) -> bool:
        if event.type() in _WATCHED:
            self.docks.watch(event)
        return super().event(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.docks.fit()
        self.strip.place()

    def closeEvent(self, event: QCloseEvent) -> None:
        if self.session.has("job") and not self._may_stop():
            event.ignore()
            return
        self.docks.save()
        self._loader.stop()
        event.accept()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if self._drops.enter(event):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """What no pane takes itself."""
        for path in self._drops.take(event):
            event.acceptProposedAction()
            self.session.read(f"window.dropped {path}", partial(is_project, path), partial(self._arrived, path))

    def _arrived(self, path: Path, project: bool) -> None:
        """Open a project in place of the present one; take anything else into it."""
        if project:
            if may_leave(self.session, self):
                self.session.attempt(lambda: self.session.open_project(path))
        elif self.session.project is not None:
            self.session.offer_path(path)
        else:
            self.session.error(AuditorError(
                f"No project is open that could take “{path.name}” in.", "Make or open one, then drop it again."
            ))  # fmt: skip

    def _may_stop(self) -> bool:
        return may_leave(self.session, self)

    def _connect(self) -> None:
        session = self.session
        session.pane_of = self.docks.pane
        session.built = lambda name: self.docks.docks[name].build()
        session.project_changed.connect(self._project_changed)
        session.needs_changed.connect(self._mark)
        session.commands.changed.connect(self._fill_menus)
        session.layout_wanted.connect(self.show_layout)
        theme.signals.changed.connect(self._dressed)

    def _project_changed(self) -> None:
        project = self.session.project
        self.setWindowTitle("Auditor" if project is None else f"{project.name} – Auditor")
        if project is None:
            self.docks.hide_all()
            self.start.refresh()
            self.start.show()
        else:
            self.start.hide()
            self.docks.layout = ""
            self.docks.show_layout(self.docks.remembered())
            self.setFocus()
        self._mark()

    def _top_bar(self) -> QWidget:
        self._search = QPushButton("Search features, artefacts, commands, help …  Ctrl+K")
        self._search.setObjectName("searchField")
        self._search.setAccessibleName("Search everything")
        self._search.setMinimumWidth(theme.px(160))
        self._search.clicked.connect(lambda: self.open_palette())
        theme.set_icon(self._search, "search", "muted", 14)
        self._back = tool("arrow-left", "Back (Alt+Left)", self.session.back)
        self._forward = tool("arrow-right", "Forward (Alt+Right)", self.session.forward)
        self._theme = tool(_THEME_ICONS[theme.name()], "Change theme", self._next_theme)
        for number, (name, title) in enumerate(LAYOUTS.items(), start=1):
            tab = QPushButton(menu_text(title))
            tab.setObjectName("layoutTab")
            tab.setCheckable(True)
            tab.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            tab.setToolTip(tooltip(f"{title} (Ctrl+{number})"))
            tab.clicked.connect(lambda _=False, name=name: self._tab(name))
            self._tabs[name] = tab
        self._bar_lines = column(gap="tight")
        self._bar_lines.setContentsMargins(theme.px(4), theme.px(4), theme.px(8), theme.px(4))
        self._place_bar()
        bar = box(self._bar_lines, "topBar")
        bar.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        return bar

    def _place_bar(self) -> None:
        """Everything in one line, or in two where the text is large."""
        for old in (self._bar_lines.takeAt(0) for _ in range(self._bar_lines.count())):
            if old is not None and (line := old.layout()) is not None:
                while line.takeAt(0) is not None:
                    pass
        ends = (self._back, self._forward, self._theme)
        if theme.scale() <= _ONE_LINE:
            self._bar_lines.addLayout(row(self._menu_bar, *self._tabs.values(), self._search, *ends))
        else:
            self._bar_lines.addLayout(row(self._menu_bar, None, *ends))
            self._bar_lines.addLayout(row(*self._tabs.values(), self._search))
        last = self._bar_lines.itemAt(self._bar_lines.count() - 1)
        line = last.layout() if last is not None else None
        if isinstance(line, QHBoxLayout):
            line.setStretchFactor(self._search, 1)

    def _tab(self, name: str) -> None:
        self.show_layout(name)
        self._mark()

    def _bound(self) -> None:
        """Be no smaller than what is in it at the size of the text, as far as the screen is large enough."""
        there = self.screen().availableGeometry()
        self.setMinimumSize(min(theme.px(_NARROWEST), there.width()), min(_LOWEST, there.height()))

    def _next_theme(self) -> None:
        at = theme.NAMES.index(theme.name())
        window_commands.dress(theme.NAMES[(at + 1) % len(theme.NAMES)])

    def _dressed(self) -> None:
        theme.set_icon(self._theme, _THEME_ICONS[theme.name()])
        if theme.scale() != self._scale:
            self._scale = theme.scale()
            self._bound()
            self._place_bar()
            self.strip.panes_made_anew()
            for dock in self.docks.docks.values():
                dock.rebuild()
        self._mark()

    def _load_one(self) -> None:
        if not self.docks.load_command():
            self._loader.stop()

    def _fill_menus(self) -> None:
        for command in self.session.commands.all():
            if command.id not in self._actions:
                self._actions[command.id] = self._action(command)
        self._menu_bar.clear()
        for old in self._menu_bar.findChildren(QMenu):
            old.deleteLater()
        for title in MENUS:
            entries = [c for c in self.session.commands.all() if c.menu == title]
            if entries:
                menu = QMenu(title, self._menu_bar)
                self._menu_bar.addMenu(menu)
                self._fill_menu(menu, entries)
        self._mark()

    def _fill_menu(self, menu: QMenu, entries: list[Command]) -> None:
        group = ""
        for command in entries:
            head = command.id.rsplit(".", 1)[0]
            if group and head != group:
                menu.addSeparator()
            group = head
            menu.addAction(self._actions[command.id])

    def _action(self, command: Command) -> QAction:
        action = QAction(menu_text(command.title), self)
        if command.keys:
            action.setShortcut(QKeySequence(command.keys))
        if command.icon:
            theme.set_icon(action, command.icon)
        if command.help:
            action.setToolTip(tooltip(command.help))
        action.setCheckable(command.checked is not None)
        action.triggered.connect(lambda _=False: self.session.commands.run(command.id))
        self.addAction(action)
        return action

    def _mark(self) -> None:
        """Grey what cannot be done now and tick what is on."""
        for command in self.session.commands.all():
            action = self._actions.get(command.id)
            if action is not None:
                action.setEnabled(self.session.commands.usable(command))
                if command.checked is not None:
                    action.setChecked(command.checked())
        for name, tab in self._tabs.items():
            tab.setChecked(name == self.docks.layout)
            tab.setEnabled(self.session.project is not None)
        self._back.setEnabled(self.session.can_go_back)
        self._forward.setEnabled(self.session.can_go_forward)
