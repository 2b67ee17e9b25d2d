"""The jobs: what runs, what waits, how far it is and how long it takes; pause, resume, stop; why one failed."""

from __future__ import annotations

from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFrame, QLabel, QProgressBar, QVBoxLayout, QWidget

from auditor.ui import theme
from auditor.ui.bridge import LiveJob
from auditor.ui.commands import Command
from auditor.ui.pane import Pane
from auditor.ui.session import Session
from auditor.ui.widgets.controls import box, button, column, row, scrolled, tool
from auditor.ui.widgets.numbers import count, duration, figure, share
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel

_LOOKS = {
    "waiting": ("clock", "muted", "waits"),
    "running": ("play", "accent", "runs"),
    "paused": ("pause", "warn", "paused"),
    "done": ("circle-check", "good", "done"),
    "failed": ("circle-alert", "bad", "failed"),
    "cancelled": ("circle-stop", "muted", "stopped"),
}
_FIGURES = 4


class Jobs(Pane):
    """The list of jobs of this session, newest first."""

    id, title, icon = "jobs", "Jobs", "activity"

    @classmethod
    def commands(cls, session: Session) -> tuple[Command, ...]:
        def stop_all() -> None:
            for live in session.jobs:
                if live.live:
                    live.stop()

        return (
            Command(id="jobs.stop-all", title="Stop all jobs", needs="job", menu="Run", icon="square", run=stop_all),
        )

    def build(self, session: Session) -> QWidget:
        self._rows: list[JobRow] = []
        self._list = column(gap="")
        self._list.addStretch(1)
        for live in session.jobs:
            self._add(live)
        session.job_started.connect(self._add)
        session.job_started.connect(self.refresh)
        return scrolled(box(self._list))

    def refresh(self) -> None:
        if not self._rows:
            self.empty("No job has run in this window.", hint="Recording, training and tracing are listed here.")
        else:
            self.ready()

    def _add(self, live: LiveJob) -> None:
        made = JobRow(live, self._forget)
        self._rows.append(made)
        self._list.insertWidget(0, made)

    def _forget(self, made: JobRow) -> None:
        self._rows.remove(made)
        self.session.jobs.remove(made.live)
        made.deleteLater()
        self.refresh()


class JobRow(QFrame):
    """One job: state, title, bar, how far, figures, time left, and its buttons."""

    def __init__(self, live: LiveJob, forget: object) -> None:
        super().__init__()
        self.live = live
        self._forget = forget
        self._icon = QLabel()
        self._title = ElidedLabel(live.title, "strong")
        self._title.setMinimumWidth(theme.px(110))
        self._title.setMaximumWidth(theme.px(260))
        self._state = PlainLabel(role="muted")
        self._state.setMinimumWidth(theme.px(52))
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setFixedWidth(theme.px(100))
        self._far = ElidedLabel()
        self._left = PlainLabel(role="muted")
        self._pause = button("Pause", self._toggle)
        self._stop = button("Stop", live.stop)
        self._copy = button("Copy details", self._copy_trace, flat=True, icon="copy")
        self._close = tool("x", "Take this job off the list", self._drop)
        head = row(
            self._icon, self._title, self._state, self._bar, self._far, self._left,
            self._pause, self._stop, self._copy, self._close,
        )  # fmt: skip
        head.setStretch(1, 2)
        head.setStretch(4, 3)
        self._why = PlainLabel(wrap=True, selectable=True)
        self._why.setContentsMargins(theme.px(24), 0, 0, 0)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(theme.px(12), theme.px(4), theme.px(12), theme.px(4))
        whole.setSpacing(0)
        whole.addLayout(head)
        whole.addWidget(self._why)
        live.changed.connect(self.show_state)
        live.ended.connect(self.show_state)
        theme.signals.changed.connect(self.show_state)
        self.show_state()

    def show_state(self) -> None:
        """Write what the job last told."""
        live, state = self.live, self.live.state
        icon, role, word = _LOOKS[state]
        self._icon.setPixmap(theme.pixmap(icon, role, 16, self.devicePixelRatioF()))
        self._state.setText(word)
        self._state.set_role(role if role in ("good", "bad", "warn") else "muted")
        self._bar.setVisible(live.live)
        self._bar.setRange(0, 1000 if live.share is not None else (0 if state == "running" else 1))
        self._bar.setValue(round(1000 * (live.share or 0)))
        self._far.setText("   ".join(part for part in (self._progress(), self._metrics() or live.note) if part))
        left = live.seconds_left
        self._left.setText(f"{duration(left)} left" if left is not None and state == "running" else "")
        self._pause.setText("Resume" if state == "paused" else "Pause")
        self._pause.setVisible(state in ("running", "paused"))
        self._stop.setVisible(live.live)
        self._stop.setEnabled(not live.job.control.cancelled)
        self._copy.setVisible(bool(live.trace))
        self._close.setVisible(not live.live)
        self._why.setVisible(state == "failed")
        self._why.setText(f"{live.message}\n{live.hint}".strip())

    def _progress(self) -> str:
        live = self.live
        if not live.total:
            return f"{count(live.done_units)} {live.unit}".strip() if live.done_units else ""
        return f"{share(live.share or 0.0)}  ({count(live.done_units)} of {count(live.total)} {live.unit})".replace(
            " )", ")"
        )

    def _metrics(self) -> str:
        shown = list(self.live.metrics.items())[:_FIGURES]
        return "   ".join(f"{name} {figure(values[-1])}" for name, (_, values) in shown if values)

    def _toggle(self) -> None:
        if self.live.state == "paused":
            self.live.resume()
        else:
            self.live.pause()

    def _drop(self) -> None:
        if callable(self._forget):
            self._forget(self)

    def _copy_trace(self) -> None:
        QGuiApplication.clipboard().setText(f"{self.live.title}: {self.live.message}\n\n{self.live.trace}")
