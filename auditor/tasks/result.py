"""A result: what one analysis gave, on disk as JSON, in the form in which a case takes it as evidence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from auditor.audit.case import first_fault
from auditor.audit.evidence import Choice, EvidenceKind, Metric, Recipe, Table
from auditor.base.errors import AuditorError
from auditor.base.files import write_atomic
from auditor.project import Artefact
from auditor.tasks.task import Run

FORMAT = "auditor-result/1"


class Result(BaseModel):
    """A measured claim with all that a case needs to pin it; `figure` is SVG text, `data` what a pane draws."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: str = FORMAT
    kind: EvidenceKind
    title: str
    note: str = ""
    recipe: Recipe
    inputs: dict[str, str] = {}
    metric: Metric | None = None
    further: tuple[Metric, ...] = ()
    choice: Choice | None = None
    table: Table | None = None
    contrary: bool = False
    figure: str | None = None
    figure_alt: str = ""
    data: dict[str, JsonValue] = {}

    def evidence(self) -> dict[str, Any]:
        """What `auditor.audit.collect.add_evidence` takes, figure included."""
        taken = {
            name: getattr(self, name) for name in type(self).model_fields if name not in ("format", "data", "figure")
        }
        if self.figure is not None:
            taken["figure"] = self.figure.encode()
        return taken


def write_result(run: Run, name: str, result: Result) -> Artefact:
    """Save and register a result of this run."""
    path = run.project.new_path("result", name)
    body = result.model_copy(update={"inputs": _digests(run.inputs)}).model_dump(mode="json")
    text = json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")
    return run.output("result", name, path, title=result.title, evidence=result.kind)


def read_result(path: Path | str) -> Result:
    """The result at `path`; AuditorError where it is not one."""
    try:
        return Result.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise AuditorError(f"“{path}” cannot be read: {error.strerror}.", "Choose a result of this project.") from error
    except ValidationError as error:
        raise AuditorError(f"“{Path(path).name}” is not a result: {first_fault(error)}.") from error


def _digests(inputs: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in inputs.items() if re.fullmatch(r"[0-9a-f]{64}", digest)}
