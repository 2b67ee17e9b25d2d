"""Memory that a loop lets go of stays with it, and is given back afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LOOP = """
import json, resource, sys, threading
import numpy as np
from auditor.base.heap import heap_kept
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        held = [np.ones(1 << 20) for _ in range(8)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def kept():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) >> 10
def compare():
    outside, before = faults(), kept()
    with heap_kept():
        faults()
        inside, meanwhile = faults(), kept()
    print(json.dumps([outside, inside, meanwhile - before, kept() - before]))
if sys.argv[1] == "thread":
    one = threading.Thread(target=compare)
    one.start()
    one.join()
else:
    compare()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="faults are counted as Linux counts them")
@pytest.mark.parametrize("where", ["program", "thread"])
def test_that_memory_of_a_loop_is_cleared_once_and_given_back_afterwards(where: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOP, where], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    outside, inside, meanwhile, afterwards = json.loads(done.stdout)
    assert outside > 10_000 and inside < outside / 20
    assert meanwhile - afterwards > 30 and afterwards < 10, f"{meanwhile} MB held meanwhile, {afterwards} afterwards"
