"""Runs the command line in this process and keeps what it printed."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditor.cli.main import main


@dataclass(frozen=True)
class Told:
    """How one command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        found: dict[str, Any] = json.loads(self.out)
        return found


def auditor(*arguments: object) -> Told:
    """`auditor ARGUMENTS`."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Told(code, out.getvalue(), err.getvalue())


def done(*arguments: object) -> dict[str, Any]:
    """What `auditor ARGUMENTS --json` gave, where it ended well."""
    told = auditor(*arguments, "--json")
    assert told.code == 0, told.out + told.err
    assert not told.err
    return told.json


def made(result: dict[str, Any], kind: str) -> Path:
    """Where the artefact of this kind lies that a verb made."""
    return Path(next(artefact["path"] for artefact in result["artefacts"] if artefact["kind"] == kind))
