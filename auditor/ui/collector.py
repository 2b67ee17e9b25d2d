"""Keeps Python's garbage collector from stopping the window.

A full collection walks every object, and the engines alone bring hundreds of thousands that live as long as the
program: each one stopped every thread for longer than a person overlooks. What has survived a long collection is set
aside (`gc.freeze`) and not walked again.
"""

from __future__ import annotations

import gc
import time
from typing import Any

_LONG_S = 0.02


class ShortCollections:
    """Watches collections while it is installed."""

    def __init__(self) -> None:
        self._begun = 0.0

    def install(self) -> None:
        """Begin to watch; once is enough for a program."""
        gc.callbacks.append(self._watch)

    def remove(self) -> None:
        """Stop watching; what was set aside stays so."""
        gc.callbacks.remove(self._watch)

    def _watch(self, phase: str, facts: dict[str, Any]) -> None:
        if phase == "start":
            self._begun = time.perf_counter()
        elif facts["generation"] == 2 and time.perf_counter() - self._begun > _LONG_S:
            gc.freeze()
