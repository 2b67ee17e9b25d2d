"""Batches of a store gathered by a process of its own into memory that both share: for a GPU whose steps are so short
that reading in a thread, which Python runs in turns with the loop, would hold it up.

The parent gives slots back by writing a byte to the child, the child says that the next slot is full by writing one;
slots are used in a ring. The child ends with its standard input.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.base.paths import root
from auditor.store.convert import Numbers
from auditor.store.layout import MANIFEST

SLOTS = 4
_FULL, _FAILED = b"f", b"e"


def pumps(store: Path) -> bool:
    """Whether a child can open what lies there, and this system shares memory without a file."""
    return hasattr(os, "memfd_create") and not getattr(sys, "frozen", False) and (store / MANIFEST).is_file()


class Pump:
    """`store.batches(batch_size, **how)` of the store in the folder `path`, [batch_size, columns] of its own `numbers`,
    as tensors in shared memory: the oldest that was handed out is good until `give_back`. With `pinned`, a GPU reads
    that memory by itself. Close it."""

    def __init__(
        self, path: Path, batch_size: int, columns: int, numbers: Numbers, how: Mapping[str, Any], *, pinned: bool
    ) -> None:
        dtype = numbers.tensor(np.empty(0, numbers.raw)).dtype
        size = batch_size * columns * dtype.itemsize
        handle = os.memfd_create("auditor-batches")
        try:
            os.ftruncate(handle, SLOTS * size)
            self._memory = mmap.mmap(handle, SLOTS * size)
            told = {"path": str(path), "batch_size": batch_size, "size": size, "how": dict(how), "handle": handle}
            code = f"import sys; sys.path.insert(0, {str(root())!r}); from auditor.sae.pump import main; main()"
            self._child = subprocess.Popen(
                # -I: modules are not looked for where one stands, which may be a stranger's folder.
                [sys.executable, "-I", "-W", "ignore", "-c", code, json.dumps(told)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, pass_fds=[handle],
            )  # fmt: skip
        finally:
            os.close(handle)
        whole = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._pinned = whole if pinned else None
        if self._pinned is not None:
            try:
                _cuda("cudaHostRegister", whole.data_ptr(), len(whole), 0)
            except RuntimeError:
                self._pinned, self._slots = None, []
                self.close()
                raise
        self._slots = [slot.view(dtype).view(batch_size, columns) for slot in torch.split(whole, size)]

    def __iter__(self) -> Iterator[Tensor]:
        """Batches in order. AuditorError with what the child says, or where it ends."""
        assert self._child.stdout is not None
        number = 0
        while True:
            said = os.read(self._child.stdout.fileno(), 1)
            if said == _FULL:
                yield self._slots[number % SLOTS]
                number += 1
                continue
            message, hint = json.loads(self._child.stdout.read() or b"null") if said == _FAILED else _ENDED
            raise AuditorError(message, hint)

    def give_back(self) -> None:
        """The oldest batch that was handed out is not needed any more."""
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the next read says why
            os.write(self._child.stdin.fileno(), b"g")

    def end(self) -> None:
        """End the child; who waits for a batch hears of it."""
        self._child.kill()

    def close(self) -> None:
        """End the child and let go of the memory."""
        self.end()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()
        self._child.wait()
        if self._pinned is not None:
            _cuda("cudaHostUnregister", self._pinned.data_ptr())
            self._pinned = None
        self._slots.clear()


_ENDED = "The process that reads the store ended.", "Start the training again: it goes on from where it was kept."


def _cuda(name: str, *arguments: int) -> None:
    error = getattr(torch.cuda.cudart(), name)(*arguments)  # type: ignore[no-untyped-call]
    if int(error):
        raise RuntimeError(f"{name} says {error} of the batches' memory")


def main() -> None:
    """The child."""
    from auditor.base.offline import go_offline
    from auditor.store import open_store

    go_offline()
    told = json.loads(sys.argv[1])
    answers = os.dup(1)
    os.dup2(2, 1)
    try:
        memory = mmap.mmap(told["handle"], 0)
        store = open_store(told["path"])
        filled, size = 0, told["size"]

        def room(shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
            begin = filled % SLOTS * size
            return np.frombuffer(memory, dtype, shape[0] * shape[1], begin).reshape(shape)

        for _ in store.batches(told["batch_size"], room=room, **told["how"]):
            os.write(answers, _FULL)
            filled += 1
            # The slots handed out first are free anyway.
            if filled >= SLOTS and not os.read(0, 1):
                return
        error = AuditorError("The store ran out of rows.", "Record more samples, or choose other positions.")
    except AuditorError as raised:
        error = raised
    os.write(answers, _FAILED + json.dumps([error.message, error.hint]).encode())
