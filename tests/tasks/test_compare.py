"""The verb “compare” on two dictionaries: what they share, beside what random directions share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from auditor.base.reporter import Reporter
from auditor.project import Project
from auditor.tasks import get_task, run_task
from auditor.tasks.result import read_result
from tests.sae.test_sae import random_sae


@pytest.fixture
def project(tmp_path: Path):
    with Project.create(tmp_path / "audit") as made:
        for name, seed in (("one", 0), ("other", 1), ("noisy", 0)):
            sae = random_sae("topk", d_in=48, d_sae=64, seed=seed)
            if name == "noisy":
                noise = torch.randn(sae.W_dec.shape, generator=torch.Generator().manual_seed(7))
                sae = replace(sae, W_dec=sae.W_dec + 0.2 * sae.W_dec.norm(dim=1, keepdim=True) * noise)
            path = made.new_path("dictionary", name)
            sae.save(path)
            made.add("dictionary", name, path, digest=sae.digest)
        yield made


def compared(project: Project, *names: str):
    told = run_task("compare", project, get_task("compare").read({"dictionaries": names}), Reporter())
    return read_result(project.find(told["artefacts"][0]).path)


def test_that_the_median_cosine_of_strangers_is_what_chance_gives(project: Project) -> None:
    strangers = compared(project, "one", "other")
    (cosine,) = strangers.further
    assert cosine.null is not None and cosine.null.n == 64
    assert cosine.null.p > 0.2 and cosine.estimate == pytest.approx(cosine.null.quantiles["0.5"], abs=0.1)
    assert strangers.metric is not None and strangers.metric.estimate <= 0.2


def test_that_a_relative_of_low_cosine_is_told_from_chance_whatever_counts_as_a_match(project: Project) -> None:
    (cosine,) = compared(project, "one", "noisy").further
    assert cosine.null is not None and cosine.null.p < 0.05 and cosine.estimate < 0.7
