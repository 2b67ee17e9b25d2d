"""Where things lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditor.base.paths import at_home


def test_that_a_tilde_is_the_persons_own_folder_and_nothing_where_there_is_no_such_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home("~/model") == tmp_path / "model" and at_home(Path("~")) == tmp_path
    assert at_home("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
    assert at_home("a/~b") == Path("a/~b")
