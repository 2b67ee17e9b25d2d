"""Starts one verb as several processes of this machine, passes on what the first tells, and sees that all of them end.

A child has what torchrun gives in its environment, so that a verb needs to know no other launcher; its meeting point is
a file instead of a port. It writes events as JSON lines and stops when its standard input ends, which it also does when
this program dies.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from auditor.base.errors import AuditorError, Stop
from auditor.base.events import EVENT, Done, Event, Failed, Metric, Partial, Progress, Started
from auditor.base.paths import root
from auditor.base.reporter import Reporter

# Exit code of a process that ended because another one did.
BROKEN = 3
_STOPPED = 130
# Once one has failed, the others notice by themselves; then they are told, then made to end.
_GRACE_S, _TERM_S = 20.0, 5.0
# After one was killed the others have nothing to say, and one that waits to be connected to it would wait for minutes.
_KILLED_S = 8.0
_POLL_S = 0.1
_GOES_ON = "The same command goes on from what was kept."


def launch(arguments: Sequence[str], processes: int, reporter: Reporter) -> dict[str, Any]:
    """Run `auditor ARGUMENTS` as `processes` processes; the result of the first.

    Stop once cancelled and all have ended; AuditorError says why one failed, or that one was killed. In every case no
    process is left.
    """
    with tempfile.TemporaryDirectory(prefix="auditor-") as place:
        children = [
            subprocess.Popen(
                [*program(), *arguments], env=_environment(rank, processes, Path(place)), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, start_new_session=True,
            )
            for rank in range(processes)
        ]  # fmt: skip
        with _ended(children):
            return _Watch(children, reporter).until_all_ended()


def program() -> list[str]:
    """The command that runs this program."""
    if getattr(sys, "frozen", False):
        return [sys.executable]
    # Without -P, modules would be looked for where one stands first, which may be a stranger's folder.
    start = f"import sys; sys.path.insert(0, {str(root())!r}); from auditor.__main__ import main; sys.exit(main())"
    return [sys.executable, "-P", "-c", start]


def _environment(rank: int, processes: int, place: Path) -> dict[str, str]:
    ours = {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "AUDITOR_MEETING": (place / "meeting").as_uri(), "AUDITOR_LAUNCHER": "1",
    }  # fmt: skip
    share = str(max(1, (psutil.cpu_count() or 1) // processes))
    settings = {"OMP_NUM_THREADS": share, "RAYON_NUM_THREADS": share}  # the latter are those of tokenizers
    if "lo" in (name for _, name in socket.if_nameindex()):
        settings |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    return settings | dict(os.environ) | ours


class _Watch:
    """Reads the children's lines and notices how each ends."""

    def __init__(self, children: Sequence[subprocess.Popen[bytes]], reporter: Reporter) -> None:
        self.children = children
        self.reporter = reporter
        self.events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        self.failures: dict[int, Failed] = {}
        self.result: dict[str, Any] = {}
        self.stopping = False
        # The first that ended badly, by itself.
        self.first: int | None = None
        ranks = range(len(children))
        self._readers = [threading.Thread(target=self._read, args=(rank,), daemon=True) for rank in ranks]

    def until_all_ended(self) -> dict[str, Any]:
        for reader in self._readers:
            reader.start()
        patience = float("inf")
        while any(child.poll() is None for child in self.children):
            self._take()
            if self._one_failed() and patience == float("inf"):
                patience = time.monotonic() + (_KILLED_S if self._killed() else _GRACE_S)
                self._ask_to_stop()
            if time.monotonic() > patience:
                break
        self._one_failed()
        _end(self.children)
        for reader in self._readers:
            reader.join()
        self._take()
        return self._told()

    def _one_failed(self) -> bool:
        """Whether one has ended badly by itself; of several, one that was killed is the reason for the others."""
        bad = [rank for rank, child in enumerate(self.children) if child.poll()]
        if bad and self.first is None:
            self.first = min(bad, key=lambda rank: self.children[rank].returncode)
        return bool(bad)

    def _killed(self) -> bool:
        return self.first is not None and self.children[self.first].returncode < 0

    def _take(self) -> None:
        """Pass on what has come, waiting a little for the first."""
        wait = _POLL_S
        with contextlib.suppress(queue.Empty):
            while True:
                rank, event = self.events.get(timeout=wait)
                wait = 0.0
                self._pass_on(rank, event)
        self._unless_stopped(self.reporter.check)

    def _pass_on(self, rank: int, event: Event) -> None:
        match event:
            case Failed():
                self.failures[rank] = event
            case Done(result=result):
                self.result = result
            case Started(title=title, total=total, unit=unit):
                self.reporter.started(title, total, unit)
            case Progress(done=done, total=total, note=note, unit=unit):
                self._unless_stopped(lambda: self.reporter.step(done, total, note, unit))
            case Metric(step=step, values=values):
                self.reporter.metric(step, **values)
            case Partial(kind=kind, data=data):
                self.reporter.partial(kind, **data)

    def _unless_stopped(self, tell: Any) -> None:
        if self.stopping:
            return
        try:
            tell()
        except Stop:
            self.stopping = True
            self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        for child in self.children:
            assert child.stdin is not None
            child.stdin.close()

    def _read(self, rank: int) -> None:
        out = self.children[rank].stdout
        assert out is not None
        for line in out:
            try:
                self.events.put((rank, EVENT.validate_json(line)))
            except ValidationError:
                sys.stderr.write(line.decode("utf-8", "replace"))

    def _told(self) -> dict[str, Any]:
        codes = [child.returncode for child in self.children]
        own = [self.failures[rank] for rank in sorted(self.failures) if codes[rank] != BROKEN]
        if own:
            raise _failure(own[0])
        if self.stopping and any(code == _STOPPED for code in codes):
            raise Stop
        if self.first is not None and self._killed():
            name = signal.Signals(-codes[self.first]).name
            raise AuditorError(f"Process {self.first + 1} of {len(codes)} was killed ({name}).", _GOES_ON)
        if self.failures:
            raise _failure(self.failures[min(self.failures)])
        if any(codes):
            raise AuditorError(f"A process ended with code {next(code for code in codes if code)}.", _GOES_ON)
        return self.result


def _failure(event: Failed) -> Exception:
    if event.trace:
        return RuntimeError(event.trace)
    return AuditorError(event.message, event.hint)


@contextlib.contextmanager
def _ended(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    try:
        yield
    finally:
        _end(children)
        for child in children:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Make those end that have not: asked first, then killed."""
    for send, seconds in ((subprocess.Popen.terminate, _TERM_S), (subprocess.Popen.kill, _TERM_S)):
        left = [child for child in children if child.poll() is None]
        for child in left:
            send(child)
        for child in left:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(seconds)
