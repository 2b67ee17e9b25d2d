"""How many threads prepare what other work waits for."""

from __future__ import annotations

import os

import pytest

from auditor.base.cores import preparing


@pytest.mark.parametrize(
    ("cores", "processes", "count"),
    [(2, "", 1), (1, "", 1), (12, "", 6), (64, "", 8), (64, "8", 4), (64, "64", 1), (16, "many", 8), (16, "0", 8)],
)
def test_that_half_of_a_process_s_cores_prepare(cores: int, processes: str, count: int, monkeypatch) -> None:
    """Those of its own (Slurm gives a job some of a machine's), shared with the other processes of its run."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert preparing() == count
