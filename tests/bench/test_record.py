"""The recording bench: what it refuses."""

from __future__ import annotations

import pytest

from tests.bench import bench_record


def test_that_what_cannot_be_measured_is_refused_before_a_network_is_opened(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench_record.py", "--peers", "nowhere", "--batch", "0"])
    with pytest.raises(SystemExit) as ended:
        bench_record.main()
    told = capsys.readouterr()
    assert ended.value.code == 2 and not told.out
    assert told.err.endswith("--peers compares at one number of samples at once: give --batch\n")
