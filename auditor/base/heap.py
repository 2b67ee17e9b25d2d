"""What a loop lets go of and asks for again in every turn stays with the program meanwhile, where glibc would give it
back to the system and have it cleared page by page each time."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import Any

# Of <malloc.h>: from which size memory is asked of the system by itself, and how much may lie free at the heap's end.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# The most that glibc takes, and what its own rule ends at: twice that.
_MMAP_MOST = 32 << 20
_FREE_MOST, _FREE_AFTERWARDS = 512 << 20, 2 * _MMAP_MOST


@contextlib.contextmanager
def heap_kept() -> Iterator[None]:
    """Up to 512 MB that are let go of inside the block stay for what is asked for next; afterwards they are given back.
    Of the whole program; nothing where the system's C library is not glibc."""
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _MMAP_MOST)
    libc.mallopt(_TRIM_THRESHOLD, _FREE_MOST)
    try:
        yield
    finally:
        libc.mallopt(_TRIM_THRESHOLD, _FREE_AFTERWARDS)
        libc.malloc_trim(0)
