"""The four states of a pane: empty (with the button that helps), working, failed (sentence and hint), ready."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QSizePolicy, QStackedLayout, QVBoxLayout, QWidget

from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.widgets.plain_text import PlainLabel, menu_text


class StatePanel(QWidget):
    """Shows one of four states; `state` names it. `set_content` gives the widget of “ready”; `low` takes one line."""

    def __init__(self, parent: QWidget | None = None, *, low: bool = False) -> None:
        super().__init__(parent)
        self.state = "empty"
        self._stack = QStackedLayout(self)
        self._stack.setContentsMargins(0, 0, 0, 0)
        self._page = _Page(low=low)
        self._stack.addWidget(self._page)
        self._content: QWidget | None = None

    def set_content(self, content: QWidget) -> None:
        """The widget to show when ready."""
        self._content = content
        self._stack.addWidget(content)

    def empty(self, sentence: str, button: str = "", act: Callable[[], object] | None = None, hint: str = "") -> None:
        """Nothing to show yet: say what to do next; `act` runs on the button."""
        self._show("empty")
        self._page.tell(sentence, hint, icon="", button=button, act=act)

    def working(self, sentence: str, done: int = 0, total: int = 0, stop: Callable[[], object] | None = None) -> None:
        """Under way; a total of 0 means unknown."""
        self._show("working")
        self._page.tell(sentence, "", icon="clock", button="Stop" if stop else "", act=stop)
        self._page.progress(done, total)

    def failed(self, error: Exception, button: str = "", act: Callable[[], object] | None = None) -> None:
        """It could not be done: the sentence, the hint, and a button to try again where there is one."""
        self._show("failed")
        hint = error.hint if isinstance(error, AuditorError) else "This is a fault of the program; your files are safe."
        message = error.message if isinstance(error, AuditorError) else f"{type(error).__name__}: {error}"
        self._page.tell(message, hint, icon="circle-alert", button=button, act=act)

    def ready(self) -> None:
        """Show the content."""
        self.state = "ready"
        if self._content is not None:
            self._stack.setCurrentWidget(self._content)

    def _show(self, state: str) -> None:
        self.state = state
        self._stack.setCurrentWidget(self._page)


class _Page(QWidget):
    def __init__(self, *, low: bool) -> None:
        super().__init__()
        self._act: Callable[[], object] | None = None
        self._shown = ""
        self._icon = PlainLabel()
        self._icon.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._sentence = PlainLabel(wrap=not low)
        self._hint = PlainLabel(role="muted", wrap=not low)
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setMaximumWidth(240)
        self._button = QPushButton()
        self._button.setProperty("primary", True)
        self._button.clicked.connect(self._clicked)
        theme.signals.changed.connect(self._dress)
        if low:
            self._lay_low()
        else:
            self._lay()

    def _lay_low(self) -> None:
        line = QHBoxLayout(self)
        line.setContentsMargins(theme.px(12), 0, theme.px(12), 0)
        line.setSpacing(theme.space("medium"))
        for widget in (self._icon, self._sentence, self._hint, self._bar, self._button):
            line.addWidget(widget)
        line.addStretch(1)

    def _lay(self) -> None:
        for label in (self._sentence, self._hint):
            label.setAlignment(Qt.AlignmentFlag.AlignCenter)
            label.setMaximumWidth(420)
            label.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 20, 20, 20)
        column.setSpacing(8)
        column.addStretch(2)
        for widget in (self._icon, self._sentence, self._hint, self._bar, self._button):
            row = QHBoxLayout()
            row.addStretch(1)
            row.addWidget(widget, 0 if widget is self._button else 8)
            row.addStretch(1)
            column.addLayout(row)
        column.addStretch(3)

    def tell(self, sentence: str, hint: str, *, icon: str, button: str, act: Callable[[], object] | None) -> None:
        self._act, self._shown = act, icon
        self._dress()
        self._sentence.setText(sentence)
        self._hint.setText(hint)
        self._hint.setVisible(bool(hint))
        self._bar.setVisible(False)
        self._button.setText(menu_text(button))
        self._button.setVisible(bool(button and act))
        self._button.setProperty("primary", button != "Stop")

    def _dress(self) -> None:
        self._icon.setVisible(bool(self._shown))
        if self._shown:
            role = "bad" if self._shown == "circle-alert" else "muted"
            self._icon.setPixmap(theme.pixmap(self._shown, role, 24, 2.0))

    def progress(self, done: int, total: int) -> None:
        self._bar.setVisible(True)
        self._bar.setRange(0, total)
        self._bar.setValue(done)

    def _clicked(self) -> None:
        if self._act is not None:
            self._act()
