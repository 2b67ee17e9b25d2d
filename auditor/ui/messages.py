"""The strip that tells what failed or was done: a sentence and a hint, never a dialog.

It lies over the lower right of the window and moves nothing: a button that slips from under the pointer when a message
comes is worse than a message that covers a little.
"""

from __future__ import annotations

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFrame, QLabel, QMainWindow

from auditor.ui import theme
from auditor.ui.session import Session
from auditor.ui.widgets.controls import button, column, row, tool
from auditor.ui.widgets.plain_text import PlainLabel

_ICONS = {"bad": "circle-alert", "warn": "triangle-alert", "good": "circle-check"}
_WORDS = {"bad": "Failed", "warn": "Note", "good": "Done"}
_GOOD_MS, _ANEW_MS = 6000, 250
_WIDTH, _MARGIN = 560, 12


class Strip(QFrame):
    """Shows the newest message; failures stay until they are closed or a person starts a job, whose buttons they would
    cover; good news leaves by itself."""

    def __init__(self, session: Session, parent: QMainWindow) -> None:
        super().__init__(parent)
        self.setObjectName("strip")
        self._session = session
        self._told: set[tuple[str, str, str]] = set()
        self._trace = ""
        self._level = "bad"
        self._icon = QLabel()
        self._word = PlainLabel(role="strong")
        self._sentence = PlainLabel(wrap=True, selectable=True)
        self._hint = PlainLabel(role="muted", wrap=True, selectable=True)
        self._copy = button("Copy details", self._copy_trace, flat=True, icon="copy")
        self._close = tool("x", "Close this message", self.hide)
        text = column(self._sentence, self._hint, gap="")
        line = row(self._icon, self._word, text, self._copy, self._close)
        line.setStretch(2, 1)
        line.setContentsMargins(theme.px(12), theme.px(6), theme.px(8), theme.px(6))
        for widget in (self._icon, self._word, self._copy, self._close):
            line.setAlignment(widget, Qt.AlignmentFlag.AlignTop)
        self.setLayout(line)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.hide)
        self._anew = QTimer(self)
        self._anew.setInterval(_ANEW_MS)
        self._anew.timeout.connect(self._made_anew)
        session.message.connect(self.tell)
        session.job_started.connect(self.hide)  # what failed before is told among the jobs
        theme.signals.changed.connect(self._dress)
        self.hide()

    @property
    def text(self) -> str:
        """The sentence and hint that are shown."""
        return f"{self._sentence.text()} {self._hint.text()}".strip()

    def tell(self, level: str, sentence: str, hint: str = "", trace: str = "") -> None:
        """Show a message; `trace` can be copied but is not shown."""
        again = (level, sentence, hint) in self._told
        self._told.add((level, sentence, hint))
        if again and self._anew.isActive():
            return
        self._level, self._trace = level, trace
        self._sentence.setText(sentence)
        self._hint.setText(hint)
        self._hint.setVisible(bool(hint))
        self._copy.setVisible(bool(trace))
        self._word.setText(_WORDS[level])
        self._word.set_role(level)
        self.setProperty("level", level)
        self.style().unpolish(self)
        self.style().polish(self)
        self._dress()
        self.place()
        self.show()
        self.raise_()
        self._timer.stop()
        if level == "good":
            self._timer.start(_GOOD_MS)

    def place(self) -> None:
        """Take the corner of the window above its status bar, as high as the words need at that width."""
        window, layout = self.parentWidget(), self.layout()
        assert isinstance(window, QMainWindow) and layout is not None
        margin = theme.px(_MARGIN)
        width = min(theme.px(_WIDTH), window.width() - 2 * margin)
        # Only once the row has shared out the width is it known how many lines the words take.
        self.resize(width, self.height())
        layout.activate()
        told = [label for label in (self._sentence, self._hint) if not label.isHidden()]
        words = sum(label.heightForWidth(label.width()) for label in told)
        height = max(words, self._close.sizeHint().height()) + 2 * theme.px(8)
        bottom = window.height() - window.statusBar().height()
        self.setGeometry(window.width() - width - margin, bottom - height - margin, width, height)

    def panes_made_anew(self) -> None:
        """Panes are built again for the size of the text, and nobody did what they find again: of what was told before,
        nothing is told until they have read what they show."""
        self._anew.start()

    def _made_anew(self) -> None:
        if not self._session.reading:
            self._anew.stop()

    def _dress(self) -> None:
        self._icon.setPixmap(theme.pixmap(_ICONS[self._level], self._level, 16, self.devicePixelRatioF()))

    def _copy_trace(self) -> None:
        QGuiApplication.clipboard().setText(f"{self._sentence.text()}\n\n{self._trace}")
