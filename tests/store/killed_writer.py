"""A process that writes stores in children it forks, and says which batches are acknowledged; the tests kill them.

Each line of standard input is JSON [folder, batches, point, seconds until it is killed or null]. `point` names where
the child kills itself: a function of os, before or after, and which call of it, such as ``replace:<:3``. Answers: the
number of acknowledged batches after each append, ``done`` when the store is finished, ``over`` when the child is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from auditor.base.errors import AuditorError
from auditor.store import StoredSample, StoreWriter
from auditor.store import writer as writing

HOOKS = {"h": 16}
ROWS = 50


def batch_rows(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(ROWS, 16)).astype(np.float32)


def append(writer: StoreWriter, number: int) -> None:
    columns = {
        "sample": np.zeros(ROWS, int),
        "unit": np.arange(ROWS),
        "kind": np.ones(ROWS),
        "token": np.full(ROWS, number),
    }
    writer.append([StoredSample(f"s{number}", text=f"text {number}")], {"h": batch_rows(number)}, **columns)


def die_at(point: str) -> None:
    """Kill this process right before (``<``) or after (``>``) the n-th call of a function of os."""
    name, when, count = point.split(":")
    inner, left = getattr(os, name), [int(count)]

    def wrapped(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0 and when == "<":
            os.kill(os.getpid(), signal.SIGKILL)
        result = inner(*args, **kwargs)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(os, name, wrapped)


def write(folder: str, batches: int, point: str) -> None:
    writing.PIECE_BYTES = 2500  # two batches are acknowledged together, and three make a shard
    if point:
        die_at(point)
    with StoreWriter(Path(folder), HOOKS, {"a": 1}, shard_bytes=4800) as writer:
        say(writer.n_batches)
        for number in range(writer.n_batches, batches):
            append(writer, number)
            say(writer.n_batches)
        writer.finish()
        say("done")


def say(what: object) -> None:
    os.write(1, f"{what}\n".encode())


def main() -> None:
    for line in sys.stdin:
        *asked, seconds = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                write(*asked)
            except AuditorError as error:
                say(error.message)
            os._exit(0)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)  # at worst it has ended: until it is waited for, its number stays its own
        os.waitpid(child, 0)
        say("over")


if __name__ == "__main__":
    main()
