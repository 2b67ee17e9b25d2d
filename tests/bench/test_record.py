"""The recording bench: what it refuses."""

from __future__ import annotations

import pytest

from tests.bench import bench_record


def test_that_a_network_that_is_bound_by_launches_is_not_asked_for_on_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench_record.py", "--launch-bound", "--device", "cuda"])
    with pytest.raises(SystemExit) as ended:
        bench_record.main()
    told = capsys.readouterr()
    assert ended.value.code == 2 and not told.out
    assert told.err.endswith("--launch-bound makes a network that runs on the CPU: leave --device cuda out\n")
