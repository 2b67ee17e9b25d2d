"""The command line killed while it trains a sweep: the same command goes on, and ends with the same dictionaries."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from auditor.project import Project
from tests.journeys.conftest import Begun
from tests.journeys.running import done

TRAIN = ("train", "--d-sae", 256, "--batch-size", 128, "--steps", 90, "--checkpoint-every", 15, "--sweep",
         "k=4,8; seed=0,1", "--evaluate-rows", 512, "--splice-samples", 2, "--device", "cpu")  # fmt: skip


def started(project: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "auditor", *map(str, TRAIN), "--project", str(project), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def digests(project: Path) -> dict[str, str]:
    with Project.open(project) as held:
        return {a.name: a.digest for a in held.artefacts("dictionary") if "sweep" in a.meta}


def test_that_a_killed_sweep_goes_on_with_the_same_command_to_the_same_dictionaries(
    begun: Begun, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        shutil.copytree(begun.folder, folder)
    with started(whole) as child:
        told = child.communicate()[0]
    assert child.returncode == 0, told
    chance, places = random.Random(time.time_ns()), killed / "dictionaries"
    for kept in (1, 4):  # after the first of four has a checkpoint, and some time after all have
        with started(killed) as child:
            while len(list(places.glob("*.training.safetensors"))) < kept and child.poll() is None:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.3) if kept > 1 else 0)
            os.kill(child.pid, signal.SIGKILL)
            child.communicate()
        with Project.open(killed) as held:
            assert held.writable and held.log.check() is None
    found = done(*TRAIN, "--project", killed)
    assert digests(killed) == digests(whole) and len(digests(whole)) == 4
    assert len(found["dictionaries"]) == 4
    assert not list(places.glob("*.training.safetensors")) and not list(places.glob("*.partial"))
