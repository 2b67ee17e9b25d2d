"""Batches of texts run without the library's own look at what is known of them, whether texts are packed and whether
there is padding: it would make the program wait, in each pass, until a GPU is done with the one before, which then
idles until it is given the next."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

_here = threading.local()


@contextlib.contextmanager
def nothing_packed(ragged: bool | None = None) -> Iterator[None]:
    """Within the block this thread runs networks on texts whose positions go up from 0 by one, of which transformers
    (`masking_utils`) would find that none is packed. `ragged`, where it is known, is whether any position is padding,
    of every sequence of the block whose padding the network is given."""
    _taught()
    before = getattr(_here, "plain", False), getattr(_here, "ragged", None)
    _here.plain, _here.ragged = True, ragged
    try:
        yield
    finally:
        _here.plain, _here.ragged = before


@cache
def _taught() -> None:
    from transformers import masking_utils

    library: Any = masking_utils
    look = getattr(library, "find_packed_sequence_indices", None)
    if look is not None:  # another version may look elsewhere: it is then waited for
        library.find_packed_sequence_indices = lambda positions: (
            None if getattr(_here, "plain", False) else look(positions)
        )
    for name in ("_ignore_causal_mask_sdpa", "_ignore_bidirectional_mask_sdpa"):
        needless = getattr(library, name, None)
        if needless is not None:
            setattr(library, name, _told(needless))


def _told(needless: Callable[..., bool]) -> Callable[..., bool]:
    """`needless`, whether a mask can be left out, which is never so where there is padding; it is not asked to look for
    it where that is known."""

    def told(padding: Any, *others: Any, **more: Any) -> bool:
        ragged = getattr(_here, "ragged", None)
        if padding is None or ragged is None:
            return needless(padding, *others, **more)
        return not ragged and needless(None, *others, **more)

    return told
