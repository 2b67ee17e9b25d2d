"""The page that tests a feature: the form of the verb “experiment”, and its run."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QVBoxLayout, QWidget

from auditor.base.config import Config
from auditor.base.errors import AuditorError
from auditor.ui.forms import Form
from auditor.ui.panes.examples.trial import VERB, Trial
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.plain_text import PlainLabel


class ExperimentPage(QWidget):
    """Prefilled for one feature. `edits_wanted`: a person would rather compose edits."""

    closed = Signal()
    edits_wanted = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._feature: tuple[str, int] | None = None
        self.form: Form | None = None
        self.trial = Trial(session, self._config)
        self.title = PlainLabel("", "pane")
        self._place = QVBoxLayout()
        more = controls.button("Compose edits…", self.edits_wanted.emit, link=True, icon="scissors")
        head = controls.row(self.title, None, controls.tool("x", "Back to the examples", self.closed.emit))
        inside = controls.column(
            head, PlainLabel("Changes the feature in the running model, and the same for features of equal density, "
                             "which are its null.", "muted", wrap=True),
            controls.row(more, None), self._place, self.trial, None, gap="medium", margin="small",
        )  # fmt: skip
        self.setLayout(controls.column(controls.scrolled(controls.box(inside))))

    def show_feature(self, dictionary: str, feature: int) -> None:
        """Offer the settings for this feature."""
        if self._feature == (dictionary, feature) and self.form is not None:
            return
        self._feature = (dictionary, feature)
        self.title.setText(f"Test feature {feature}")
        self.trial.allow(False)
        self._session.read("experiment.form", config_class, self._show, self.trial.failed)

    def start(self) -> None:
        """Start the test with what the form holds."""
        self.trial.start()

    def _show(self, kind: type[Config]) -> None:
        assert self._feature is not None
        controls.clear(self._place)
        values = {"feature": self._feature[1], "dictionary": self._feature[0]}
        known = {name: value for name, value in values.items() if name in kind.model_fields}
        self.form = Form(kind, self._session, known)
        self.form.show_only([name for name in kind.model_fields if name not in ("edit", "each", "plan")])
        self._place.addWidget(self.form)
        self.trial.allow(True)
        self.trial.told.setText("")

    def _config(self) -> tuple[Config, str]:
        if self.form is None or self._feature is None:
            raise AuditorError("The settings are not there yet.", "Wait a moment and start again.")
        return self.form.value(), f"Test feature {self._feature[1]}"


def config_class() -> type[Config]:
    """The settings of the verb; loading them takes a moment."""
    from auditor.tasks.task import get_task

    return get_task(VERB).config_class()
