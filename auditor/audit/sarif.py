"""Findings as SARIF 2.1.0, for tools that collect them: one result a finding, located in model, hook point, feature."""

from __future__ import annotations

import json
from typing import Any

from auditor import __version__
from auditor.audit.case import Case, Finding
from auditor.audit.ladder import ladder

_LEVELS = {"info": "note", "low": "note", "medium": "warning", "high": "error", "critical": "error"}
_KINDS = {"present": "fail", "absent": "pass", "inconclusive": "review"}
_ORDER = ("model", "hook point", "dictionary", "feature")


def to_sarif(case: Case) -> bytes:
    """UTF-8 JSON with sorted keys. A logical location reads model / hook point / dictionary / feature."""
    driver = {
        "name": "Auditor",
        "version": __version__,
        "rules": [{"id": f.id, "name": f.id, "shortDescription": {"text": f.title or f.id}} for f in case.findings],
    }
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "properties": {"case": case.title, "claimedTime": case.claimed_time, "access": case.access},
                "results": [_result(case, place, finding) for place, finding in enumerate(case.findings)],
            }
        ],
    }
    return json.dumps(log, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"


def _result(case: Case, place: int, finding: Finding) -> dict[str, Any]:
    kind = _KINDS[finding.status]
    names = [*(n for n in _ORDER if n in finding.location), *sorted(finding.location.keys() - set(_ORDER))]
    logical = (
        {
            "name": finding.location[names[-1]],
            "kind": names[-1],
            "fullyQualifiedName": " / ".join(finding.location[name] for name in names),
        }
        if names
        else None
    )
    return {
        "ruleId": finding.id,
        "ruleIndex": place,
        "kind": kind,
        # SARIF 2.1.0, 3.27.10: a result that is not a failure has no level.
        "level": _LEVELS[finding.severity] if kind == "fail" else "none",
        "message": {"text": finding.claim or finding.title or finding.id},
        **({"locations": [{"logicalLocations": [logical]}]} if logical else {}),
        "properties": {
            "status": finding.status,
            "severity": finding.severity,
            "rung": ladder(case, finding).rung.title,
            "evidence": list(finding.evidence),
            "counterEvidence": list(finding.counter_evidence),
            "location": dict(finding.location),
        },
    }
