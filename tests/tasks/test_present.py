"""What a run read is named as it was when it was read, whatever the project took in before."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.models import open_model
from auditor.project import Artefact, Project
from auditor.sae.train_config import TrainConfig
from auditor.store import StoredSample, StoreWriter, open_store
from auditor.tasks import opening, present
from auditor.tasks.open import OpenConfig
from auditor.tasks.present import present_digest
from auditor.tasks.task import Run, run_task
from tests.models.tiny import ALL

HOOK = "blocks.1.resid_post"


def store_at(path: Path, seed: int) -> Path:
    """A small store of random rows, in the place of any other."""
    shutil.rmtree(path, ignore_errors=True)
    rows, column = np.random.default_rng(seed).normal(size=(600, 8)).astype("f4"), np.arange(600) // 20
    with StoreWriter(path, {HOOK: 8}, {"seed": seed}) as writer:
        samples = [StoredSample(str(number)) for number in range(30)]
        writer.append(samples, {HOOK: rows}, column, np.tile(np.arange(20), 30), np.ones(600), np.full(600, -1))
        writer.finish()
    return path


def made(project: Project, folder: Path) -> dict[str, Artefact]:
    """A model, samples, a store and a dictionary of the project."""
    ALL["llama"].save(folder / "m")
    (folder / "s.txt").write_text("one two\n\nred cat", encoding="utf-8")
    for name in ("m", "s.txt"):
        run_task("open", project, OpenConfig(path=str(folder / name)), Reporter())
    run_task("open", project, OpenConfig(path=str(store_at(folder / "a.store", 1))), Reporter())
    run_task("train", project, TrainConfig(d_sae=16, k=2, steps=4, batch_size=64, evaluate_rows=100), Reporter())
    return {held.kind: held for held in project.artefacts()}


def change(held: Artefact) -> None:
    """Another thing of its kind at its place."""
    if held.kind == "store":
        store_at(held.path, 2)
    elif held.kind == "samples":
        held.path.write_text("three", encoding="utf-8")
    else:
        file = held.path / ("config.json" if held.kind == "model" else "cfg.json")
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"added": 1}), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Any:
    with Project.create(tmp_path / "project") as held:
        yield held


def test_that_of_every_kind_the_record_has_what_was_read(project: Project, tmp_path: Path) -> None:
    held = made(project, tmp_path)
    run = Run(project, Reporter(), "r")
    for artefact in held.values():
        run.input(artefact.id, artefact.kind)
    assert run.inputs == {one.name: one.digest for one in held.values()} and not run.remarks
    for artefact in held.values():
        change(artefact)
    run = Run(project, Reporter(), "r")
    for artefact in held.values():
        run.input(artefact.id, artefact.kind)
    now = {"model": open_model(held["model"].path).digest, "store": open_store(held["store"].path).digest}
    for kind, artefact in held.items():
        assert run.inputs[artefact.name] != artefact.digest and len(run.inputs[artefact.name]) == 64
        assert run.inputs[artefact.name] == now.get(kind, run.inputs[artefact.name])
        (said,) = (one for one in run.remarks if f"The {kind} “{artefact.name}”" in one)
        assert f"sha256 {artefact.digest[:8]}… then, {run.inputs[artefact.name][:8]}… now" in said
    run.input(held["model"].id, "model")
    run.opens(held["model"])
    assert run.inputs["m"] == now["model"] == run.digest_of(held["model"]) and len(run.remarks) == len(held) + 1


def test_that_a_training_names_the_store_that_it_learned_from(project: Project, tmp_path: Path) -> None:
    held = made(project, tmp_path)["store"]
    change(held)
    warned: list[str] = []
    reporter = Reporter()
    reporter.partial = lambda kind, **data: warned.append(str(data.get("message")))  # type: ignore[method-assign]
    run_task("train", project, TrainConfig(d_sae=16, k=2, steps=4, batch_size=64, evaluate_rows=100), reporter)
    run, learned = project.runs()[-1], project.artefacts("dictionary")[-1]
    assert run.inputs == {"a": open_store(held.path).digest} and "The store “a” is no longer" in run.message
    assert any("The store “a” is no longer" in one for one in warned)
    assert run.inputs["a"] in (learned.path / "cfg.json").read_text("utf-8")


def test_that_what_nobody_wrote_since_is_not_read_again(project: Project, tmp_path: Path, monkeypatch: Any) -> None:
    held = made(project, tmp_path)
    looked: list[Path] = []
    for kind in present._DIGESTS:
        monkeypatch.setitem(present._DIGESTS, kind, lambda path: looked.append(path) or "0" * 64)
    monkeypatch.setattr(present, "_looked", {})
    for artefact in held.values():
        assert present_digest(replace(artefact, created="2999-01-01T00:00:00+00:00")) == artefact.digest
        assert not looked
        copied = replace(artefact, created="1999-01-01T00:00:00+00:00")  # on another machine
        for _ in range(2):
            assert present_digest(copied) == "0" * 64
        assert looked == [artefact.path]
        assert present_digest(replace(artefact, created="no time")) == artefact.digest
        looked.clear()


def test_that_what_is_gone_or_cannot_be_read_is_told_by_whoever_opens_it(project: Project, tmp_path: Path) -> None:
    held = made(project, tmp_path)
    shutil.rmtree(held["store"].path)
    held["samples"].path.write_bytes(b"")
    run = Run(project, Reporter(), "r")
    assert run.input(held["store"].id, "store").path == held["store"].path
    run.input(held["samples"].id, "samples")
    assert run.inputs == {"a": held["store"].digest, "s": held["samples"].digest} and not run.remarks
    with pytest.raises(AuditorError, match="is not an activation store"):
        run_task("train", project, TrainConfig(store=held["store"].id), Reporter())


def test_that_a_model_that_was_written_anew_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_models", OrderedDict())
    ALL["llama"].save(tmp_path / "m")
    first = opening.model_at(tmp_path / "m", device="cpu")
    assert opening.model_at(tmp_path / "m", device="cpu") is first
    (tmp_path / "m" / "notes.md").write_text("x", encoding="utf-8")
    again = opening.model_at(tmp_path / "m", device="cpu")
    assert again is not first and opening.model_at(tmp_path / "m", device="cpu") is again
    shutil.rmtree(tmp_path / "m")
    assert opening.model_at(tmp_path / "m", device="cpu") is again  # as with a stick that was pulled out
