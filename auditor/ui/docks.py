"""The docks of the four layouts: panes are built when first shown, and every arrangement is remembered per project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QByteArray, QEvent, QSettings, Qt, QTimer
from PySide6.QtWidgets import QMainWindow, QStyle, QTabBar, QTabWidget

from auditor.base.digest import sha256_bytes
from auditor.base.paths import user_config
from auditor.ui import theme
from auditor.ui.left_dock import LeftDock
from auditor.ui.pane import Pane
from auditor.ui.pane_dock import BottomDock, PaneDock
from auditor.ui.panes import LAYOUTS, PANES, PaneEntry
from auditor.ui.session import Session

_VERSION = 2
_WIDTHS = {"left": 0, "centre": 53, "right": 47}
_BESIDE = ("centre", "right")
# Of the project where there is room, and where it can still be read; with less it is a rail.
_LEFT, _LEAST = 250, 200


class Docks:
    """All docks of a window; `show_layout` brings one of the four arrangements."""

    def __init__(self, window: QMainWindow, session: Session) -> None:
        self._window = window
        self._session = session
        self.layout = ""
        self.docks = {entry.id: _kind(entry)(entry, session, window, self.load_commands) for entry in PANES}
        self._bottom = [dock for dock in self.docks.values() if isinstance(dock, BottomDock)]
        for low in self._bottom:
            low.height_chosen.connect(lambda height, low=low: self._keep_height(low, height))
        self._loading = list(PANES)
        window.setDockNestingEnabled(True)
        window.setDockOptions(QMainWindow.DockOption.AllowNestedDocks | QMainWindow.DockOption.AllowTabbedDocks)
        for dock in self.docks.values():
            window.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, dock)
            dock.hide()
        window.setTabPosition(Qt.DockWidgetArea.AllDockWidgetAreas, QTabWidget.TabPosition.North)
        self._timer = QTimer(window)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._proportion)
        self._timer.timeout.connect(self._tidy)
        self._tidy_timer = QTimer(window)
        self._tidy_timer.setSingleShot(True)
        self._tidy_timer.timeout.connect(self._tidy)
        self._left_chosen = self._left_pressed = 0
        self._left_timer = QTimer(window)
        self._left_timer.setSingleShot(True)
        self._left_timer.timeout.connect(self._hold_left)

    def load_command(self) -> bool:
        """Load the commands of the next pane; whether more are left. A pane's buttons may name another's command."""
        if self._loading:
            entry = self._loading.pop(0)
            self._session.attempt(lambda: self._session.commands.add(*entry.load().commands(self._session)))
        return bool(self._loading)

    def load_commands(self) -> None:
        """Load the commands of every pane that are not known yet."""
        while self.load_command():
            pass

    def hide_all(self) -> None:
        """Keep the arrangement and clear the window (no project is open)."""
        self.layout = ""
        for dock in self.docks.values():
            dock.hide()

    def show_layout(self, name: str) -> None:
        """Bring an arrangement as it was left, or as it is designed."""
        if self.layout == name:
            return
        self.layout = name
        held = self._settings().value(self._key(name))
        for low in self._bottom:
            low.choose(self._kept(f"{low.entry.id}-height"))
        self._left_chosen = self._kept("left-width")
        restored = isinstance(held, QByteArray) and self._window.restoreState(held, _VERSION)
        if restored and any(not dock.isHidden() for dock in self._in("centre")):
            self._tidy_timer.start(0)
            self.fit()
        else:  # a layout whose panes were all closed would come back with nothing in it
            self._arrange()
        self._note_layout()  # now, since a program that is killed saves nothing
        for dock in self._in("centre")[:1]:
            dock.setFocus()  # else Qt gives the keyboard to a close button, and the next space closes a pane

    def reset(self) -> None:
        """Arrange the present layout as it is designed."""
        for low in self._bottom:
            low.choose(0)
            self._keep_height(low, 0)
        self._left_chosen = 0
        self._keep("left-width", 0)
        self._arrange()

    def fit(self) -> None:
        """Give the dock along the bottom the height of what it holds, and the one on the left its width: Qt would make
        it narrower and wider with the window."""
        for low in self._bottom:
            low.fit()
        self._hold_left()
        self._left_timer.start(0)  # and again once Qt has laid the window out

    def watch(self, event: QEvent) -> None:
        """Look at an event of the window before it does."""
        for low in self._bottom:
            low.watch(event)
        if event.type() == QEvent.Type.LayoutRequest:  # what a pane needs may have become more, or less
            self._left_timer.start(0)
        elif event.type() == QEvent.Type.MouseButtonPress:
            self._left_pressed = self._left_width
        elif event.type() == QEvent.Type.MouseButtonRelease and self._left_width not in (self._left_pressed, 0):
            self._left_chosen = self._left_width
            self._keep("left-width", self._left_chosen)

    def _arrange(self) -> None:
        groups = {area: self._in(area) for area in (*_WIDTHS, "bottom")}
        for dock in self.docks.values():
            self._window.removeDockWidget(dock)
        before: PaneDock | None = None
        for area in _WIDTHS:
            for number, dock in enumerate(groups[area]):
                if number:
                    first = groups[area][0]
                    if area == "centre":
                        self._window.tabifyDockWidget(first, dock)
                    else:
                        self._window.splitDockWidget(groups[area][number - 1], dock, Qt.Orientation.Vertical)
                elif before is not None:
                    self._window.splitDockWidget(before, dock, Qt.Orientation.Horizontal)
                else:
                    self._window.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, dock)
                    self._lay_below(dock, groups["bottom"])
                dock.show()
            before = groups[area][0] if groups[area] else before
        for dock in self.docks.values():
            if self.layout not in dock.entry.places:  # the kept arrangement must name it, else Qt shows it on return
                self._window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, dock)
                dock.hide()
        if groups["centre"]:
            groups["centre"][0].raise_()
        self._proportion()
        self._timer.start(0)

    def _lay_below(self, dock: PaneDock, low: list[PaneDock]) -> None:
        """Put the low docks under `dock` in its own area: in an area of their own Qt would give them a third."""
        for below in low:
            self._window.splitDockWidget(dock, below, Qt.Orientation.Vertical)
            below.show()

    def save(self) -> None:
        """Remember the present arrangement for this project."""
        if self.layout and self._session.project is not None:
            settings = self._settings()
            settings.setValue(self._key(self.layout), self._window.saveState(_VERSION))
            settings.sync()
            self._note_layout()

    def _note_layout(self) -> None:
        if self._session.project is not None:
            self._settings().setValue(f"{self._project()}/layout", self.layout)

    def remembered(self) -> str:
        """The layout in which this project was left."""
        name = str(self._settings().value(f"{self._project()}/layout") or "")
        return name if name in LAYOUTS else "explore"

    def pane(self, name: str) -> Pane:
        """The pane with this id, brought to the front."""
        dock = self.docks[name]
        if self.layout and self.layout not in dock.entry.places and not dock.isVisible():
            self._session.layout_wanted.emit(next(iter(dock.entry.places), self.layout))
        if self.layout not in dock.entry.places and not dock.isVisible():
            self._seat(dock)
        dock.bring()
        pane = dock.build()
        if pane is None:
            raise RuntimeError(f"the pane {name!r} could not be built")
        return pane

    def _seat(self, dock: PaneDock) -> None:
        """Put a dock that has no place in this layout behind one that has."""
        self._window.removeDockWidget(dock)
        beside = [held for held in (*self._in("right"), *self._in("centre")) if not held.isHidden()]
        if beside:
            self._window.tabifyDockWidget(beside[0], dock)
        else:
            self._window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, dock)

    def _tidy(self) -> None:
        """Hide tab bars that Qt left behind when their docks moved away: they lie over other panes."""
        shown = [dock.geometry() for dock in self.docks.values() if not dock.isHidden()]
        for bar in self._window.findChildren(QTabBar, options=Qt.FindChildOption.FindDirectChildrenOnly):
            place = bar.geometry()
            serves = any(under.x() == place.x() and abs(under.y() - place.bottom() - 1) <= 1 for under in shown)
            bar.setVisible(bar.count() > 1 and serves)

    def _in(self, area: str) -> list[PaneDock]:
        return [dock for dock in self.docks.values() if dock.entry.places.get(self.layout) == area]

    def _proportion(self) -> None:
        firsts = [(self._in(area)[0], share) for area, share in _WIDTHS.items() if self._in(area)]
        if firsts:
            left = self._left_fitting
            width = self._window.width() - left - self._apart * (len(firsts) - 1)
            total = sum(share for _, share in firsts) or 1
            sizes = [width * share // total if share else left for _, share in firsts]
            self._window.resizeDocks([dock for dock, _ in firsts], sizes, Qt.Orientation.Horizontal)
        for low in self._bottom:
            low.fit()

    @property
    def _left_width(self) -> int:
        """Of the dock on the left in pixels; 0 where there is none, or a rail."""
        shown = self._shown("left")
        return shown[0].width() if shown and not self._rails else 0

    @property
    def _rails(self) -> list[LeftDock]:
        return [dock for dock in self._shown("left") if isinstance(dock, LeftDock) and dock.collapsed]

    @property
    def _left_fitting(self) -> int:
        """The width that the dock on the left should have now: what is wanted, or what the panes beside it leave."""
        wanted = self._left_chosen or theme.px(_LEFT)
        beside = [
            max(max(dock.minimumSizeHint().width(), dock.minimumWidth()) for dock in held) + self._apart
            for held in (self._shown(area) for area in _BESIDE) if held
        ]  # fmt: skip
        left = self._window.width() - sum(beside)
        for dock in self._shown("left"):
            if isinstance(dock, LeftDock):
                dock.collapse(left < max(min(wanted, theme.px(_LEAST)), dock.narrowest), wanted)
                if dock.collapsed:
                    return dock.rail_width
        return min(wanted, max(left, 1))

    @property
    def _apart(self) -> int:
        """Pixels between two docks."""
        between = QStyle.PixelMetric.PM_DockWidgetSeparatorExtent
        return self._window.style().pixelMetric(between, None, self._window)

    def _hold_left(self) -> None:
        shown = self._shown("left")
        wanted = self._left_fitting if shown else 0
        if shown and shown[0].width() != wanted:
            beside = [_in_front(self._shown(area)) for area in _BESIDE if self._shown(area)]
            widths = [dock.width() for dock in beside]
            rest = max(0, self._window.width() - wanted - self._apart * len(beside))
            sizes = [wanted, *(rest * width // sum(widths) for width in widths)]
            self._window.resizeDocks([shown[0], *beside], sizes, Qt.Orientation.Horizontal)

    def _shown(self, area: str) -> list[PaneDock]:
        return [dock for dock in self._in(area) if dock.isVisible() and not dock.isFloating()]

    def _keep_height(self, low: BottomDock, height: int) -> None:
        self._keep(f"{low.entry.id}-height", height)

    def _keep(self, name: str, pixels: int) -> None:
        if self._session.project is not None:
            self._settings().setValue(f"{self._project()}/{name}", pixels)

    def _kept(self, name: str) -> int:
        held = str(self._settings().value(f"{self._project()}/{name}") or "0")
        return int(held) if held.isdigit() else 0

    def _project(self) -> str:
        project = self._session.project
        return sha256_bytes(str(project.folder).encode())[:16] if project is not None else "none"

    def _key(self, layout: str) -> str:
        return f"{self._project()}/{layout}"

    @staticmethod
    def _settings() -> QSettings:
        path: Path = user_config() / "arrangements.ini"
        return QSettings(str(path), QSettings.Format.IniFormat)


def _in_front(docks: Sequence[PaneDock]) -> PaneDock:
    """Of those that lie under one another's tabs, the one in view; Qt keeps the others, in sizes of their own, beyond
    the window's edge."""
    return next((dock for dock in docks if dock.x() >= 0), docks[0])


def _kind(entry: PaneEntry) -> type[PaneDock]:
    if "bottom" in entry.places.values():
        return BottomDock
    return LeftDock if "left" in entry.places.values() else PaneDock
