"""The training that goes on: how far, how long still, its figures, pause and stop; and what went wrong on the way."""

from __future__ import annotations

from PySide6.QtWidgets import QFrame, QLabel, QProgressBar

from auditor.ui import theme
from auditor.ui.bridge import LiveJob
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel, tooltip

_LOOKS = {
    "waiting": ("clock", "muted", "waits for its turn"),
    "running": ("play", "accent", ""),
    "paused": ("pause", "warn", "paused"),
    "done": ("circle-check", "good", "done"),
    "failed": ("circle-alert", "bad", "failed"),
    "cancelled": ("circle-stop", "muted", "stopped"),
}
# A disk that is full holds up work that runs.
_FULL = ("hard-drive", "warn", "waits for room on the disk")
_MOST_WARNINGS = 2
# Reading what is learned from, and trying a few steps.
_BEFORE = "Getting ready: a few steps are tried to see what the whole takes"


class RunStrip(QFrame):
    """Shows one training of several: the one that runs, else the one that waits, else the last that ended unless all
    went well with it."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("card")
        self._jobs: list[LiveJob] = []
        self._icon = QLabel()
        self._title = ElidedLabel("", "strong")
        self._state = PlainLabel(role="muted")
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setMinimumWidth(theme.px(60))
        self._far = ElidedLabel()
        self._left = PlainLabel(role="strong")
        self.pause = controls.button("Pause", self._toggle, slim=True, icon="pause")
        self.stop = controls.button("Stop", self._end, slim=True, icon="square",
                                    tip="Stop and keep a checkpoint; Train goes on from it")  # fmt: skip
        self.close_button = controls.tool("x", "Close this; the job stays in the list of jobs", self.forget)
        head = controls.row(
            self._icon, self._title, self._state, self._bar, self._left, self.pause, self.stop, self.close_button
        )
        head.setStretch(1, 3)
        head.setStretch(3, 2)
        self.warnings = PlainLabel(role="warn", wrap=True)
        self.setLayout(controls.column(head, self._far, self.warnings, gap="tight", margin="small"))
        theme.signals.changed.connect(self.show_state)
        self.hide()

    @property
    def live(self) -> LiveJob | None:
        """The training that is shown."""
        by_turn = {"running": 0, "paused": 0, "waiting": 1}
        ranked = sorted(self._jobs, key=lambda live: (by_turn.get(live.state, 2), live.id if live.live else -live.id))
        return ranked[0] if ranked else None

    def follow(self, live: LiveJob) -> None:
        """Take a training into view."""
        self._jobs.append(live)
        live.changed.connect(self.show_state)
        live.ended.connect(self.show_state)
        self.show_state()

    def forget(self) -> None:
        """Let go of trainings that have ended."""
        self._jobs = [live for live in self._jobs if live.live]
        self.show_state()

    def show_state(self) -> None:
        """Write what the training last told."""
        live = self.live
        self.setVisible(live is not None and (live.outcome != "done" or bool(live.warnings)))
        if live is None:
            return
        state = live.state
        goes_on = state == "running" and not _waits_for_room(live)
        icon, role, word = _FULL if state == "running" and not goes_on else _LOOKS[state]
        waiting = sum(held.state == "waiting" for held in self._jobs if held is not live)
        self._icon.setPixmap(theme.pixmap(icon, role, 16, self.devicePixelRatioF()))
        self._title.setText(live.title)
        self._state.setText("  ".join(part for part in (word, f"{waiting} more wait" if waiting else "") if part))
        self._state.set_role(role if role in ("good", "bad", "warn") else "muted")
        self._bar.setVisible(live.live)
        self._bar.setRange(0, 1000 if live.share is not None else (0 if state == "running" else 1))
        self._bar.setValue(round(1000 * (live.share or 0)))
        left = live.seconds_left
        self._left.setText(f"{numbers.duration(left)} left" if left is not None and goes_on else "")
        self._far.setText("   ".join(part for part in (self._progress(live), self._figures(live)) if part))
        self._far.setVisible(live.live or bool(live.metrics))
        self.pause.setText("Resume" if state == "paused" else "Pause")
        theme.set_icon(self.pause, "play" if state == "paused" else "pause")
        self.pause.setVisible(state in ("running", "paused"))
        self.stop.setVisible(live.live)
        self.close_button.setVisible(not live.live)
        self.stop.setEnabled(not live.job.control.cancelled)
        self._warn(live)

    def _warn(self, live: LiveJob) -> None:
        full = live.latest.get(("disk_full", "")) if _waits_for_room(live) else None
        told = [_sentence(data) for data in (*live.warnings, *([full] if full else []))]
        told += [f"{live.message} {live.hint}".strip()] if live.state == "failed" else []
        more = len(told) - _MOST_WARNINGS
        shown = [*([f"{more} earlier ones."] if more > 0 else []), *told[-_MOST_WARNINGS:]]
        self.warnings.setText("\n".join(f"⚠ {sentence}" for sentence in shown))
        self.warnings.setToolTip(tooltip("\n".join(told)))
        self.warnings.setVisible(bool(told))

    def _progress(self, live: LiveJob) -> str:
        if not live.live:
            return ""
        if not live.total:
            return _BEFORE if live.state == "running" else ""
        if live.parts <= 1 or (live.unit == "steps" and not live.part.startswith("Redrawn model")):
            return f"step {numbers.count(live.done_units)} of {numbers.count(live.total)}"
        return f"{live.part}: {numbers.count(live.done_units)} of {numbers.count(live.total)} {live.unit}".rstrip()

    def _figures(self, live: LiveJob) -> str:
        if live.live and live.parts > 1:
            return ""
        runs = sum(kind == "curve" for kind, _ in live.series)
        if runs > 1:
            return f"{runs} dictionaries on one pass"
        found = {name: values[-1] for name, (_, values) in live.metrics.items() if values}
        told = {"loss": "loss", "fvu": "FVU", "l0": "L0"}
        parts = [f"{title} {numbers.figure(found[name])}" for name, title in told.items() if name in found]
        return "   ".join([*parts, *([f"dead {numbers.share(found['dead'])}"] if "dead" in found else [])])

    def _toggle(self) -> None:
        live = self.live
        if live is not None and live.state == "paused":
            live.resume()
        elif live is not None:
            live.pause()

    def _end(self) -> None:
        live = self.live
        if live is not None:
            live.stop()


def _waits_for_room(live: LiveJob) -> bool:
    return live.live and live.note.startswith("waiting:")


def _sentence(data: dict[str, object]) -> str:
    run = str(data.get("run") or "")
    message = str(data.get("message") or "Something went wrong; training goes on.")
    return f"{run}: {message}" if run else message
