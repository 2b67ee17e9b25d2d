"""The training bench: what it prints, that a contender may fail, and the search for a common sparsity."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.contenders.process import Failed
from tests.bench.contenders.search import best

BENCH = Path(__file__).with_name("bench_sae.py")
SMALL = ["--d-in", "32", "--d-sae", "64", "--batch-size", "64", "--k", "4", "--rows", "2000", "--blocks", "2"]
PROMISED = {
    "name", "version", "arch", "device", "step_ms_median", "samples_per_s", "peak_rss_mb", "fvu", "l0", "dead", "runs",
}  # fmt: skip


def ran(*arguments):
    command = [sys.executable, str(BENCH), *SMALL, "--steps-per-block", "4", "--json", *arguments]
    env = {**os.environ, "PYTHONPATH": str(BENCH.parents[2])}
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_that_every_row_has_the_promised_figures_and_a_failing_peer_is_told(tmp_path):
    only = [f"--only={name}" for name in ("auditor", "plain torch", "sparsify")]
    done = ran(*only, f"--peer-path=sparsify={tmp_path}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["name"] for row in found["rows"]] == ["auditor", "plain torch"]
    for row in found["rows"]:
        assert set(row) >= PROMISED
        assert row["l0"] == pytest.approx(4)
        assert 0 < row["fraction_of_floor"] == found["floor_ms"] / row["step_ms_median"]
    assert found["fastest_peer_ratio"] is None  # a plain loop is no peer
    (failed,) = found["failed"]
    assert failed["name"] == "sparsify"
    assert "No module named 'sparsify'" in failed["error"]


@pytest.mark.parametrize("start", [0.01, 1.0, 300.0])
def test_that_the_search_finds_the_coefficient_of_the_wanted_sparsity_and_the_best_rate(start):
    def run(rate, coefficient):
        if rate > 1:
            raise Failed("ended with 1")
        return {"fvu": abs(rate - 3e-3), "l0": 500 / (1 + coefficient) ** 1.3}

    found = best(run, [1e-3, 3e-3, 10.0], start, 32.0, lambda line: None)
    assert found["lr"] == 3e-3
    assert run(3e-3, found["coefficient"])["l0"] == pytest.approx(32, rel=0.1)
    with pytest.raises(Failed, match="ended with 1"):
        best(run, [10.0], start, 32.0, lambda line: None)


def test_that_the_search_gives_up_where_the_coefficient_changes_nothing():
    tried = []

    def run(rate, coefficient):
        tried.append(coefficient)
        return {"fvu": 0.5, "l0": 200.0}

    assert best(run, [1e-3], 1.0, 32.0, lambda line: None)["tried"][0]["l0"] == 200
    assert len(tried) == 2
