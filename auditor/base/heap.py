"""What a loop lets go of and asks for again in every turn stays with the program meanwhile, where glibc would give it
back to the system and have it cleared page by page each time."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import Any

# Of <malloc.h>: how much may lie free at a heap's end, how much more than is needed is added to it, and from which size
# memory is asked of the system by itself.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
# The most that glibc takes, and what its own rule ends at: twice that.
_MMAP_MOST = 32 << 20
_FREE_MOST, _FREE_AFTERWARDS = 512 << 20, 2 * _MMAP_MOST
# Threads have heaps of 64 MB, several each: the last one, once it is empty, goes unless this is as large.
_PAD, _PAD_AFTERWARDS = 64 << 20, 128 << 10


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
    libc.mallopt(_TOP_PAD, _PAD)
    try:
        yield
    finally:
        libc.mallopt(_TRIM_THRESHOLD, _FREE_AFTERWARDS)
        libc.mallopt(_TOP_PAD, _PAD_AFTERWARDS)
        libc.malloc_trim(0)
