"""The verb train shared by processes: sweeps, fine-tuning and streams give what one process makes of them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.sae import load
from tests.torchrun.processes import together
from tests.torchrun.runs import HOOK, stored, train_share, train_told


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("stored") / "s.store")


def assert_alike(paths, others):
    assert paths and len(paths) == len(others)
    for path, other in zip(map(load, paths), map(load, others), strict=True):
        curve, expected = (np.array(sae.meta["curve"]["rows"]) for sae in (path, other))
        np.testing.assert_allclose(curve, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(path.W_dec.numpy(), other.W_dec.numpy(), atol=2e-3)


@pytest.mark.parametrize("how", ["rows", "features"])
def test_that_a_sweep_and_its_fine_tuning_are_those_of_one_process(how, store, tmp_path):
    swept = {"rows": "k=4,6", "features": "k=4,6; arch=topk,batchtopk"}[how]
    changed = {"store": str(store), "hook": HOOK, "sweep": swept}
    made = together(2, train_share, tmp_path / "p", how, **changed)[0]
    assert_alike(made, together(1, train_share, tmp_path / "q", None, **changed)[0])
    assert {load(path).meta["shared"] for path in made} == {how}
    tuned = {"store": str(store), "hook": HOOK, "steps": 5, "seed": 3, "start_from": str(made[0])}
    again = together(2, train_share, tmp_path / "p", how, **tuned)[0]
    assert_alike(again, together(1, train_share, tmp_path / "q", None, **tuned)[0])
    (refused, other) = together(2, train_share, tmp_path / "p", how, **tuned)
    assert isinstance(refused, AuditorError) and "settings already" in refused.message
    assert isinstance(other, AuditorError)


def test_that_a_stream_is_that_of_one_process(tiny_llama_folder, texts, tmp_path):
    source = {"model": str(tiny_llama_folder), "samples": f"{texts}?by=line", "buffer_rows": 1024, "context": 16}
    changed = {**source, "hook": "blocks.1.resid_post", "steps": 6}
    made = together(2, train_share, tmp_path / "p", "rows", **changed)[0]
    assert_alike(made, together(1, train_share, tmp_path / "q", None, **changed)[0])


def test_that_what_it_takes_is_planned_before_and_told_after(store, tmp_path):
    changed = {"store": str(store), "hook": HOOK, "d_sae": 8192, "steps": 6, "evaluate_rows": 64}
    planned = {}
    for how in ("rows", "features"):
        result, ((_, meta),) = together(2, train_told, tmp_path / how, how, **changed)[0]
        planned[how], took = result["planned"], result["took"]
        assert planned[how].keys() == took.keys() == {"minutes", "after_minutes", "step_ms", "memory_mb", "disk_mb"}
        assert planned[how]["disk_mb"] == pytest.approx(took["disk_mb"], abs=0.05)
        assert planned[how]["after_minutes"] > 0 < took["after_minutes"]  # what the first process measures at the end
        steps = planned[how]["minutes"] - planned[how]["after_minutes"]
        assert steps == pytest.approx(planned[how]["step_ms"] * 6 / 60e3) and took["step_ms"] > 0
        for name, value in took.items():
            assert meta[f"took_{name}"] == value and meta[f"planned_{name}"] == planned[how][name]
    # Weights, gradients and two moments, on each of the two or half of them on each.
    state = 16 * (2 * 24 + 1) * 8192 / 1e6
    assert planned["rows"]["memory_mb"] > 2 * state and planned["features"]["memory_mb"] > state


def test_that_what_does_not_fit_is_refused_before_the_first_step(store, tmp_path):
    changed = {"store": str(store), "hook": HOOK, "d_sae": 16_384, "room": 30_000_000}
    ends = together(2, train_told, tmp_path / "p", "features", **changed)
    assert all(isinstance(end, AuditorError) for end in ends)
    assert re.search(r"needs about \d+\.\d MB of memory, and 30\.0 MB are free", ends[0].message)
    assert not list((tmp_path / "p/dictionaries").iterdir())
