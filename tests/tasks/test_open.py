"""What opening a model tells of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditor.base.reporter import Reporter
from auditor.cli.main import main
from auditor.project import Project
from auditor.store import open_store
from auditor.tasks import run_task
from auditor.tasks.open import OpenConfig
from tests.models.tiny import ALL
from tests.torchrun.runs import stored


def test_that_of_a_model_without_logits_only_the_residual_stream_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ALL["siglip2 vision"].save(tmp_path / "m")
    opened = ["open", str(tmp_path / "m"), "-p", str(tmp_path / "project"), "--dtype", "int8", "--compare"]
    assert main(opened) == 0
    told = capsys.readouterr().out
    (line,) = (line for line in told.splitlines() if line.startswith("departure"))
    assert line.startswith("departure: format int8, n ") and "residual stream" in told and "fvu" in told


def test_that_what_the_project_holds_keeps_its_id_and_all_that_is_known_of_it(tmp_path: Path) -> None:
    """A look must not cut it off from what was made of it, nor forget the doctor's verdict."""
    with Project.create(tmp_path / "p") as project:
        store = stored(project.new_path("store", "small"))
        kept = project.add("store", "small", store, digest=open_store(store).digest, run="r1", meta={"model": "m1"})
        for asked in (str(store), "small", kept.id):
            told = run_task("open", project, OpenConfig(path=asked, row=3), Reporter())
            assert told["artefacts"] == [kept.id] and told["row"][0]["row"] == 3
        (held,) = project.artefacts("store")
        assert (held.id, held.name, held.run, held.meta["model"]) == (kept.id, "small", "r1", "m1")
        assert held.meta["rows"] == 4096
        run_task("open", project, OpenConfig(path="small", name="renamed"), Reporter())
        assert [(a.id, a.name) for a in project.artefacts()] == [(kept.id, "renamed")]


def test_that_a_model_of_texts_without_a_tokenizer_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ALL["llama"].save(tmp_path / "m")
    for file in (tmp_path / "m").glob("*token*"):
        file.unlink()
    assert main(["open", str(tmp_path / "m"), "-p", str(tmp_path / "project")]) == 0
    assert "note: The folder holds no tokenizer" in capsys.readouterr().out
