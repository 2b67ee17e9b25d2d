"""The recording bench: what it refuses, and what it tells."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.bench import bench_record


def test_that_what_cannot_be_measured_is_refused_before_a_network_is_opened(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench_record.py", "--peers", "nowhere", "--batch", "0"])
    with pytest.raises(SystemExit) as ended:
        bench_record.main()
    told = capsys.readouterr()
    assert ended.value.code == 2 and not told.out
    assert told.err.endswith("--peers compares at one number of samples at once: give --batch\n")


def test_that_the_wait_for_the_disk_is_a_share_of_what_the_network_ran(monkeypatch):
    """And not of the time in which samples were looked at before."""
    clock = iter([0.0, 1.0, 10.0, 12.0, 14.0, 15.0])
    monkeypatch.setattr(bench_record, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    parts = bench_record.Parts()
    parts.started("Check the samples")
    parts.started("Record")
    parts.metric(16, waiting_for_disk=0.9)
    parts.metric(32, waiting_for_disk=0.5)
    assert (parts.before, parts.waiting, parts.after) == (12.0, 2.0, 1.0)
