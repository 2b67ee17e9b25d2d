"""What every pane is: a widget with an id, a title, an icon, four states, and the session it shares with the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QVBoxLayout, QWidget

from auditor.ui.commands import Command
from auditor.ui.session import Session
from auditor.ui.widgets.empty_state import StatePanel


class Pane(QWidget):
    """One pane. A subclass gives `build` and `refresh`; both run in the GUI thread and compute nothing.

    `build` is called once, when the pane is first shown. `refresh` is called right after, and again whenever the
    project or its catalogue changes: it decides which state to show. A `low` pane lies along the bottom: its states
    are one line each, and `room` says how high it would be, with `room_changed` when that changes.
    """

    id: ClassVar[str] = ""
    title: ClassVar[str] = ""
    icon: ClassVar[str] = "box"
    low: ClassVar[bool] = False
    room_changed = Signal()

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.setObjectName("paneGround")
        self.states = StatePanel(low=self.low)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.states)
        self.states.set_content(self.build(session))
        session.project_changed.connect(self.refresh)
        session.catalogue_changed.connect(self.refresh)
        self.refresh()

    @classmethod
    def commands(cls, session: Session) -> Sequence[Command]:
        """What this pane lets a person do, known before the pane is built."""
        return ()

    def build(self, session: Session) -> QWidget:
        """The widget of the state “ready”."""
        raise TypeError(f"{type(self).__name__} does not build its content")

    def refresh(self) -> None:
        """Look at the session and choose a state."""
        self.ready()

    def kept(self) -> dict[str, Any]:
        """What a person has put in and waits for, for the pane that is made in its place at another size of the
        text."""
        return {}

    def keep(self, kept: dict[str, Any]) -> None:
        """Go on with what the pane before had `kept`."""

    @property
    def room(self) -> int:
        """Pixels of height that show what it holds."""
        return self.sizeHint().height()

    @property
    def state(self) -> str:
        """empty, working, failed or ready."""
        return self.states.state

    def empty(self, sentence: str, command: str = "", hint: str = "") -> None:
        """Say what to do next; `command` is the id of the command that does it, its title becomes the button."""
        if not command:
            self.states.empty(sentence, hint=hint)
            return
        title = self.session.commands.get(command).title
        self.states.empty(sentence, title, lambda: self.session.commands.run(command), hint)

    def working(self, sentence: str, done: int = 0, total: int = 0, stop: Callable[[], object] | None = None) -> None:
        self.states.working(sentence, done, total, stop)

    def failed(self, error: Exception) -> None:
        self.states.failed(error, "Try again", self.refresh)

    def ready(self) -> None:
        self.states.ready()

    def read(self, function: Callable[[], Any], then: Callable[[Any], object], key: str = "") -> None:
        """Compute off the GUI thread, then deliver; of one `key` of this pane the newest wins. A failure is shown
        in the pane."""
        self.session.read(f"{self.id}.{key}", function, then, self.failed)
