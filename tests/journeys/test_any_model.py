"""Models of any kind by the command line: a family without an adapter, an adapter over a base, small number formats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from auditor.project import Project
from auditor.store import open_store
from tests.journeys.running import auditor, done, made
from tests.models.peft.make_fixtures import FIXTURES
from tests.models.test_generic import saved, xglm
from tests.models.tiny import ALL
from tests.models.tiny.entry import word_tokenizer


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty project, and texts that the tiny networks can read."""
    Project.create(tmp_path / "project").close()
    lines = ["one two red cat sat", "cat three two one", "red red cat", "sat sat one two"]
    (tmp_path / "texts.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def told(place: Path, *arguments: object) -> dict[str, object]:
    return done(*arguments, "--project", place / "project")


def test_that_a_family_without_an_adapter_is_recorded_at_its_own_modules(place: Path) -> None:
    saved(xglm, place / "strange")
    opened = told(place, "open", place / "strange")
    assert opened["family"] == "xglm" and "no adapter for “xglm”" in str(opened["note"])
    plain = auditor("open", place / "strange", "--project", place / "project")
    assert "hook points have the network's own names" in plain.out
    with Project.open(place / "project", write=False) as project:
        assert project.artefacts("model")[0].meta["note"] == opened["note"]
    hooks = ("--hooks", "model.layers.1", "--hooks", "model.layers.0.fc1")
    recorded = told(place, "record", "--model", "strange", "--samples", place / "texts.txt", *hooks, "--device", "cpu")
    store = open_store(made(recorded, "store"))
    assert dict(store.hook_points) == {"model.layers.0.fc1": 48, "model.layers.1": 32}
    refused = auditor("record", "--model", "strange", "--samples", place / "texts.txt", "--project", place / "project")
    assert refused.code == 2 and "Choose a hook point" in refused.err


def test_that_other_names_give_the_store_of_the_canonical_ones(place: Path) -> None:
    ALL["llama"].save(place / "llama")
    told(place, "open", place / "llama")
    common = ("record", "--model", "llama", "--samples", place / "texts.txt", "--device", "cpu")
    recorded = told(place, *common, "--hooks", "blocks.1.hook_resid_post", "--hooks", "model.layers.0.mlp")
    assert recorded["hooks"] == ["blocks.0.mlp_out", "blocks.1.resid_post"]
    again = auditor(*common, "--hooks", "blocks.1.resid_post", "--hooks", "blocks.0.mlp_out", "--project",
                    place / "project")  # fmt: skip
    assert again.code == 2 and "these settings already" in again.err


def test_that_an_adapter_is_opened_over_its_base_and_recorded(place: Path) -> None:
    base = place / "base"
    shutil.copytree(FIXTURES / "base-llama", base)
    word_tokenizer(base, ends=False)
    shutil.copytree(FIXTURES / "patterns", place / "tuned")
    refused = auditor("open", place / "tuned", "--project", place / "project")
    assert refused.code == 2 and "“someone/llama”" in refused.err and "--base FOLDER" in refused.err
    told(place, "open", base)
    opened = told(place, "open", place / "tuned", "--base", "base")
    assert opened["adapter"] == {"kind": "lora", "changes": 12}
    assert {"adapter/adapter_config.json", "base/config.json"} <= set(opened["files"])  # type: ignore[arg-type]
    file = made(opened, "model")
    assert json.loads(file.read_text())["base"] == str(base) and file.parent == place / "project" / "models"
    rows = {}
    for model in (file.name.removesuffix(".model.json"), "base"):
        hook = ("--hooks", "blocks.1.resid_post", "--device", "cpu")
        recorded = told(place, "record", "--model", model, "--samples", place / "texts.txt", *hook)
        store = open_store(made(recorded, "store"))
        rows[model] = store.rows(np.arange(store.n_rows))
        facts = store.meta["model"]
        assert ("adapter" in facts and "base" in facts) == (model != "base")
    ours, theirs = rows.values()
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() > 0.1
    shutil.move(base, place / "moved")
    gone = auditor("record", "--model", file, "--samples", place / "texts.txt", "--context", 8, "--project",
                   place / "project")  # fmt: skip
    assert gone.code == 2 and "any more" in gone.err


def test_that_small_formats_are_tried_recorded_and_measured(place: Path) -> None:
    ALL["llama"].save(place / "llama")
    opened = told(place, "open", place / "llama", "--dtype", "int8", "--compare")
    measured = opened["departure"]
    assert isinstance(measured, dict) and 0 < measured["relative_error"] < 0.1 and 0 < measured["kl_nats"] < 0.1
    plain = auditor("open", place / "llama", "--dtype", "bfloat16", "--compare", "--device", "auto", "--project",
                    place / "project")  # fmt: skip
    assert "departure: format bfloat16, relative_error" in plain.out and "placement: all on" in plain.out
    stores = [
        open_store(made(told(place, "record", "--model", "llama", "--samples", place / "texts.txt", "--dtype", dtype,
                             "--hooks", "blocks.2.resid_post", "--device", "cpu"), "store"))
        for dtype in ("int8", "float16", "float32")
    ]  # fmt: skip
    small, half, exact = (store.rows(np.arange(store.n_rows)).astype(np.float64) for store in stores)
    assert [store.meta["dtype"] for store in stores] == ["int8", "float16", "float32"]
    error = [np.linalg.norm(rows - exact) / np.linalg.norm(exact) for rows in (small, half)]
    assert 0 < error[1] < error[0] < 0.1


@pytest.mark.parametrize(("method", "says"), [("bitsandbytes", "CUDA"), ("mxfp4", "mxfp4"), ("awq", "GGUF")])
def test_that_quantised_folders_say_what_would_open(place: Path, method: str, says: str) -> None:
    ALL["llama"].save(place / "small")
    path = place / "small" / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": {"quant_method": method, "bits": 4}}
    path.write_text(json.dumps(config))
    refused = auditor("open", place / "small", "--project", place / "project")
    assert refused.code == 2 and says in refused.err and "int8" in refused.err
