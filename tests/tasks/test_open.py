"""What opening a model tells of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditor.cli.main import main
from tests.models.tiny import ALL


def test_that_of_a_model_without_logits_only_the_residual_stream_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ALL["siglip2 vision"].save(tmp_path / "m")
    opened = ["open", str(tmp_path / "m"), "-p", str(tmp_path / "project"), "--dtype", "int8", "--compare"]
    assert main(opened) == 0
    told = capsys.readouterr().out
    (line,) = (line for line in told.splitlines() if line.startswith("departure"))
    assert line.startswith("departure: format int8, n ") and "residual stream" in told and "fvu" in told
