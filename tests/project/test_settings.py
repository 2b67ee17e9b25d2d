"""The person's own settings: changed one by one, and never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditor.project import settings


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUDITOR_CONFIG", str(tmp_path))
    return tmp_path / "settings.toml"


def test_that_a_change_keeps_the_other_settings_and_their_comments(own: Path) -> None:
    own.write_text('# mine\ntheme = "dark"\n')
    settings.write(size=2)
    assert settings.read() == {"theme": "dark", "size": 2} and "# mine" in own.read_text()


def test_that_recent_projects_are_those_that_are_still_there_newest_first(tmp_path: Path) -> None:
    for name in ("one", "two", "gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "catalogue.sqlite").touch()
        settings.note_recent(tmp_path / name)
    settings.note_recent(tmp_path / "one")
    (tmp_path / "gone" / "catalogue.sqlite").unlink()
    assert settings.recent_projects() == [tmp_path / "one", tmp_path / "two"]


@pytest.mark.parametrize("told", ["recent = 5", f'recent = [7, "{"x" * 5000}"]', "recent = {a = 1}", "recent = ["])
def test_that_settings_that_make_no_sense_keep_nobody_out(own: Path, told: str) -> None:
    own.write_text(told)
    assert settings.recent_projects() == []
