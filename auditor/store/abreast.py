"""The same work on several things at a time: rows of one hook point are checked beside another's, and one block of a
file is digested and written beside the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from auditor.base.cores import PREPARING

Item = TypeVar("Item")
Made = TypeVar("Made")


class Abreast:
    """So many `threads` (as `PREPARING`), once there is work for them; none where that is one."""

    def __init__(self, threads: int | None = None) -> None:
        count = threads or PREPARING
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="store-abreast") if count > 1 else None

    def each(self, do: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
        """What `do` makes of each; all are done, or have failed, when one's error is raised."""
        if self._pool is None or len(items) < 2:
            return [do(item) for item in items]
        begun = [self._pool.submit(do, item) for item in items]
        wait(begun)
        return [one.result() for one in begun]

    def close(self) -> None:
        """Let go of the threads."""
        if self._pool is not None:
            self._pool.shutdown()
