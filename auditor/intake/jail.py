"""A child process with limits on memory, processor time and wall time, in which untrusted bytes are parsed.

Only plain data crosses the pipe, in both directions: JSON with byte strings beside it, never a pickle. If the child
dies or hangs, the caller gets an AuditorError and goes on.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from auditor.base.cores import PREPARING
from auditor.base.errors import AuditorError
from auditor.base.files import no_more_files, too_many_files
from auditor.base.paths import root
from auditor.intake.wire import HEADER_BYTES, message, parsed, sizes

MAX_CALLS = 2000


@dataclass(frozen=True)
class Limits:
    """Of one child: address space and largest written file in bytes, processor seconds in all, wall seconds a call."""

    memory_bytes: int = 2 << 30
    cpu_seconds: int = 120
    wall_seconds: float = 30.0
    file_bytes: int = 0


def jailed(function_path: str, *args: Any, limits: Limits | None = None) -> Any:
    """Call ``"package.module:function"`` of this program in a child of its own and give its plain result.

    Arguments and result are made of None, bool, int, float, str, bytes, lists and dicts. AuditorError: raised by the
    function itself, or if the child died, hung or grew past `limits`.
    """
    with contextlib.closing(Jail(limits or Limits())) as jail:
        return jail.call(function_path, *args)


class _Died(AuditorError):
    """The child ended before it answered."""


class Jail:
    """A child that serves calls one after the other; it is started when needed and started anew after it died.

    `again`: a call in which a child died that had served others is tried once more in a new one; not for calls that
    build on one another.
    """

    def __init__(self, limits: Limits, *, again: bool = True) -> None:
        self.limits, self._again = limits, again
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._calls = 0

    def call(self, function_path: str, *args: Any) -> Any:
        """As `jailed`."""
        with self._lock:
            served = self._calls
            try:
                status, value = self._answer(function_path, args)
            except _Died:
                # One that served others before may only have used up the processor time of all of them together.
                if not served or not self._again:
                    raise
                status, value = self._answer(function_path, args)
        if status == "error":
            raise AuditorError(str(value[0]), str(value[1]))
        if status != "result":
            raise AuditorError(f"The file could not be read: {value}.", "It may be damaged or made to do harm.")
        return value

    def close(self) -> None:
        """End the child."""
        with self._lock:
            if self._child is not None:
                self._ended(self._child)

    def _answer(self, function_path: str, args: tuple[Any, ...]) -> tuple[str, Any]:
        child = self._running()
        self._calls += 1
        try:
            answer = self._exchange(child, message([function_path, list(args)]))
        except (OSError, ValueError, EOFError) as error:
            raise _death(error, self._ended(child), self.limits) from error
        except BaseException:
            self._ended(child)  # its answer, half read, would be taken for that of the next call
            raise
        if self._calls >= MAX_CALLS:
            self._ended(child)
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            if self._child is not None:
                self._ended(self._child)
            self._child, self._calls = _start(self.limits), 0
        return self._child

    def _exchange(self, child: subprocess.Popen[bytes], request: bytes) -> tuple[str, Any]:
        assert child.stdin is not None and child.stdout is not None
        deadline = time.monotonic() + self.limits.wall_seconds
        # The child reads a whole request before it answers, so writing cannot wait for reading.
        child.stdin.write(request)
        child.stdin.flush()
        answer = parsed(_read_message(child.stdout.fileno(), deadline, self.limits.memory_bytes))
        if not isinstance(answer, list) or len(answer) != 2 or not isinstance(answer[0], str):
            raise ValueError("the child's answer has another form")
        return answer[0], answer[1]

    def _ended(self, child: subprocess.Popen[bytes]) -> int:
        self._child = None
        with contextlib.suppress(OSError):
            child.kill()
        code = child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return code


class Jails:
    """Up to `most` children; a call takes one that is free, and where there is none waits for its turn: who looks at
    one picture is served in between by those that look at thousands."""

    def __init__(self, limits: Limits, most: int) -> None:
        self._limits, self._most, self._lock = limits, most, threading.Lock()
        self._made, self._free = list[Jail](), list[Jail]()
        self._turns = deque[Future[Jail]]()

    def call(self, function_path: str, *args: Any) -> Any:
        """As `jailed`."""
        turn = self._taken()
        try:
            return turn.result().call(function_path, *args)
        finally:
            if not turn.cancel():  # else it was interrupted before its turn
                self._left(turn.result())

    def _taken(self) -> Future[Jail]:
        turn = Future[Jail]()
        with self._lock:
            if not self._free and len(self._made) < self._most:
                self._made.append(Jail(self._limits))
                self._free.append(self._made[-1])
            if self._free:
                turn.set_result(self._free.pop())
            else:
                self._turns.append(turn)
        return turn

    def _left(self, jail: Jail) -> None:
        """Hand over what is not needed any more: if it were let go of, the same thread would take it again before
        another one wakes."""
        with self._lock:
            while self._turns:
                turn = self._turns.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(jail)
                    return
            self._free.append(jail)

    def close(self) -> None:
        """End all children."""
        for jail in self._made:
            jail.close()


# Made here, since threads that begin together would each make their own.
_shared = Jails(Limits(), PREPARING)
atexit.register(_shared.close)


def shared_jails() -> Jails:
    """The children that decode images and write conversations, of the whole program and ended with it."""
    return _shared


def _start(limits: Limits) -> subprocess.Popen[bytes]:
    given = [str(limits.memory_bytes), str(limits.cpu_seconds), str(limits.file_bytes)]
    if getattr(sys, "frozen", False):
        command = [sys.executable, "--jailed-child", *given]
    else:
        start = "from auditor.intake.child import main; main(sys.argv[1:])"
        code = f"import sys; sys.path.insert(0, {str(root())!r}); {start}"
        command = [sys.executable, "-I", "-B", "-W", "ignore", "-c", code, *given]
    kept = ("PATH", "SYSTEMROOT", "TMPDIR", "TEMP", "TMP", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
            close_fds=True,
        )  # fmt: skip
    except OSError as error:
        if too_many_files(error):
            raise no_more_files() from error
        raise AuditorError(
            f"The process that reads such files cannot be started ({error.strerror}).",
            "End other programs, or raise the system's limits (such as “ulimit -u”), and start again.",
        ) from error


def _read_message(handle: int, deadline: float, most: int) -> bytes:
    head = b"".join(_chunks(handle, HEADER_BYTES, deadline))
    wanted = sizes(head)
    if wanted > most:
        raise ValueError("the child's answer is too large")
    return head + b"".join(_chunks(handle, wanted, deadline))


def _chunks(handle: int, count: int, deadline: float) -> Iterator[bytes]:
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_READ)
        while count:
            if not selector.select(max(deadline - time.monotonic(), 0)):
                raise TimeoutError
            chunk = os.read(handle, min(count, 1 << 20))
            if not chunk:
                raise EOFError
            count -= len(chunk)
            yield chunk


def _death(error: Exception, code: int, limits: Limits) -> AuditorError:
    hint = "It may be damaged or made to do harm; nothing of it was kept."
    if isinstance(error, TimeoutError):
        return AuditorError(f"The file could not be read within {limits.wall_seconds:.0f} seconds.", hint)
    if isinstance(error, ValueError):
        return AuditorError("The process that read the file gave no sound answer.", hint)
    return _Died(f"The process that read the file was stopped (exit status {code}).", hint)
