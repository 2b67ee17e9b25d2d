"""The recording bench: what it refuses."""

from __future__ import annotations

import pytest

from tests.bench import bench_record


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--launch-bound", "--device", "cuda"],
         "--launch-bound makes a network that runs on the CPU: leave --device cuda out"),
        (["--peers", "nowhere", "--batch", "0"], "--peers compares at one number of samples at once: give --batch"),
    ],
)  # fmt: skip
def test_that_what_cannot_be_measured_is_refused_before_a_network_is_opened(asked, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench_record.py", *asked])
    with pytest.raises(SystemExit) as ended:
        bench_record.main()
    told = capsys.readouterr()
    assert ended.value.code == 2 and not told.out
    assert told.err.endswith(f"{said}\n")
