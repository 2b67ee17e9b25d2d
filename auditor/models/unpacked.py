"""Batches of texts of which none is packed with another, run without the library's look for packed ones: it would make
the program wait, in each pass, until a GPU is done with the one before, which then idles until it is given the next."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

_here = threading.local()


@contextlib.contextmanager
def nothing_packed() -> Iterator[None]:
    """Within the block this thread runs networks on texts whose positions go up from 0 by one, of which transformers
    (`masking_utils`) would find that none is packed."""
    _taught()
    before = getattr(_here, "plain", False)
    _here.plain = True
    try:
        yield
    finally:
        _here.plain = before


@cache
def _taught() -> None:
    from transformers import masking_utils

    library: Any = masking_utils
    look = getattr(library, "find_packed_sequence_indices", None)
    if look is not None:  # another version may look elsewhere: it is then waited for
        library.find_packed_sequence_indices = lambda positions: (
            None if getattr(_here, "plain", False) else look(positions)
        )
