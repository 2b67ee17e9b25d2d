"""The jobs: what runs, what waits, how far it is and how long it takes; pause, resume, stop; why one failed."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFrame, QLabel, QProgressBar, QVBoxLayout, QWidget

from auditor.ui import theme
from auditor.ui.bridge import LiveJob
from auditor.ui.commands import Command
from auditor.ui.pane import Pane
from auditor.ui.session import Session
from auditor.ui.widgets.controls import box, button, column, row, scrolled, tool
from auditor.ui.widgets.numbers import count, duration, figure, share, short_share, thin
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel

_LOOKS = {
    "waiting": ("clock", "muted", "waits"),
    "running": ("play", "accent", "runs"),
    "paused": ("pause", "warn", "paused"),
    "done": ("circle-check", "good", "done"),
    "failed": ("circle-alert", "bad", "failed"),
    "cancelled": ("circle-stop", "muted", "stopped"),
}
# What goes on by itself once a person made room.
_HELD_UP = ("clock", "warn", "waits")
_FIGURES = 4
_ROWS = 3
_LINE = 34
_ORDER = {"running": 0, "paused": 0, "waiting": 1}


class Jobs(Pane):
    """The jobs of this session: what runs first, then what waits, then what ended, newest first."""

    id, title, icon = "jobs", "Jobs", "activity"
    low = True

    @classmethod
    def commands(cls, session: Session) -> tuple[Command, ...]:
        def stop_all() -> None:
            for live in session.jobs:
                if live.live:
                    live.stop()

        def clear() -> None:
            pane = session.open_pane("jobs")
            assert isinstance(pane, Jobs)
            pane.clear_ended()

        return (
            Command(id="jobs.stop-all", title="Stop all jobs", needs="job", menu="Run", icon="square", run=stop_all),
            Command(id="jobs.clear", title="Take ended jobs off the list", needs="project", menu="Run", icon="x",
                    run=clear),
        )  # fmt: skip

    def build(self, session: Session) -> QWidget:
        self._rows: list[JobRow] = []
        self._list = column(gap="")
        self._list.addStretch(1)
        for live in session.jobs:
            self._add(live)
        session.job_started.connect(self._add)
        session.job_started.connect(self.refresh)
        session.job_ended.connect(self._sort)
        self._area = scrolled(box(self._list))
        self._area.setMinimumHeight(1)
        return self._area

    def refresh(self) -> None:
        if not self._rows:
            self.empty("No job has run in this window.", hint="Recording, training and tracing are listed here.")
        else:
            self.ready()
        self._sort()

    @property
    def room(self) -> int:
        """Height of the jobs that run or wait, and of the last one if it failed; one line at least, a few at most."""
        shown = [made for made in self._rows if made.live.live or made is self._rows[-1]]
        return min(max(theme.px(_LINE), sum(made.tall(self.width()) for made in shown)), _ROWS * theme.px(_LINE))

    def clear_ended(self) -> None:
        """Take every job that has ended off the list."""
        for made in [made for made in self._rows if not made.live.live]:
            self._forget(made)

    def _add(self, live: LiveJob) -> None:
        made = JobRow(live, self._forget)
        made.grown.connect(self.room_changed)
        self._rows.append(made)
        self._list.insertWidget(0, made)

    def _sort(self) -> None:
        turns = sorted(self._rows, key=lambda made: (_ORDER.get(made.live.state, 2), _turn(made.live)))
        for at, made in enumerate(turns):
            if self._list.indexOf(made) != at:
                self._list.removeWidget(made)
                self._list.insertWidget(at, made)
        self._area.verticalScrollBar().setValue(0)
        self.room_changed.emit()

    def _forget(self, made: JobRow) -> None:
        self._rows.remove(made)
        self.session.jobs.remove(made.live)
        made.hide()
        made.deleteLater()
        self.refresh()


def _turn(live: LiveJob) -> int:
    """Waiting jobs in the order of their turn, ended ones newest first."""
    return live.id if live.live else -live.id


class JobRow(QFrame):
    """One job: state, title, bar, how far, figures, time left, and its buttons; `grown` when its height changed."""

    grown = Signal()

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
        self._pause = button("Pause", self._toggle, slim=True)
        self._stop = button("Stop", live.stop, slim=True)
        self._copy = button("Copy details", self._copy_trace, slim=True, icon="copy")
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
        whole.setContentsMargins(theme.px(12), theme.px(2), theme.px(12), theme.px(2))
        whole.setSpacing(0)
        line = box(head)
        line.setMinimumHeight(theme.px(_LINE - 4))
        whole.addWidget(line)
        whole.addWidget(self._why)
        live.changed.connect(self.show_state)
        live.ended.connect(self.show_state)
        theme.signals.changed.connect(self.show_state)
        self.show_state()

    def tall(self, width: int) -> int:
        """Its height where it is `width` wide: a reason of one line is not counted as the two that a hint asks for."""
        layout = self.layout()
        high = layout.totalHeightForWidth(width) if layout is not None and layout.hasHeightForWidth() else -1
        return high if high > 0 else self.sizeHint().height()

    def show_state(self) -> None:
        """Write what the job last told."""
        live, state = self.live, self.live.state
        note = self._note()
        held_up = note.startswith("waiting") and state == "running"
        icon, role, word = _LOOKS[state] if not held_up else _HELD_UP
        self._icon.setPixmap(theme.pixmap(icon, role, 16, self.devicePixelRatioF()))
        self._state.setText(word)
        self._state.set_role(role if role in ("good", "bad", "warn") else "muted")
        self._bar.setVisible(live.live)
        self._bar.setRange(0, 1000 if live.share is not None else (0 if state == "running" else 1))
        self._bar.setValue(round(1000 * (live.share or 0)))
        # What it waits for, or is at once its steps are done, before its figures.
        shown = note if note.startswith("waiting") or live.parts > 1 else self._metrics() or note
        self._far.setText("   ".join(part for part in (self._progress(), shown) if part))
        left = live.seconds_left if state == "running" and not held_up else None
        self._left.setText(f"{duration(left)} left" if left is not None else "")
        self._pause.setText("Resume" if state == "paused" else "Pause")
        self._pause.setVisible(state in ("running", "paused"))
        self._stop.setVisible(live.live)
        self._stop.setEnabled(not live.job.control.cancelled)
        self._copy.setVisible(bool(live.trace))
        self._close.setVisible(not live.live)
        self._why.setText(f"{live.message} {live.hint}".strip())
        if self._why.isHidden() == (state == "failed"):
            self._why.setVisible(state == "failed")
            self.grown.emit()

    def _progress(self) -> str:
        live = self.live
        if live.outcome == "done":
            return ""  # what it was counted in may end before its total: 272 of 400 samples held enough positions
        if not live.total:
            return f"{count(live.done_units)} {live.unit}".strip() if live.done_units else ""
        return f"{share(live.share or 0.0)}  ({count(live.done_units)} of {count(live.total)} {live.unit})".replace(
            " )", ")"
        )

    def _note(self) -> str:
        return thin(self.live.note) if self.live.live else ""

    def _metrics(self) -> str:
        shown = list(self.live.metrics.items())[:_FIGURES]
        return "   ".join(_told(name, values[-1]) for name, (_, values) in shown if values)

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


def _told(name: str, value: float) -> str:
    """A figure of a job, with the unit that its name ends in; what it waited for is a share of the time."""
    if name.endswith("_per_s"):
        return f"{figure(value)} {name.removesuffix('_per_s').replace('_', ' ')}/s"
    if name.endswith("_MBps"):
        return f"{name.removesuffix('_MBps').replace('_', ' ')} {figure(value, 'MB/s')}"
    words = name.replace("_", " ")
    if name == "positions":
        return f"{words} {count(round(value))}"
    return f"{words} {short_share(value) if name.startswith('waiting_for_') else figure(value)}"
