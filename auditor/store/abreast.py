"""The same work for several hook points at a time: rows of one are checked, digested and written beside another's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from auditor.base.cores import PREPARING

Item = TypeVar("Item")
Made = TypeVar("Made")


class Abreast:
    """As many threads as `PREPARING`, no more than `most`, which is done at once; none where that is one."""

    def __init__(self, most: int) -> None:
        count = min(PREPARING, most)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="store-abreast") if count > 1 else None

    def each(self, do: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
        """What `do` makes of each; all are done, or have failed, when one's error is raised."""
        if self._pool is None:
            return [do(item) for item in items]
        begun = [self._pool.submit(do, item) for item in items]
        wait(begun)
        return [one.result() for one in begun]

    def close(self) -> None:
        """Let go of the threads."""
        if self._pool is not None:
            self._pool.shutdown()
