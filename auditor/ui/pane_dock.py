"""The docks themselves: one that builds its pane when first seen, and the low one along the bottom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QEvent, QPointF, Qt, QTimer, Signal
from PySide6.QtGui import QMouseEvent
from PySide6.QtWidgets import QDockWidget, QMainWindow, QWidget

from auditor.ui import theme
from auditor.ui.pane import Pane
from auditor.ui.panes import PaneEntry
from auditor.ui.session import Session
from auditor.ui.widgets.controls import box, column, row, tool
from auditor.ui.widgets.empty_state import StatePanel
from auditor.ui.widgets.plain_text import PlainLabel

_LINE = 34
_GRIP = 6
FREE = 16_777_215
_MOST = 0.6


class PaneDock(QDockWidget):
    """A dock that builds its pane when it is first seen. `raised`: it lies over what was over it."""

    raised = Signal()

    def __init__(self, entry: PaneEntry, session: Session, window: QMainWindow, before: Callable[[], object]) -> None:
        super().__init__(entry.title, window)
        self._before = before
        self.entry = entry
        self.session = session
        self.pane: Pane | None = None
        self._kept: tuple[object, dict[str, Any]] = None, {}
        self.setObjectName(f"dock-{entry.id}")
        self.setTitleBarWidget(self._title())
        self.setWidget(QWidget())
        self.visibilityChanged.connect(self._seen)

    def event(self, event: QEvent) -> bool:
        done = super().event(event)
        if event.type() == QEvent.Type.ZOrderChange:
            self.raised.emit()
        return done

    def build(self) -> Pane | None:
        """The pane, built when there is none; None (and a message) where its own code fails."""
        if self.pane is None:
            self._before()
            try:
                self.pane = self.entry.load()(self.session)
                self.setWidget(self.pane)
                project, kept = self._kept
                if kept and project is self.session.project:
                    self.pane.keep(kept)
                self._kept = None, {}
            except Exception as error:
                self.session.error(error)
                broken = StatePanel()
                broken.failed(error)
                self.setWidget(broken)
        return self.pane

    def bring(self) -> None:
        """Come to the front."""
        self.show()
        self.raise_()

    def rebuild(self) -> None:
        """Forget the pane; it is built again when next seen (after a change of text size)."""
        self.setTitleBarWidget(self._title())
        if self.pane is not None:
            self._kept = self.session.project, self.pane.kept()
            self.pane.deleteLater()
            self.pane = None
            self.setWidget(QWidget())
        if self.isVisible():
            self.build()

    def _title(self, close: Callable[[], object] | None = None) -> QWidget:
        title = PlainLabel(self.entry.title, "pane")
        line = row(title, None, tool("x", f"Close {self.entry.title}", close or self.close))
        line.setContentsMargins(theme.px(12), theme.px(2), theme.px(4), theme.px(2))
        bar = box(line, "dockTitle")
        bar.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        return bar

    def _seen(self, shown: bool) -> None:
        if shown and self.session.project is not None:
            self.build()


class BottomDock(PaneDock):
    """As low as what its pane holds, one line when that is nothing, until a person drags it to a height of their own.

    Qt shares a window without a central widget out among its docks, so the height is held fixed and let go only
    while the edge above is being dragged.
    """

    height_chosen = Signal(int)

    def __init__(self, entry: PaneEntry, session: Session, window: QMainWindow, before: Callable[[], object]) -> None:
        super().__init__(entry, session, window, before)
        self.setFeatures(
            QDockWidget.DockWidgetFeature.DockWidgetClosable | QDockWidget.DockWidgetFeature.DockWidgetVerticalTitleBar
        )
        self.chosen = 0
        self._dragged = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._pin)
        self.fit()

    def build(self) -> Pane | None:
        built = self.pane is not None
        pane = super().build()
        if pane is not None and not built:
            pane.room_changed.connect(self.fit)
            self.fit()
        return pane

    @property
    def wanted(self) -> int:
        """The height that it should have now, in pixels."""
        asked = self.pane.room if self.pane is not None else 0
        own = max(theme.px(_LINE), asked) if not self.chosen else max(theme.px(_LINE), self.chosen)
        return min(own, round(_MOST * self.window().height()))

    def choose(self, height: int) -> None:
        """Hold a height that a person gave it; 0 goes back to what it holds."""
        self.chosen = height
        self.fit()

    def fit(self) -> None:
        """Take the wanted height, and again once Qt has laid the window out."""
        if not self._dragged:
            self._pin()
            self._timer.start(0)

    def watch(self, event: QEvent) -> None:
        """Look at an event of the window before it does: the edge above is taken, or let go."""
        if not isinstance(event, QMouseEvent) or not self.isVisible():
            return
        if event.type() == QEvent.Type.MouseButtonPress and self._on_edge(event.position()):
            self._dragged = True
            self.setMinimumHeight(theme.px(_LINE))
            self.setMaximumHeight(FREE)
        elif event.type() == QEvent.Type.MouseButtonRelease and self._dragged:
            QTimer.singleShot(0, self._let_go)

    def _let_go(self) -> None:
        self._dragged = False
        asked = max(theme.px(_LINE), self.pane.room if self.pane is not None else 0)
        self.chosen = 0 if abs(self.height() - asked) <= theme.px(_GRIP) else self.height()
        self.height_chosen.emit(self.chosen)
        self.fit()

    def _on_edge(self, place: QPointF) -> bool:
        return abs(place.y() - self.geometry().top()) <= _GRIP

    def _pin(self) -> None:
        if not self._dragged and self.height() != self.wanted:
            self.setMinimumHeight(0)
            self.setMaximumHeight(FREE)
        if not self._dragged:
            self.setFixedHeight(self.wanted)

    def _title(self, close: Callable[[], object] | None = None) -> QWidget:
        line = row(PlainLabel(self.entry.title, "pane"), tool("x", f"Close {self.entry.title}", close or self.close))
        line.setContentsMargins(theme.px(12), 0, theme.px(4), 0)
        beside = box(line)
        beside.setFixedHeight(theme.px(_LINE))  # level with the first line of what it holds
        bar = box(column(beside, None, gap=""), "bottomTitle")
        bar.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        return bar
