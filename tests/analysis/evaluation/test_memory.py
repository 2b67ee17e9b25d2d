"""What an evaluation takes at most: beside what it is seen to take, and refused where there is less."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from auditor.analysis.evaluation import figures, probes
from auditor.analysis.evaluation.memory import evaluation_bytes, must_fit
from auditor.analysis.evaluation.pooled import pool
from auditor.analysis.evaluation.probing import probing
from auditor.analysis.evaluation.tpp import tpp
from auditor.base.errors import AuditorError
from auditor.sae import Sae
from tests.analysis.evaluation.made import classes


def test_that_what_is_foreseen_is_not_exceeded_and_not_far_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (figures, probes):
        monkeypatch.setattr(module, "_CELLS", 1 << 15)
    monkeypatch.setattr("auditor.analysis.evaluation.memory._WORKING", 3 << 18)
    torch.manual_seed(0)
    n, d, m = 900, 16, 256
    decoder = torch.nn.functional.normalize(torch.randn(m, d), dim=1)
    sae = Sae("topk", decoder.T.contiguous(), decoder, torch.zeros(m), torch.zeros(d), k=8, hook="h")
    of, rng = np.arange(n) % 3, np.random.default_rng(0)
    rows = (rng.standard_normal((4, d)).astype(np.float32) + of[at] for at in range(n))
    tracemalloc.start()
    pooled = pool(sae, rows, n)
    for measure in (probing, tpp):
        measure(pooled, classes(of), (2,), seeds=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    foreseen = evaluation_bytes(sae, n, tasks=3, ks=1, splits=1)
    assert peak < foreseen < 3 * peak


def test_that_too_much_is_refused_with_what_would_fit() -> None:
    must_fit(100, 100, 7, "words", "fewer words")
    with pytest.raises(AuditorError, match=r"evaluate 4,000 words takes up to 8.0 GiB of memory, and 2.0") as raised:
        must_fit(8 << 30, 2 << 30, 4000, "words", "fewer words")
    assert raised.value.hint == "About 1,000 words fit: fewer words."
