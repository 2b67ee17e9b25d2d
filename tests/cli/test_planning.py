"""A recording that is only planned, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from auditor.cli.main import main
from auditor.store import plan as planning


def test_that_a_recording_is_planned_and_not_begun(
    tiny_llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, project = tmp_path / "notes.txt", tmp_path / "project"
    notes.write_text("\n".join(f"Note {number} on a padlock." for number in range(40)), encoding="utf-8")
    for path in (tiny_llama_folder, notes):
        assert main(["open", str(path), "-p", str(project)]) == 0
    capsys.readouterr()
    asked = ["record", "--model", "tiny-llama", "--samples", "notes", "--device", "cpu", "-p", str(project), "--json"]
    assert main([*asked, "--plan"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fits"] and told["free_disk_mb"] > told["disk_mb"] > 0 and not list(project.glob("stores/*"))
    assert {held["numbers"] for held in told["formats"]} == {"float32", "float16", "bfloat16", "int8"}
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == told["positions"]
    monkeypatch.setattr(planning, "_free", lambda _: 10)
    assert main([*asked, "--seed", "3", "--plan"]) == 1
    assert not json.loads(capsys.readouterr().out)["fits"] and len(list(project.glob("stores/*"))) == 1
