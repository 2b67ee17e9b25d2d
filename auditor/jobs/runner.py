"""The runner: lane “gpu” does its jobs in order; lane “read” drops waiting requests that a newer one replaces, and so
does lane “measure”, for those that take seconds and must hold up no read."""

from __future__ import annotations

import itertools
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from auditor.base.errors import AuditorError, Stop
from auditor.base.events import Cancelled, Done, Event, Failed
from auditor.base.reporter import Control, EventReporter, Reporter

Lane = Literal["gpu", "read", "measure"]
State = Literal["waiting", "running", "paused", "done", "failed", "cancelled"]
Work = Callable[[Reporter], dict[str, Any] | None]
_numbers = itertools.count(1)


class Job:
    """One piece of long work: its state, its control and the queue of what it tells."""

    def __init__(self, lane: Lane, title: str, work: Work, key: str = "", on_event: Callable[[], None] | None = None):
        self.id = next(_numbers)
        self.lane = lane
        self.title = title
        self.key = key
        self.control = Control()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.value: Any = None
        self.started = 0.0
        self.ended = 0.0
        self._work = work
        self._on_event = on_event
        self._state: State = "waiting"
        self._finished = threading.Event()

    @property
    def state(self) -> State:
        return "paused" if self._state == "running" and self.control.paused else self._state

    def cancel(self) -> None:
        self.control.cancel()

    def wait(self, seconds: float | None = None) -> bool:
        """Block until it ended, at most `seconds`; whether it did. Never call it on the GUI thread."""
        return self._finished.wait(seconds)

    def put(self, event: Event) -> None:
        self.events.put(event)
        if self._on_event is not None:
            self._on_event()

    def run(self) -> None:
        """Do the work on this thread and tell how it ended."""
        self.started = time.monotonic()
        if self.control.cancelled:
            self.finish("cancelled", Cancelled())
            return
        self._state = "running"
        try:
            self.value = self._work(EventReporter(self.put, self.control))
        except Stop:
            self.finish("cancelled", Cancelled())
        except AuditorError as error:
            self.finish("failed", Failed(message=error.message, hint=error.hint))
        except Exception as error:  # our bug: the job ends, the window lives on and shows the trace
            text = f"{type(error).__name__}: {error}"
            self.finish(
                "failed", Failed(message=text, hint="This is a fault of the program.", trace=traceback.format_exc())
            )
        else:
            self.finish("done", Done(result=self.value if isinstance(self.value, dict) else {}))

    def finish(self, state: State, event: Event) -> None:
        self._state = state
        self.ended = time.monotonic()
        self._finished.set()
        self.put(event)


class Runner:
    """Runs jobs, one thread a lane, started when first needed."""

    def __init__(self) -> None:
        self._waiting: dict[Lane, deque[Job]] = {"gpu": deque(), "read": deque(), "measure": deque()}
        self._threads: dict[Lane, threading.Thread] = {}
        self._running: dict[Lane, Job] = {}
        self._changed = threading.Condition()
        self._closing = False

    def submit(
        self, lane: Lane, title: str, work: Work | Callable[[Reporter], Any], *, key: str = "",
        on_event: Callable[[], None] | None = None,
    ) -> Job:  # fmt: skip
        """Queue `work`. In lanes other than “gpu”, those with the same non-empty `key` are dropped: the newest wins."""
        job = Job(lane, title, work, key, on_event)
        dropped: list[Job] = []
        with self._changed:
            if self._closing:
                raise RuntimeError("the runner is closed")
            if lane != "gpu" and key:
                dropped = [held for held in self._waiting[lane] if held.key == key]
                running = self._running.get(lane)
                if running is not None and running.key == key:
                    running.cancel()
                for held in dropped:
                    self._waiting[lane].remove(held)
            self._waiting[lane].append(job)
            if lane not in self._threads:
                thread = threading.Thread(target=self._serve, args=(lane,), name=f"auditor-{lane}", daemon=True)
                self._threads[lane] = thread
                thread.start()
            self._changed.notify_all()
        for held in dropped:
            held.control.cancel()
            held.finish("cancelled", Cancelled())
        return job

    def close(self, seconds: float = 10.0) -> None:
        """Cancel everything and wait for the threads to end."""
        with self._changed:
            self._closing = True
            for lane in self._waiting:
                for job in self._waiting[lane]:
                    job.cancel()
                running = self._running.get(lane)
                if running is not None:
                    running.cancel()
            self._changed.notify_all()
        for thread in self._threads.values():
            thread.join(seconds)

    def _serve(self, lane: Lane) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting[lane])
                if not self._waiting[lane]:
                    return
                job = self._waiting[lane].popleft()
                self._running[lane] = job
            job.run()
            with self._changed:
                del self._running[lane]
