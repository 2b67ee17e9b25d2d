"""The training pane: the form of a dictionary, live curves of its run and of those before it, and the table of runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QSplitter, QWidget

from auditor.project import Artefact
from auditor.sae.train_config import TrainConfig
from auditor.ui import theme
from auditor.ui.bridge import LiveJob
from auditor.ui.commands import Command
from auditor.ui.forms import Form
from auditor.ui.pane import Pane
from auditor.ui.panes.training.planner import Planner
from auditor.ui.panes.training.runs import COLUMNS, rows_of
from auditor.ui.session import Session
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.big_table import BigTable

_OVERLAID = 5
_LEFT, _RIGHT = 316, 704
_CURVES_HIGH, _TABLE_HIGH = 460, 130

_WHOLE = 125  # above this text size the parts need more room than a small window has


class Training(Pane):
    """Trains dictionaries in the background; the window stays free meanwhile."""

    id, title, icon = "training", "Train", "chart-line"

    @classmethod
    def commands(cls, session: Session) -> Sequence[Command]:
        def pane() -> Training:
            found = session.open_pane("training")
            assert isinstance(found, Training)
            return found

        return (
            Command(id="run.train", title="Train a dictionary…", needs="store", menu="Run", icon="chart-line",
                    run=pane),
            Command(id="train.plan", title="Plan the training", needs="store", icon="gauge",
                    run=lambda: pane().plan()),
            Command(id="train.start", title="Start training", needs="store", run=lambda: pane().start()),
        )  # fmt: skip

    def build(self, session: Session) -> QWidget:
        from auditor.ui.panes.training.curves import Curves  # loads pyqtgraph

        self._live: dict[str, LiveJob] = {}
        self._runs = 0
        self._artefacts: list[Artefact] = []
        run = session.commands.run
        self.form = Form(TrainConfig, session)
        self.form.changed.connect(lambda: self._describe())
        self.planner = Planner(
            lambda: run("train.plan"), lambda: run("train.start"), lambda: run("run.index"), lambda: run("run.record")
        )
        inside = controls.box(controls.column(self.form, None, gap=""))
        inside.setContentsMargins(0, 0, theme.space("small"), 0)
        area = controls.scrolled(inside, tall=True)
        left = controls.column(self.planner, controls.line(), area, gap="small", margin="medium")
        left.setStretch(2, 1)
        self.curves = Curves()
        self.plots = self.curves.plots
        self.table = BigTable(COLUMNS)
        self.table.setAccessibleName("Finished dictionaries")
        self.table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.table.row_selected.connect(self._choose)
        split = QSplitter(Qt.Orientation.Horizontal)
        split.addWidget(controls.box(left))
        split.addWidget(self._right())
        split.setStretchFactor(0, 1)
        split.setStretchFactor(1, 3)
        split.setSizes([theme.px(_LEFT), theme.px(_RIGHT)])
        split.setChildrenCollapsible(False)
        session.job_started.connect(self._follow)
        for live in session.jobs:
            self._follow(live)
        return controls.scrolled(split) if theme.scale() > _WHOLE else split

    def _right(self) -> QWidget:
        pin = controls.button(
            "Add to case", lambda: self.session.commands.run("artefact.case"), icon="pin", slim=True,
            tip="Add the chosen dictionary, with its figures and baselines, to the case",
        )  # fmt: skip
        head = controls.row(controls.heading("Finished dictionaries"), None, pin)
        finished = controls.column(head, self.table, gap="tight")
        right = QSplitter(Qt.Orientation.Vertical)
        right.addWidget(self.curves)
        right.addWidget(controls.box(finished))
        right.setStretchFactor(0, 1)
        right.setSizes([theme.px(_CURVES_HIGH), theme.px(_TABLE_HIGH)])
        right.setChildrenCollapsible(False)
        return controls.box(controls.column(right, margin="medium"))

    def refresh(self) -> None:
        if self.session.project is None:
            self.curves.keep(())
            self.empty("No project is open.", hint="Open one from the start page.")
            return
        stores = self.session.artefacts("store")
        self._artefacts = self.session.artefacts("dictionary")[::-1]
        if not stores and not self._artefacts:
            self.empty("Nothing is recorded yet.", "run.record", "A dictionary learns from recorded activations.")
            return
        self.table.set_rows(rows_of(self._artefacts))
        self._draw_past()
        if stores:
            self.planner.with_store()
            if not any(live.live for live in self._live.values()):
                self._describe(keep=True)
        else:
            self.planner.without_store()
        self.ready()

    # planning and starting

    def start(self) -> None:
        """Train with the form's settings."""
        config = self._config()
        live = self.session.run_task("train", config, f"Train {config.arch} {numbers.count(config.d_sae)}")
        self.planner.training()
        live.done.connect(self.planner.trained)
        live.ended.connect(lambda: self._ended(live))

    def plan(self) -> None:
        """Try a few steps in the background and say what the whole would take."""
        config, project = self._config(), self.session.project
        assert project is not None
        self.planner.measuring(True)

        def measure() -> object:
            from auditor.sae.plan import plan
            from auditor.store import open_store
            from auditor.tasks.task import resolve

            return plan(config, open_store(resolve(project, config.store, "store").path))

        self.session.read("training.plan", measure, self.planner.show_plan, self._unplanned)

    def _config(self) -> TrainConfig:
        config = self.form.value()
        assert isinstance(config, TrainConfig)
        return config

    def _unplanned(self, error: Exception) -> None:
        self.planner.measuring(False)
        self.planner.tell("It could not be measured.", "bad")
        self.session.error(error)

    def _ended(self, live: LiveJob) -> None:
        if live.outcome == "failed":
            self.planner.tell("It was not trained; the reason is said above.", "bad")
        elif live.outcome == "cancelled":
            self.planner.tell("Stopped. Train goes on from its last checkpoint while the settings are the same.")

    def _describe(self, *, keep: bool = False) -> None:
        """What the run will take, as far as the form alone tells it; `keep` leaves the sentence below it."""
        values = self.form.values()
        stores = self.session.artefacts("store")
        ref = values.get("store") or (stores[-1].id if stores else "")
        store = next((a for a in stores if ref in (a.id, a.name)), None)
        if store is None:
            return
        width = next((int(a.meta["width"]) for a in self.session.artefacts("model")
                      if a.id == store.meta.get("model") and a.meta.get("width")), 0)  # fmt: skip
        seen = int(values.get("steps") or 0) * int(values.get("batch_size") or 0)
        weights = 4 * (2 * width + 1) * int(values.get("d_sae") or 0)
        self.planner.forget(seen, int(store.meta.get("rows", 0)), weights, keep=keep)

    # curves

    def _follow(self, live: LiveJob) -> None:
        if live.title.startswith("Train "):
            self._runs += 1
            name = f"{live.title}, run {self._runs}"
            self._live[name] = live
            live.changed.connect(partial(self._draw, live, name))
            self._draw(live, name)

    def _draw(self, live: LiveJob, name: str) -> None:
        if live.metrics and name in self._live:
            self.curves.draw(name, live.metrics)

    def _draw_past(self) -> None:
        """The curves that finished dictionaries keep; they take the place of the live ones."""
        from auditor.ui.panes.training.curves import kept_curves

        paths = {a.name: a.path for a in reversed(self._artefacts[:_OVERLAID])}
        self.read(lambda: kept_curves(paths), self._show_past, key="curves")

    def _show_past(self, past: dict[str, dict[str, tuple[list[float], list[float]]]]) -> None:
        self._live = {name: live for name, live in self._live.items() if live.outcome != "done"}
        self.curves.keep([*self._live, *past])
        for name, curve in past.items():
            self.curves.draw(name, curve, finished=True)

    def _choose(self, row: int) -> None:
        self.session.select_artefact(self._artefacts[row].id)
