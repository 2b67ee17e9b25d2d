"""Bytes on their way to the disk before anyone waits for them, so that the fsync which makes them safe has little left
to do."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

# Of <fcntl.h>: begin, and wait for nothing.
_WRITE = 2


def begin_writing(handle: int) -> None:
    """What was written to the file so far begins to go to the disk. It is no safer for that: errors are told by fsync
    alone. Nothing where the system has no such call."""
    if (call := _call()) is not None:
        call(handle, 0, 0, _WRITE)  # 0 bytes from 0 on: all


@cache
def _call() -> Any:
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    found = getattr(libc, "sync_file_range", None)
    if found is not None:
        found.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return found
