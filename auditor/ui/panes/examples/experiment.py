"""The page that tests a feature: the form of the verb “experiment”, its start, and the result as a small card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QGridLayout, QVBoxLayout, QWidget

from auditor.base.config import Config
from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.bridge import LiveJob
from auditor.ui.forms import Form
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.numbers import count, figure, interval
from auditor.ui.widgets.plain_text import PlainLabel

VERB = "experiment"


class ExperimentPage(QWidget):
    """Prefilled for one feature; runs in the background and can be left meanwhile.

    `offered` carries a result as the fields of evidence.
    """

    closed = Signal()
    offered = Signal(object)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._feature: tuple[str, int] | None = None
        self._live: LiveJob | None = None
        self.form: Form | None = None
        self.title = PlainLabel("", "pane")
        self._place = QVBoxLayout()
        self._results = QVBoxLayout()
        self.told = PlainLabel("", "muted", wrap=True)
        self._start = controls.button("Start the test", self.start, primary=True, icon="play")
        self._stop = controls.button("Stop", self._cancel)
        self._stop.hide()
        head = controls.row(self.title, None, controls.tool("x", "Back to the examples", self.closed.emit))
        inside = controls.column(
            head, PlainLabel("Changes the feature in the running model, and the same for features of equal density, "
                             "which are its null.", "muted", wrap=True),
            self._place, controls.row(self._start, self._stop, None), self.told, self._results, None,
            gap="medium", margin="small",
        )  # fmt: skip
        self.setLayout(controls.column(controls.scrolled(controls.box(inside))))

    def show_feature(self, dictionary: str, feature: int) -> None:
        """Offer the settings for this feature."""
        if self._feature == (dictionary, feature) and self.form is not None:
            return
        self._feature = (dictionary, feature)
        self.title.setText(f"Test feature {feature}")
        self._start.setEnabled(False)
        self._session.read("experiment.form", self._config_class, self._show, self._failed)

    def start(self) -> None:
        """Start the test with what the form holds."""
        form = self.form
        if form is None or not self._session.attempt(lambda: self._run(form.value())):
            return
        controls.clear(self._results)

    @staticmethod
    def _config_class() -> type[Config]:
        from auditor.tasks.task import get_task

        return get_task(VERB).config_class()

    def _show(self, kind: type[Config]) -> None:
        assert self._feature is not None
        controls.clear(self._place)
        values = {"feature": self._feature[1], "dictionary": self._feature[0]}
        known = {name: value for name, value in values.items() if name in kind.model_fields}
        self.form = Form(kind, self._session, known)
        self._place.addWidget(self.form)
        self._start.setEnabled(self._live is None or not self._live.live)
        self.told.setText("")

    def _run(self, config: Config) -> None:
        assert self._feature is not None
        title = f"Test feature {self._feature[1]}"
        self._live = live = self._session.run_task(VERB, config, title)
        live.changed.connect(self._follow)
        live.done.connect(self._done)
        live.failed.connect(self._failed)
        live.ended.connect(self._ended)
        self._start.setEnabled(False)
        self._stop.show()
        self._follow()

    def _follow(self) -> None:
        live = self._live
        if live is not None and live.live:
            done = f" {count(live.done_units)} of {count(live.total)} {live.unit}" if live.total else ""
            self.told.set_role("muted")
            self.told.setText(f"{live.note or 'Testing'}…{done}")

    def _cancel(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _ended(self) -> None:
        self._stop.hide()
        self._start.setEnabled(True)
        if self._live is not None and self._live.outcome != "failed":
            self.told.setText("" if self._live.outcome == "done" else "Stopped.")

    def _done(self, result: Mapping[str, Any]) -> None:
        controls.clear(self._results)
        self._results.addWidget(result_card(result))
        name, project = str(result.get("result") or ""), self._session.project
        if not name or project is None:
            return

        def fields() -> dict[str, Any]:
            from auditor.tasks.result import read_result

            ids = list(result.get("artefacts", ()))
            return read_result(project.find(ids[0] if ids else name, "result").path).evidence()

        def offer() -> None:
            self._session.read("experiment.evidence", fields, self.offered.emit)

        self._results.addWidget(controls.box(controls.row(controls.button("Add to case", offer, icon="pin"), None)))

    def _failed(self, error: Exception) -> None:
        self.told.set_role("bad")
        hint = f" {error.hint}" if isinstance(error, AuditorError) else ""
        self.told.setText(f"{error.message if isinstance(error, AuditorError) else error}{hint}")


def result_card(result: Mapping[str, Any]) -> QWidget:
    """Estimate with its interval, n, null, p and baselines of an experiment, as far as the result tells them."""
    unit = str(result.get("unit") or "")
    estimate, low, high = (_number(result.get(name)) for name in ("estimate", "low", "high"))
    known = not math.isnan(low + high)
    lines = [("95 % interval" if known else "estimate",
              interval(estimate, low, high, unit) if known else figure(estimate, unit))]  # fmt: skip
    if isinstance(result.get("n"), int):
        lines.append(("n", f"{count(int(result['n']))} samples"))
    if isinstance(result.get("null_n"), int):
        of = f"over {count(int(result['null_n']))} features that fire as often"
        lines.append(("null", f"mean {figure(_number(result.get('null_mean')), unit)} {of}"))
        lines.append(("p", figure(_number(result.get("p")))))
    baselines = result.get("baseline")
    if isinstance(baselines, Mapping):
        lines += [(f"baseline: {name}", figure(_number(value), unit)) for name, value in baselines.items()]
    grid = QGridLayout()
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setHorizontalSpacing(theme.space("medium"))
    grid.setColumnStretch(1, 1)
    for at, (name, text) in enumerate(lines):
        grid.addWidget(PlainLabel(name, "muted", wrap=True), at, 0)
        grid.addWidget(PlainLabel(text, "strong", wrap=True, selectable=True), at, 1)
    return controls.card(PlainLabel(str(result.get("metric") or "Result"), "heading"), controls.box(grid), gap="tight")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
