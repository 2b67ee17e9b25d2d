"""The report as one HTML file: no script, no address outside itself, pictures inside, fit for paper."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from auditor.audit.case import Case
from auditor.audit.figures import figure_kind
from auditor.audit.report.view import view
from auditor.base.errors import AuditorError
from auditor.base.paths import resources

_MEDIA = {"png": "image/png", "svg": "image/svg+xml"}


def render_html(case: Case, figures: Mapping[str, bytes] | None = None) -> str:
    """The report of `case`; `figures` maps the file names that the evidence gives to PNG or SVG bytes.

    Every string goes through autoescape; AuditorError where a figure is missing or not one that may stand in a report.
    """
    environment = Environment(
        loader=FileSystemLoader(resources() / "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["wrapping"] = _wrapping
    images = {name: _data_uri(data) for name, data in needed_figures(case, figures or {}).items()}
    return environment.get_template("report.html").render(**view(case), images=images)


def needed_figures(case: Case, figures: Mapping[str, bytes]) -> dict[str, bytes]:
    """The figures that the evidence names; AuditorError where one is missing."""
    needed = {piece.figure: piece.id for piece in case.evidence if piece.figure}
    for name, id in needed.items():
        if name not in figures:
            raise AuditorError(f"The figure “{name}” of {id} is missing.", "Pin the evidence again.")
    return {name: figures[name] for name in needed}


def _data_uri(data: bytes) -> str:
    return f"data:{_MEDIA[figure_kind(data)]};base64,{base64.b64encode(data).decode()}"


def _wrapping(digest: str) -> str:
    """A digest with room to break between groups of eight."""
    return " ".join(digest[i : i + 8] for i in range(0, len(digest), 8))
