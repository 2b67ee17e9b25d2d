"""Any verb of the program with its settings as a form: what the command line can do, the window can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PySide6.QtWidgets import QComboBox, QVBoxLayout, QWidget

from auditor.base.config import Config
from auditor.ui import theme
from auditor.ui.bridge import while_alive
from auditor.ui.commands import Command
from auditor.ui.forms import Form
from auditor.ui.pane import Pane
from auditor.ui.session import Session
from auditor.ui.widgets.controls import box, button, clear, column, row, scrolled
from auditor.ui.widgets.plain_text import PlainLabel

if TYPE_CHECKING:
    from auditor.tasks import Task

_WIDEST = 760


class Verb(Pane):
    """Choose a verb, fill in its settings, run it."""

    id, title, icon = "verb", "Run a verb", "command"

    @classmethod
    def commands(cls, session: Session) -> Sequence[Command]:
        def choose(name: str = "", **values: str) -> None:
            found = session.open_pane("verb")
            assert isinstance(found, Verb)
            found.show_verb(name, values)

        def doctor() -> None:
            chosen = [held.id for held in session.artefacts("dictionary") if held.id == session.artefact]
            choose("doctor", dictionary=chosen[0] if chosen else "")

        return (
            Command(id="run.verb", title="Run any verb…", needs="writable", menu="Run", icon="command", run=choose,
                    help="Every verb of the command line, with its settings as a form."),
            Command(id="run.import", title="Import another program's files…", needs="writable", menu="File",
                    icon="upload", help="Activations, dictionaries, latents and graphs, each told by what is in it.",
                    run=lambda: choose("import")),
            Command(id="run.doctor", title="Run the doctor again…", needs="dictionary", menu="Run", icon="activity",
                    help="Which convention makes the chosen dictionary reconstruct the activations of a store.",
                    run=doctor),
        )  # fmt: skip

    def build(self, session: Session) -> QWidget:
        self._tasks: dict[str, Task] = {}
        self._wanted, self._values = "", dict[str, str]()
        self.form: Form | None = None
        self.choice = QComboBox()
        self.choice.setAccessibleName("Verb")
        self.choice.activated.connect(lambda _: self.choose(str(self.choice.currentData())))
        self._help = PlainLabel(role="muted", wrap=True)
        self._place = QVBoxLayout()
        session.verb_offered.connect(self.show_verb)
        self._run = button("Run", self.run, primary=True, icon="play")
        page = box(column(self.choice, self._help, self._place, row(self._run, None), 1, gap="medium", margin="medium"))
        page.setMaximumWidth(theme.px(_WIDEST))  # a line of a form is read at a glance
        return scrolled(page)

    def refresh(self) -> None:
        if not self.session.has("writable"):
            self.empty("Verbs change a project, so one must be open for writing.", "file.open")
        elif not self._tasks:
            self.working("Listing the verbs…")
            self.read(_verbs, self._listed, key="list")
        else:
            self.ready()

    def show_verb(self, name: str, values: Mapping[str, str] | None = None) -> None:
        """Choose the verb called `name`, as soon as they are listed, and fill in `values`; “” leaves what is chosen."""
        self._wanted, self._values = name, dict(values or {})
        if name and self._tasks:
            self.choose(name)

    def choose(self, name: str) -> None:
        """Show the settings of the verb called `name`."""
        self._run.setEnabled(False)
        self.read(self._tasks[name].config_class, lambda kind: self._show(name, kind), key="config")

    def run(self) -> None:
        """Start the verb with what the form holds; a wrong setting is said beside its field."""
        form = self.form
        if form is not None:
            name = str(self.choice.currentData())
            self.session.attempt(lambda: self._start(name, form.value()))

    def _start(self, name: str, config: Config) -> None:
        live = self.session.run_task(name, config)
        live.done.connect(while_alive(self._told))

    def _told(self, result: dict[str, Any]) -> None:
        """Say what the verb found, where it says it in a sentence."""
        if sentence := result.get("sentence"):
            self.session.say(str(sentence), "good" if result.get("ok", True) else "warn")

    def _listed(self, tasks: list[Task]) -> None:
        self._tasks = {task.name: task for task in tasks}
        self.choice.clear()
        for task in tasks:
            self.choice.addItem(task.title, task.name)
        self.ready()
        self.choose(self._wanted or tasks[0].name)

    def _show(self, name: str, kind: type[Config]) -> None:
        clear(self._place)
        self.choice.setCurrentIndex(self.choice.findData(name))
        self._help.setText(self._tasks[name].help)
        self.form = Form(kind, self.session, self._values if name == self._wanted else None)
        self._place.addWidget(self.form)
        self._run.setEnabled(True)


def _verbs() -> list[Task]:
    from auditor.tasks import tasks

    return tasks()
