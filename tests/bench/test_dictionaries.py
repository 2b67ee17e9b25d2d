"""Every architecture finds known directions, far better than chance."""

from __future__ import annotations

import pytest

from auditor.sae.archs import ARCHITECTURES
from tests.bench import bench_dictionaries
from tests.bench.bench_dictionaries import QUICK, run

# Mean largest cosine with the truth that each must reach in the small world, where chance reaches 0.42.
LEAST = {
    "topk": 0.95,
    "batchtopk": 0.9,
    "matryoshka": 0.8,
    "abstopk": 0.9,
    "groupmax": 0.95,
    "matching_pursuit": 0.95,
    "temporal": 0.85,
    "relu": 0.95,
    "gated": 0.95,
    "jumprelu": 0.9,
    "transcoder": 0.9,
    "skip_transcoder": 0.9,
    "crosscoder": 0.95,
    "clt": 0.9,
}


@pytest.mark.parametrize("arch", ARCHITECTURES.names())
def test_that_an_architecture_finds_the_truth(arch):
    found = run(arch, QUICK, seed=1)
    assert found["null"] < 0.5
    assert found["mmcs"] > max(LEAST[arch], found["null"] + 0.3)
    assert 0.3 * QUICK.active < found["l0"] < 3 * QUICK.active
    assert found["fvu"] < 0.4


def test_that_the_table_has_a_line_for_every_architecture(capsys):
    assert set(ARCHITECTURES.names()) <= set(bench_dictionaries.SETTINGS)
    assert bench_dictionaries.main(["--quick", "--seeds", "1", "--arch", "topk"]) == 0
    printed = capsys.readouterr().out
    assert "topk" in printed and "MMCS" in printed
