"""The one file where a thread meets Qt: a 33 ms timer drains what jobs tell and hands it on in the GUI thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import Empty
from typing import Any

import shiboken6
from PySide6.QtCore import QObject, QTimer, Signal

from auditor.base.errors import AuditorError
from auditor.base.events import Cancelled, Done, Event, Failed, Metric, Partial, Progress, Started
from auditor.base.reporter import Reporter
from auditor.jobs.runner import Job, Lane, Runner

TICK_MS = 33
_BUDGET_S = 0.012
_ENDED = ("done", "failed", "cancelled")
Series = dict[str, tuple[list[int], list[float]]]


class Bug(Exception):
    """A fault of the program in another thread; `trace` is what to copy into a report."""

    def __init__(self, message: str, trace: str) -> None:
        super().__init__(message)
        self.trace = trace


class LiveJob(QObject):
    """A job as the window sees it. Signals come in the GUI thread, at most one `changed` a tick.

    `metrics` maps a figure's name to (steps, values); `result` is what the task gave back once `state` is done. Partial
    results that name a step are kept for who looks later, by kind and run: their numbers in `series`, the whole of the
    newest in `latest`; all `warnings`; what was `planned`. `part` is what the work is at, the last of the `parts` that
    have begun.
    """

    changed = Signal()
    partial = Signal(str, object)
    done = Signal(object)
    failed = Signal(object)
    ended = Signal()

    def __init__(self, job: Job, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.job = job
        self.id = job.id
        self.title = job.title
        self.done_units = 0
        self.total = 0
        self.unit = ""
        self.note = self._opens = ""
        self.part, self.parts = "", 0
        self.planned: dict[str, Any] = {}
        self.metrics: Series = {}
        self.series: dict[tuple[str, str], Series] = {}
        self.latest: dict[tuple[str, str], dict[str, Any]] = {}
        self.warnings: list[dict[str, Any]] = []
        self.result: dict[str, Any] = {}
        self.message = ""
        self.hint = ""
        self.trace = ""
        self.outcome = ""
        self._begun: tuple[int, float] | None = None  # units and seconds where this part of the work began
        self._paused_at = 0.0
        self._paused_s = 0.0

    @property
    def state(self) -> str:
        """waiting, running, paused, done, failed or cancelled; an end counts once its event has been read."""
        state = self.outcome or self.job.state
        return "running" if not self.outcome and state in _ENDED else state

    @property
    def live(self) -> bool:
        return not self.outcome

    @property
    def share(self) -> float | None:
        """Part done, 0 to 1; None where the total is not known."""
        return min(1.0, self.done_units / self.total) if self.total else None

    @property
    def seconds_left(self) -> float | None:
        """From the pace since this part of the work began, pauses left out, and before the first part is done with what
        was planned for after it; None until 2 % and 2 s are done."""
        if not self.total or not self.job.started or not self.live or self._begun is None:
            return None
        units, seconds = self.done_units - self._begun[0], self.seconds_spent - self._begun[1]
        if units < 0.02 * (self.total - self._begun[0]) or units <= 0 or seconds <= 2:
            return None
        after = self.planned.get("after_minutes", 0) if self.parts <= 1 else 0
        return seconds * max(0, self.total - self.done_units) / units + 60 * after

    @property
    def seconds_spent(self) -> float:
        """Time at work so far, pauses left out."""
        if not self.job.started:
            return 0.0
        now = self._paused_at or self.job.ended or time.monotonic()
        return now - self.job.started - self._paused_s

    def pause(self) -> None:
        self._paused_at = self._paused_at or time.monotonic()
        self.job.control.pause()
        self.changed.emit()

    def resume(self) -> None:
        if self._paused_at:
            self._paused_s += time.monotonic() - self._paused_at
            self._paused_at = 0.0
        self.job.control.resume()
        self.changed.emit()

    def stop(self) -> None:
        self.job.cancel()
        self.changed.emit()

    def take(self, event: Event) -> None:
        """Fold one event into what is known; partial results go out at once."""
        match event:
            case Started():
                self.total, self.unit, self.done_units = event.total, event.unit, 0
                self.note = event.title if event.title != self.title else ""
                self._begun = None
                self.part, self.parts = event.title, self.parts + 1
            case Progress():
                if self._begun is None or event.done < self._begun[0]:
                    self._begun = event.done, self.seconds_spent
                self.done_units, self.total = event.done, event.total or self.total
                self.unit, before = event.unit or self.unit, "" if self.note == self._opens else self.note
                self.note = event.note or before
            case Metric():
                _append(self.metrics, event.step, event.values)
            case Partial():
                self._keep(event.kind, event.data)
                self.partial.emit(event.kind, event.data)
            case Failed():
                self.outcome, self.message, self.hint, self.trace = "failed", event.message, event.hint, event.trace
            case Cancelled():
                self.outcome = "cancelled"
            case Done():
                self.outcome, self.result = "done", event.result

    def _keep(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "warning":
            self.warnings.append(data)
        elif kind == "planned":
            self.planned = data
        elif kind == "opens":  # until the work goes on
            self.note = self._opens = str(data.get("message", ""))
        elif "step" in data:
            key = (kind, str(data.get("run", "")))
            self.latest[key] = data
            numbers = {name: value for name, value in data.items() if isinstance(value, float)}
            _append(self.series.setdefault(key, {}), int(data["step"]), numbers)

    def error(self) -> AuditorError | Bug:
        """Why it failed, as an exception to show."""
        return Bug(self.message, self.trace) if self.trace else AuditorError(self.message, self.hint)


class Bridge(QObject):
    """Starts jobs and reads on `runner`'s threads and delivers what they tell in the GUI thread."""

    started = Signal(object)
    ended = Signal(object)
    idle = Signal()

    def __init__(self, runner: Runner, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.runner = runner
        self._jobs: list[LiveJob] = []
        self._reads: dict[str, tuple[Job, Callable[[Any], object], Callable[[Exception], object]]] = {}
        self._timer = QTimer(self)
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._tick)

    @property
    def busy(self) -> bool:
        return bool(self._jobs or self._reads)

    @property
    def reading(self) -> frozenset[str]:
        """Keys of the reads that have not arrived yet."""
        return frozenset(self._reads)

    def run(self, title: str, work: Callable[[Reporter], dict[str, Any] | None]) -> LiveJob:
        """Queue long work on the lane that runs in order."""
        live = LiveJob(self.runner.submit("gpu", title, work), self)
        self._jobs.append(live)
        self._timer.start()
        self.started.emit(live)
        return live

    def read(
        self,
        key: str,
        function: Callable[[Reporter], Any],
        then: Callable[[Any], object],
        failed: Callable[[Exception], object],
        lane: Lane = "read",
    ) -> None:
        """Compute off the GUI thread; a newer read of the same `key` replaces this one and only its value arrives."""
        job = self.runner.submit(lane, key, function, key=key)
        self._reads[key] = (job, then, failed)
        self._timer.start()

    def drop(self, key: str) -> None:
        """Nothing of this read is delivered; it ends where it looks up next."""
        held = self._reads.pop(key, None)
        if held is not None:
            held[0].cancel()

    def close(self) -> None:
        """Cancel everything and let the threads end; nothing is delivered afterwards."""
        self._timer.stop()
        self._jobs.clear()
        self._reads.clear()
        self.runner.close()

    def _tick(self) -> None:
        until = time.monotonic() + _BUDGET_S
        for key, (job, then, failed) in list(self._reads.items()):
            self._deliver(key, job, then, failed)
        for live in list(self._jobs):
            if self._drain(live, until):
                live.changed.emit()
            if live.outcome:
                self._end(live)
        if not self.busy:
            self._timer.stop()
            self.idle.emit()

    def _drain(self, live: LiveJob, until: float) -> bool:
        told = False
        while not live.outcome:
            try:
                event = live.job.events.get_nowait()
            except Empty:
                break
            live.take(event)
            told = True
            if time.monotonic() > until:
                break
        return told

    def _end(self, live: LiveJob) -> None:
        self._jobs.remove(live)
        if live.outcome == "done":
            live.done.emit(live.result)
        elif live.outcome == "failed":
            live.failed.emit(live.error())
        live.ended.emit()
        self.ended.emit(live)

    def _deliver(
        self, key: str, job: Job, then: Callable[[Any], object], failed: Callable[[Exception], object]
    ) -> None:
        try:
            while not isinstance(event := job.events.get_nowait(), Done | Failed | Cancelled):
                pass  # how far it is, which nobody asked of a read
        except Empty:
            return
        if self._reads.get(key, (None,))[0] is not job:
            return
        del self._reads[key]
        if isinstance(event, Done) and alive(then):
            try:
                then(job.value)
            except AuditorError as error:  # such as that nothing may be begun in a project that is only read
                if alive(failed):
                    failed(error)
        elif isinstance(event, Failed) and alive(failed):
            failed(Bug(event.message, event.trace) if event.trace else AuditorError(event.message, event.hint))


def _append(series: Series, step: int, figures: dict[str, float]) -> None:
    for figure, value in figures.items():
        steps, values = series.setdefault(figure, ([], []))
        steps.append(step)
        values.append(value)


def alive(function: Callable[..., object]) -> bool:
    """Whether a bound method's widget still exists in C++."""
    owner = getattr(function, "__self__", None)
    return not isinstance(owner, QObject) or shiboken6.isValid(owner)


def while_alive(act: Callable[..., object], *given: object) -> Callable[..., object]:
    """`act`, a bound method, with these, as long as its owner exists: panes are made anew while jobs go on."""
    return lambda *told: act(*given, *told) if alive(act) else None
