"""The jailed child's side: limits first, then calls of functions of this program, answered with plain data."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Any

from auditor.base.errors import AuditorError
from auditor.intake.wire import HEADER_BYTES, message, parsed, sizes


def main(arguments: list[str]) -> None:
    """Serve calls from standard input until it ends. `arguments`: memory bytes, processor seconds, file bytes."""
    memory, cpu, file = (int(value) for value in arguments[:3])
    limit(memory, cpu, file)
    from auditor.base.offline import go_offline

    go_offline()
    # What a library prints must not get between the answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    while True:
        head = _read(HEADER_BYTES)
        if head is None:
            return
        body = _read(sizes(head))
        if body is None:
            return
        _write(answers, message(list(answer(head + body))))


def limit(memory: int, cpu: int, file: int) -> None:
    """Limits of the system on this process; on systems without them only the parent's clock holds."""
    try:
        import resource
    except ImportError:
        return
    wanted = (
        (resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, cpu), (resource.RLIMIT_FSIZE, file),
        (resource.RLIMIT_CORE, 0),
    )  # fmt: skip
    for what, value in wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (value, value))


def answer(request: bytes) -> tuple[str, Any]:
    """("result", value), ("error", [message, hint]) or ("failed", text)."""
    try:
        path, arguments = parsed(request)
        module, name = str(path).split(":")
        if not module.startswith("auditor."):
            return "failed", "the function is not of this program"
        return "result", getattr(importlib.import_module(module), name)(*arguments)
    except AuditorError as error:
        return "error", [error.message, error.hint]
    except MemoryError:
        return "failed", "it needs more memory than is allowed"
    except Exception as error:
        return "failed", f"{type(error).__name__}: {str(error)[:200]}"


def _read(count: int) -> bytes | None:
    data = sys.stdin.buffer.read(count)
    return data if len(data) == count else None


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
