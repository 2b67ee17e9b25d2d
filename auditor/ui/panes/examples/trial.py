"""The part of a page that runs an experiment: its start, how far it is, how to stop it, and the result as a card."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import shiboken6
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QGridLayout, QVBoxLayout, QWidget

from auditor.base.config import Config
from auditor.base.errors import AuditorError
from auditor.ui import theme
from auditor.ui.bridge import LiveJob, while_alive
from auditor.ui.panes.examples.sweep import SweepCard, plan_card
from auditor.ui.session import Session
from auditor.ui.widgets import controls
from auditor.ui.widgets.numbers import count, figure, interval
from auditor.ui.widgets.plain_text import PlainLabel

if TYPE_CHECKING:
    from auditor.project import Project
    from auditor.tasks.result import Result

VERB = "experiment"


class Trial(QWidget):
    """Runs in the background and can be left meanwhile. `config` gives the settings and the title of the job, or raises
    what is wrong with them; `offered` carries a result as the fields of evidence."""

    offered = Signal(object)

    def __init__(self, session: Session, config: Callable[[], tuple[Config, str]]) -> None:
        super().__init__()
        self._session, self._config = session, config
        self.live: LiveJob | None = None
        self._project: Project | None = None
        self.told = PlainLabel("", "muted", wrap=True)
        self._start = controls.button("Start the test", self.start, primary=True, icon="play")
        self.plan_button = controls.button("Plan", self.plan, icon="gauge", tip="Say how many runs and how long")
        self.plan_button.hide()
        self._stop = controls.button("Stop", self._cancel)
        self._stop.hide()
        self._results = QVBoxLayout()
        self.setLayout(
            controls.column(
                controls.row(self._start, self.plan_button, self._stop, None), self.told, self._results, gap="medium"
            )
        )

    def start(self) -> None:
        """Start the test with what the page holds."""
        if self._session.attempt(self._run):
            controls.clear(self._results)

    def plan(self) -> None:
        """Measure a few runs of it, and say what the whole takes."""
        if self._session.attempt(partial(self._run, True)):
            controls.clear(self._results)

    def allow(self, ready: bool) -> None:
        """Whether the page holds something that can be started."""
        for button in (self._start, self.plan_button):
            button.setEnabled(ready and (self.live is None or not self.live.live))

    def failed(self, error: Exception) -> None:
        """Say what went wrong, and what to do."""
        self.told.set_role("bad")
        hint = f" {error.hint}" if isinstance(error, AuditorError) else ""
        self.told.setText(f"{error.message if isinstance(error, AuditorError) else error}{hint}")

    def _show_sweep(self, place: QVBoxLayout, unit: str, data: Mapping[str, Any]) -> None:
        if shiboken6.isValid(place):
            place.addWidget(SweepCard(data, unit))

    def _run(self, plan: bool = False) -> None:
        config, title = self._config()
        if plan:
            config, title = config.model_copy(update={"plan": True}), f"Plan: {title.lower()}"
        self.live = live = self._session.run_task(VERB, config, title)
        self._project = self._session.project
        live.changed.connect(self._follow)
        live.done.connect(self._done)
        live.failed.connect(self.failed)
        live.ended.connect(self._ended)
        self.allow(False)
        self._stop.show()
        self._follow()

    def _follow(self) -> None:
        live = self.live
        if live is not None and live.live:
            done = f" {count(live.done_units)} of {count(live.total)} {live.unit}" if live.total else ""
            self.told.set_role("muted")
            self.told.setText(f"{live.note or 'Testing'}…{done}")

    def _cancel(self) -> None:
        if self.live is not None:
            self.live.stop()

    def _ended(self) -> None:
        self._stop.hide()
        self.allow(True)
        if self.live is None:
            return
        kept = next((told for told in reversed(self.live.warnings) if "kept" in told), None)
        if self.live.outcome != "failed":
            self.told.setText("" if self.live.outcome == "done" else "Stopped.")
        if kept is not None:
            self.told.setText(f"{self.told.text()} {kept['message']}")
            self._done(kept["kept"])

    def _done(self, result: Mapping[str, Any]) -> None:
        project = self._project
        if project is None or project is not self._session.project:
            return  # it was closed meanwhile
        controls.clear(self._results)
        if "metric" not in result:
            self._results.addWidget(plan_card(result))
            return
        self._results.addWidget(result_card(result))
        if isinstance(result.get("tokens"), Sequence):
            self._results.addWidget(tokens_card(result["tokens"]))
        name = str(result.get("result") or "")
        if not name:
            return

        def held() -> Result:
            from auditor.tasks.result import read_result

            ids = list(result.get("artefacts", ()))
            return read_result(project.find(ids[0] if ids else name, "result").path)

        def offer() -> None:
            self._session.read("experiment.evidence", lambda: held().evidence(), self.offered.emit)

        if "largest" in result:
            place = QVBoxLayout()
            self._results.addLayout(place)
            self._session.read(
                "experiment.sweep", lambda: held().data,
                while_alive(self._show_sweep, place, str(result.get("unit") or "")),
            )  # fmt: skip

        self._results.addWidget(controls.box(controls.row(controls.button("Add to case", offer, icon="pin"), None)))


def result_card(result: Mapping[str, Any]) -> QWidget:
    """Estimate with its interval, n, null, p and baselines of an experiment, as far as the result tells them."""
    unit = str(result.get("unit") or "")
    estimate, low, high = (_number(result.get(name)) for name in ("estimate", "low", "high"))
    known = not math.isnan(low + high)
    lines = [("95 % interval" if known else "estimate",
              interval(estimate, low, high, unit) if known else figure(estimate, unit))]  # fmt: skip
    if isinstance(result.get("n"), int):
        lines.append(("n", f"{count(int(result['n']))} sample{'' if result['n'] == 1 else 's'}"))
    if isinstance(result.get("null_n"), int):
        what = "controls of equal size" if {"edits", "largest"} & set(result) else "features that fire as often"
        of = f"over {count(int(result['null_n']))} {what}"
        lines.append(("null", f"mean {figure(_number(result.get('null_mean')), unit)} {of}"))
        lines.append(("p", figure(_number(result.get("p")))))
    elif {"edits", "largest"} & set(result):
        lines.append(("null", "none: what is frozen has no control of equal size"))
    baselines = result.get("baseline")
    if isinstance(baselines, Mapping):
        lines += [(f"baseline: {name}", figure(_number(value), unit)) for name, value in baselines.items()]
    grid = _grid(1)
    for at, (name, text) in enumerate(lines):
        grid.addWidget(PlainLabel(name, "muted", wrap=True), at, 0)
        grid.addWidget(PlainLabel(text, "strong", wrap=True, selectable=True), at, 1)
    return controls.card(PlainLabel(str(result.get("metric") or "Result"), "heading"), controls.box(grid), gap="tight")


def tokens_card(rows: Sequence[Mapping[str, Any]]) -> QWidget:
    """Next tokens (or classes) whose probability changed most, with the interval of the change and what the controls
    did to it."""
    of = "class" if rows and "class" in rows[0] else "token"
    grid = _grid(0)
    grid.setHorizontalSpacing(theme.space("small"))
    for column, head in enumerate((of, "before", "after", "change", "controls")):
        grid.addWidget(PlainLabel(head, "muted"), 0, column)
    for line, row in enumerate(rows, 1):
        change = _signed(row.get("change"))
        bounds = "" if row.get("low") is None else f" [{_signed(row['low'])}, {_signed(row.get('high'))}]"
        least, most = row.get("control low"), row.get("control high")
        ends = "–" if least is None else f"{_signed(least)} to {_signed(most)}"
        shares = [f"{_number(row.get(name)):.3f}" for name in ("before", "after")]
        for column, text in enumerate((str(row.get(of)), *shares, change + bounds, ends)):
            grid.addWidget(PlainLabel(text, "mono" if column == 0 else "", selectable=True), line, column)
    title = PlainLabel("Next-token probabilities" if of == "token" else "Probabilities of classes", "heading")
    where = "At the last position, mean over the samples" if of == "token" else "Mean over the samples"
    told = PlainLabel(f"{where}: those that changed most, the change with its 95 % interval, and the range of the mean "
                      "changes under the controls.", "small", wrap=True)  # fmt: skip
    return controls.card(title, told, controls.box(grid), gap="tight")


def _grid(wide: int) -> QGridLayout:
    grid = QGridLayout()
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setHorizontalSpacing(theme.space("medium"))
    grid.setColumnStretch(wide, 1)
    return grid


def _signed(value: Any) -> str:
    """A change of a probability to three places, with its sign."""
    text = f"{_number(value):+.3f}"
    return "0.000" if float(text) == 0 else text.replace("-", "−")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
