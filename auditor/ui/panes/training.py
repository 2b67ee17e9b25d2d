"""The training pane: the form of a dictionary, live curves of its run and of those before it, and the table of runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QSplitter, QWidget

from auditor.project import Artefact
from auditor.sae.train_config import TrainConfig
from auditor.ui.bridge import LiveJob
from auditor.ui.commands import Command
from auditor.ui.forms import Form
from auditor.ui.pane import Pane
from auditor.ui.session import Session
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.big_table import BigTable, Column
from auditor.ui.widgets.plain_text import PlainLabel

_CURVES = {
    "loss": ("Loss", "loss", True),
    "fvu": ("Fraction of variance unexplained", "FVU", True),
    "l0": ("Active features", "features a row", False),
    "dead": ("Dead features", "share", False),
}
_ROW = np.dtype([("name", "O"), ("hook", "O"), ("arch", "O"), ("features", "i8"), ("fvu", "f8"), ("l0", "f8"),
                 ("dead", "f8")])  # fmt: skip


class Training(Pane):
    """Trains dictionaries in the background; the window stays free meanwhile."""

    id, title, icon = "training", "Train", "chart-line"

    @classmethod
    def commands(cls, session: Session) -> Sequence[Command]:
        def start() -> None:
            pane = session.open_pane("training")
            assert isinstance(pane, Training)
            pane.start()

        return (
            Command(
                id="run.train", title="Train a dictionary…", needs="store", menu="Run", icon="chart-line",
                run=lambda: session.open_pane("training"),
            ),
            Command(id="train.start", title="Start training", needs="store", run=start),
        )  # fmt: skip

    def build(self, session: Session) -> QWidget:
        from auditor.ui.widgets.plots import LinePlot

        self._jobs: dict[int, str] = {}
        self._artefacts: list[Artefact] = []
        self.form = Form(TrainConfig, session)
        self.form.changed.connect(self._describe)
        self._plan = PlainLabel("", "muted", wrap=True)
        self._button = controls.button("Train", self.start, primary=True, icon="play")
        left = controls.box(
            controls.column(self.form, self._plan, controls.row(self._button, None), None, gap="medium")
        )
        self.plots = {name: LinePlot(title, "step", unit, log_y=log) for name, (title, unit, log) in _CURVES.items()}
        grid = QGridLayout()
        for at, plot in enumerate(self.plots.values()):
            grid.addWidget(plot, at // 2, at % 2)
        columns = [
            Column("name", "Dictionary"), Column("hook", "Hook point"), Column("arch", "Kind"),
            Column("features", "Features"), Column("fvu", "FVU"), Column("l0", "L0"), Column("dead", "Dead"),
        ]  # fmt: skip
        self.table = BigTable(columns)
        self.table.row_selected.connect(self._choose)
        right = QSplitter(Qt.Orientation.Vertical)
        right.addWidget(controls.box(grid))
        right.addWidget(self.table)
        right.setStretchFactor(0, 3)
        right.setStretchFactor(1, 1)
        split = QSplitter(Qt.Orientation.Horizontal)
        split.addWidget(controls.scrolled(left))
        split.addWidget(right)
        split.setStretchFactor(0, 2)
        split.setStretchFactor(1, 5)
        split.setChildrenCollapsible(False)
        session.job_started.connect(self._follow)
        for live in session.jobs:
            self._follow(live)
        return controls.box(controls.column(split, margin="medium"))

    def refresh(self) -> None:
        if self.session.project is None:
            self.empty("No project is open.", hint="Open one from the start page.")
            return
        if not self.session.artefacts("store"):
            self.empty("Nothing is recorded yet.", "run.record", "A dictionary learns from recorded activations.")
            return
        self._artefacts = self.session.artefacts("dictionary")
        rows = np.zeros(len(self._artefacts), _ROW)
        for at, artefact in enumerate(self._artefacts):
            facts = artefact.meta
            rows[at] = (
                artefact.name, facts.get("hook", ""), facts.get("arch", ""), facts.get("features", 0),
                facts.get("fvu", np.nan), facts.get("l0", np.nan), facts.get("dead", np.nan),
            )  # fmt: skip
        self.table.set_rows(rows)
        self._draw_past()
        self._describe()
        self.ready()

    def start(self) -> None:
        """Train with the form's settings."""
        config = self.form.value()
        assert isinstance(config, TrainConfig)
        self.session.run_task("train", config, f"Train {config.arch} {numbers.count(config.d_sae)}")

    # curves

    def _follow(self, live: LiveJob) -> None:
        if not live.title.startswith("Train "):
            return
        name = f"{live.title} (run {live.id})"
        self._jobs[live.id] = name
        live.changed.connect(partial(self._draw, live, name))
        self._draw(live, name)

    def _draw(self, live: LiveJob, name: str) -> None:
        for figure, plot in self.plots.items():
            if figure in live.metrics:
                plot.set_series(name, *live.metrics[figure])

    def _draw_past(self) -> None:
        """The curves that finished dictionaries keep."""
        paths = {a.name: a.path for a in self._artefacts[-6:]}

        def curves() -> dict[str, dict[str, Any]]:
            import json

            found = {}
            for name, path in paths.items():
                facts = json.loads((path / "cfg.json").read_text("utf-8")).get("metadata", {}).get("auditor", {})
                if facts.get("curve"):
                    found[name] = facts["curve"]
            return found

        self.read(curves, self._show_past, key="curves")

    def _show_past(self, curves: dict[str, dict[str, Any]]) -> None:
        for name, curve in curves.items():
            rows = np.array(curve["rows"], dtype=float).reshape(-1, len(curve["columns"]))
            columns = {column: rows[:, at] for at, column in enumerate(curve["columns"])}
            for figure, plot in self.plots.items():
                if figure in columns:
                    plot.set_series(name, columns["step"].tolist(), columns[figure].tolist(), dashed=True)

    def _choose(self, row: int) -> None:
        self.session.select_artefact(self._artefacts[row].id)

    def _describe(self) -> None:
        """What the run will take, in words, from the form alone."""
        values = self.form.values()
        stores = self.session.artefacts("store")
        ref = values.get("store") or (stores[-1].id if stores else "")
        store = next((a for a in stores if ref in (a.id, a.name)), None)
        if store is None:
            self._plan.setText("")
            return
        rows = int(store.meta.get("rows", 0))
        seen = int(values.get("steps") or 0) * int(values.get("batch_size") or 0)
        passes = f", {numbers.figure(seen / rows)} passes over the store" if rows else ""
        self._plan.setText(f"{numbers.count(seen)} rows in all{passes}.")
