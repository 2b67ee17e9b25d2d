"""The small page that starts an index: the form of the verb and its start button."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QVBoxLayout, QWidget

from auditor.base.config import Config
from auditor.ui.forms import Form
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.plain_text import PlainLabel


class IndexForm(QWidget):
    """`started` carries the job; `closed` asks to be put away."""

    started = Signal(object)
    closed = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.form: Form | None = None
        self._place = QVBoxLayout()
        self._start = controls.button("Index", self.start, primary=True, icon="play")
        self._start.setEnabled(False)
        self._waits = PlainLabel("Loading the settings…", "muted")
        told = "Runs the dictionary over a store and gathers every feature's examples, figures and neighbours."
        inside = controls.column(
            PlainLabel("Index the features", "pane"), PlainLabel(told, "muted", wrap=True), self._waits, self._place,
            controls.row(self._start, controls.button("Cancel", self.closed.emit), None), None,
            gap="medium", margin="medium",
        )  # fmt: skip
        self.setLayout(controls.column(controls.scrolled(controls.box(inside))))

    def load(self) -> None:
        """Fetch the verb's settings, once."""
        if self.form is None:
            self._session.config_class("index", self._show)

    def start(self) -> None:
        """Start the job with what the form holds; what is wrong is said beside its field."""
        form = self.form
        if form is not None:
            self._session.attempt(lambda: self.started.emit(self._session.run_task("index", form.value())))

    def _show(self, kind: type[Config]) -> None:
        if self.form is None:
            self.form = Form(kind, self._session)
            self._waits.hide()
            self._place.addWidget(self.form)
            self._start.setEnabled(True)
