"""The RO-Crate 1.1 description of a bundle: which file is what, in JSON-LD."""

from __future__ import annotations

import json
from typing import Any

from auditor import __version__
from auditor.audit.case import Case

_WHAT = {
    "case.json": ("The case: the source of truth", "application/json"),
    "report.html": ("The report, one file without script", "text/html"),
    "report.pdf": ("The report for paper", "application/pdf"),
    "findings.sarif": ("The findings, SARIF 2.1.0", "application/sarif+json"),
    "verify.py": ("Verifies this bundle with Python and cryptography", "text/x-python"),
}
_TYPES = {"png": "image/png", "svg": "image/svg+xml", "csv": "text/csv", "json": "application/json"}


def metadata(case: Case, names: list[str]) -> bytes:
    """ro-crate-metadata.json for the files `names`; UTF-8 JSON with sorted keys."""
    root: dict[str, Any] = {
        "@id": "./",
        "@type": "Dataset",
        "name": case.title,
        "description": case.summary or "Audit of a neural network: evidence, not a certificate of conformity.",
        "datePublished": case.claimed_time or "1970-01-01",
        "license": "Set by the author of the case; the bundle states none.",
        "author": {"@id": "#author"},
        "hasPart": [{"@id": name} for name in names],
        "conditionsOfAccess": case.mark or "none stated",
    }
    graph = [
        {
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "about": {"@id": "./"},
            "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        },
        root,
        {"@id": "#author", "@type": "Person", "name": case.author, "affiliation": case.organisation},
        {"@id": "#auditor", "@type": "SoftwareApplication", "name": "Auditor", "version": __version__},
        *(_file(case, name) for name in names),
    ]
    crate = {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": graph}
    return json.dumps(crate, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"


def _file(case: Case, name: str) -> dict[str, Any]:
    title, media = _WHAT.get(name, ("", _TYPES.get(name.rpartition(".")[2], "application/octet-stream")))
    if not title:
        folder, _, rest = name.partition("/")
        pieces = {piece.id: piece.title for piece in case.evidence}
        about = pieces.get(rest.partition(".")[0], "")
        title = f"{'Recipe' if folder == 'recipes' else 'Evidence'}: {about or rest}"
    return {"@id": name, "@type": "File", "name": title, "encodingFormat": media}
