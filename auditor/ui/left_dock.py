"""The dock on the left: beside the others while there is room for them, else a rail with a button that lays its pane
over them."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QEvent, QObject, Qt
from PySide6.QtGui import QHideEvent, QKeyEvent, QShowEvent
from PySide6.QtWidgets import QApplication, QFrame, QMainWindow, QWidget
from shiboken6 import isValid

from auditor.ui import theme
from auditor.ui.pane import Pane
from auditor.ui.pane_dock import FREE, PaneDock
from auditor.ui.panes import PaneEntry
from auditor.ui.session import Session
from auditor.ui.widgets.controls import box, column, tool

_RAIL = 38


class LeftDock(PaneDock):
    """While it is `collapsed` it is a rail, and its pane lies in `drawer`, shut until it is asked for."""

    def __init__(self, entry: PaneEntry, session: Session, window: QMainWindow, before: Callable[[], object]) -> None:
        super().__init__(entry, session, window, before)
        self.collapsed = False
        self.drawer = Drawer(self, window)
        self._rail: QWidget | None = None

    @property
    def rail_width(self) -> int:
        """Of the rail, in pixels."""
        return theme.px(_RAIL)

    @property
    def narrowest(self) -> int:
        """The width that its pane needs, in pixels."""
        return self.pane.minimumSizeHint().width() if self.pane is not None else 0

    def collapse(self, collapsed: bool, width: int) -> None:
        """Be a rail, with a drawer `width` pixels wide, or a dock again."""
        self.drawer.fit(width)
        if collapsed != self.collapsed:
            self.collapsed = collapsed
            self.drawer.hide()
            self._place()

    def build(self) -> Pane | None:
        built = self.pane is not None
        pane = super().build()
        if not built and self.collapsed:
            self._place()
        return pane

    def bring(self) -> None:
        super().bring()
        if self.collapsed:
            self.drawer.open()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self.drawer.hide()  # without the rail nothing would shut it, over whatever is shown next

    def rebuild(self) -> None:
        self.drawer.hide()
        old, self._rail = self._rail, None
        super().rebuild()
        self._place()
        if old is not None:
            old.deleteLater()

    def _place(self) -> None:
        """The pane in the drawer and the rail in its place, or the pane in the dock."""
        self.setMinimumWidth(self.rail_width if self.collapsed else 0)
        self.setMaximumWidth(self.rail_width if self.collapsed else FREE)
        head = self.titleBarWidget()
        if self.collapsed:
            inside = self.widget()
            if inside is not None and inside is not self._rail:
                self.drawer.hold(inside, self._title(self.drawer.shut))
            self.setTitleBarWidget(QWidget())
            self._rail = self._rail or self._made_rail()
            self.setWidget(self._rail)
            self._rail.show()
        elif (held := self.drawer.let_go()) is not None:
            self.setTitleBarWidget(self._title())
            self.setWidget(held)
            held.show()
        if head is not self.titleBarWidget():
            head.deleteLater()

    def _made_rail(self) -> QWidget:
        line = column(tool(self.entry.load().icon, f"Show {self.entry.title}", self.drawer.toggle), None)
        line.setContentsMargins(theme.px(4), theme.px(4), theme.px(4), 0)
        rail = box(line, "rail")
        rail.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        return rail


class Drawer(QFrame):
    """A pane that lies over the left of the window until Escape or a place beside it is pressed."""

    def __init__(self, dock: LeftDock, window: QMainWindow) -> None:
        super().__init__(window)
        self.setObjectName("drawer")
        self._dock, self._width = dock, 0
        self._inside: QWidget | None = None
        self._title: QWidget | None = None
        self.setLayout(column(gap=""))
        self.hide()

    def open(self) -> None:
        """Show the pane, built where it is not yet."""
        self._dock.build()
        self.fit(self._width)
        self.show()
        self.raise_()
        if self._inside is not None:
            self._inside.setFocus()

    def toggle(self) -> None:
        """Show it or hide it."""
        self.shut() if self.isVisible() else self.open()

    def shut(self) -> None:
        """Hide it; the keyboard goes to the window, else Qt gives it to the next button, which a space would press."""
        inside = self.isAncestorOf(self.window().focusWidget() or self)
        self.hide()
        if inside:
            self.window().setFocus()

    def fit(self, width: int) -> None:
        """Lie over the dock, `width` pixels wide."""
        self._width = width
        place = self._dock.geometry()
        self.setGeometry(place.x(), place.y(), width, place.height())

    def hold(self, inside: QWidget, title: QWidget) -> None:
        """Take a pane, and the title over it, in place of what was there."""
        layout = self.layout()
        assert layout is not None
        for old in (self._title, self._inside):
            if old is not None and isValid(old):
                old.hide()
                old.deleteLater()
        self._title, self._inside = title, inside
        for part in (title, inside):
            layout.addWidget(part)
            part.show()

    def let_go(self) -> QWidget | None:
        """Give the pane back; None where there is none."""
        held, self._inside = self._inside, None
        return held

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if (app := QApplication.instance()) is not None:
            app.installEventFilter(self)

    def hideEvent(self, event: QHideEvent) -> None:
        if (app := QApplication.instance()) is not None:
            app.removeEventFilter(self)
        super().hideEvent(event)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if not isinstance(watched, QWidget):
            return False
        own = watched is self or self.isAncestorOf(watched)
        if event.type() == QEvent.Type.MouseButtonPress:
            # A menu of it is a window of its own; the rail's button opens and shuts it itself.
            if not own and not self._dock.isAncestorOf(watched) and watched.window() is self.window():
                self.hide()
            return False
        pressed = event.key() if event.type() == QEvent.Type.KeyPress and isinstance(event, QKeyEvent) else None
        if own and pressed == Qt.Key.Key_Escape:
            self.shut()
            return True
        return False
