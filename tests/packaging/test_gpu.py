"""What travels to a machine with a GPU: the models without their weights, which are drawn there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from auditor.base.paths import root
from auditor.data import text_sample
from auditor.models import open_model


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    place = importlib.util.spec_from_file_location("gpu", root() / "packaging" / "gpu.py")
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def test_that_weights_drawn_anew_have_the_shapes_of_those_left_behind(
    gpu: ModuleType, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    gpu.hollow(tiny_llama_folder, tmp_path / "m")
    assert not [*(tmp_path / "m").glob("*.safetensors")]
    gpu.fill(tmp_path / "m")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "m", tiny_llama_folder))
    assert {n: (t.dtype, t.shape) for n, t in ours.items()} == {n: (t.dtype, t.shape) for n, t in theirs.items()}
    model = open_model(tmp_path / "m")
    run = model.run(model.encode([text_sample("one two three")]), record=["blocks.1.resid_post"])
    assert torch.isfinite(run.logits).all() and run.records["blocks.1.resid_post"].std() > 0


def test_that_a_step_that_fails_or_takes_too_long_keeps_no_other_from_running(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wheels").mkdir()
    monkeypatch.setattr(gpu, "MODELS", ())
    for name, code in {"slow": "import time; time.sleep(60)", "wrong": "exit(3)", "right": "print('here')"}.items():
        (tmp_path / f"{name}.py").write_text(code, "utf-8")
    monkeypatch.setattr(gpu, "STEPS", {str(tmp_path / f"{name}.py"): 2 for name in ("slow", "wrong", "right")})
    assert gpu.measure(tmp_path) == 1
    told = capfd.readouterr().out
    assert "exit 124" in told and "exit 3" in told and "here" in told and "1 of 3 done" in told
