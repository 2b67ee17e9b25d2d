"""A process that trains in children it forks; the tests kill them, or let them meet a full disk or too little memory.

Each line of standard input is a JSON object: `folder`, `config` (settings, with a sweep), `point` where the child kills
itself (as in tests/store/killed_writer.py, or ``step:N`` after step N), `seconds` until it is killed, `memory` that it
may take beside what it has, whether ReLU is to be `dense` as it is on a GPU, `full`: the step after which it fills the
disk, `stops`: whether the person wants it to end as soon as it waits for room. Answers: each step, what went wrong in
words, ``done``, and ``over`` when the child is gone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from auditor.base.errors import AuditorError, Stop
from auditor.base.reporter import Reporter
from auditor.sae.archs.relu import Relu
from auditor.sae.sweep import expand
from auditor.sae.trainer import TrainConfig, train_all
from tests.sae.memory_store import MemoryStore, known
from tests.store.killed_writer import die_at

ROWS = known(3000)[0]


class Saying(Reporter):
    def __init__(self, folder: Path, last: int, full: int, stops: bool) -> None:
        self.folder, self.last, self.full, self.stops = folder, last, full, stops

    def step(self, done: int, total: int = 0, note: str = "", unit: str = "") -> None:
        if note.startswith("waiting"):
            if self.stops:
                raise Stop
            return
        say(done)
        if done == self.full:
            self.full = -1
            with open(self.folder / "ballast", "wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.folder).free)
        if done == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def partial(self, kind: str, **data: object) -> None:
        if kind in ("warning", "disk_full"):
            say(data["message"])


def outs_of(folder: Path, config: TrainConfig) -> list[Path]:
    return [folder / f"{number}.sae" for number in range(len(expand(config)))]


def train(asked: dict) -> None:
    torch.set_num_threads(1)
    config, folder, point = TrainConfig.model_validate(asked["config"]), Path(asked["folder"]), asked.get("point", "")
    last = int(point.partition(":")[2]) if point.startswith("step:") else -1
    if point and last < 0:
        die_at(point)
    if asked.get("dense"):
        Relu.by_hand = lambda self, parameters, batch: None
    if "memory" in asked:
        import resource

        import psutil

        limit = psutil.Process().memory_info().vms + asked["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    lacking = [pair for pair in zip(expand(config), outs_of(folder, config), strict=True) if not pair[1].exists()]
    if lacking:
        configs, outs = zip(*lacking, strict=True)
        saying = Saying(folder, last, asked.get("full", -1), asked.get("stops", False))
        train_all(configs, MemoryStore(ROWS), outs, saying)
    say("done")


def say(what: object) -> None:
    os.write(1, f"{what}\n".encode())


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                train(asked)
            except AuditorError as error:
                say(f"{error.message} {error.hint}")
            except Stop:
                say("stopped")
            finally:
                os._exit(0)
        if asked.get("seconds") is not None:
            time.sleep(asked["seconds"])
            os.kill(child, signal.SIGKILL)  # at worst it has ended: until it is waited for, its number stays its own
        os.waitpid(child, 0)
        say("over")


if __name__ == "__main__":
    main()
