"""Adding evidence to a case: the id, the figure's digest and the mark "exploratory" are set here and not by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from auditor.audit.case import Case, first_fault, now
from auditor.audit.evidence import Evidence
from auditor.audit.figures import figure_kind
from auditor.base.digest import sha256_bytes
from auditor.base.errors import AuditorError


def add_evidence(
    case: Case,
    *,
    kind: str,
    title: str,
    recipe: Mapping[str, Any] | Any,
    inputs: Mapping[str, str] | None = None,
    metric: Mapping[str, Any] | Any = None,
    figure: bytes | None = None,
    question: str | None = None,
    exploratory: bool = False,
    when: str = "",
    **more: Any,
) -> tuple[Case, Evidence]:
    """A new case with one more piece of evidence, and the piece.

    `figure` is PNG or SVG bytes; keep them as the file `piece.figure` in the case's folder of figures. `recipe` and
    `metric` are the models of auditor.audit.evidence or mappings of their fields; `more` takes the other fields of
    Evidence. Without a sealed question the piece is exploratory, whatever is asked for.
    """
    asked = case.find_question(question)
    id = case.next_id("evidence")
    fields: dict[str, Any] = {
        "id": id,
        "kind": kind,
        "title": title,
        "recipe": recipe,
        "inputs": dict(inputs or {}),
        "metric": metric,
        "question": question,
        "exploratory": exploratory or asked is None or asked.sealed is None,
        "claimed_time": when or now(),
        **more,
    }
    if figure is not None:
        fields |= {"figure": f"{id}.{figure_kind(figure)}", "figure_digest": sha256_bytes(figure)}
    try:
        piece = Evidence.model_validate(fields)
    except ValidationError as error:
        raise AuditorError(f"This cannot stand as evidence: {first_fault(error)}.") from error
    return case.put(piece), piece
