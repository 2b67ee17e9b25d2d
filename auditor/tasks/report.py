"""The verb “report”: write a case as HTML, PDF and JSON, and the bundle that holds them with the evidence."""

from __future__ import annotations

from typing import Any, ClassVar

from auditor.base.config import Config, field
from auditor.base.errors import AuditorError, Stop
from auditor.base.files import write_atomic
from auditor.tasks.casework import open_case
from auditor.tasks.task import Run, task


class ReportConfig(Config):
    """What to report."""

    arguments: ClassVar[tuple[str, ...]] = ("case",)
    case: str = field("", title="Case", help="Empty: the newest case.", artefact="case")


@task("report", title="Write the report", config="auditor.tasks.report:ReportConfig")
def run(run: Run, config: ReportConfig) -> dict[str, Any]:
    """Write a case as one HTML file, as PDF and as JSON, and the bundle that holds them with all evidence and the audit
    log. The bundle is not signed yet: see “sign”."""
    from auditor.audit import bundle
    from auditor.audit.verify import Archive

    opened = open_case(run.project, config.case)
    case, figures = opened.case, opened.figures()
    run.inputs[opened.artefact.name] = opened.artefact.digest
    run.reporter.started("Writing the report", 2, "steps")
    path = run.project.new_path("bundle", opened.artefact.name)
    stem = path.name.removesuffix(".audit.zip")
    attachments = {f"evidence/{name}": data for name, data in figures.items()}
    attachments["log.jsonl"] = run.project.log.path.read_bytes()
    bundle.write(case, attachments, path)
    copies = {ending: path.parent / f"{stem}.{ending}" for ending in ("html", "pdf")}
    try:
        run.reporter.step(1, 2)
        with Archive(path) as archive:  # the copies beside the bundle are the ones that will be signed
            for ending, copy in copies.items():
                write_atomic(copy, archive.read(f"report.{ending}"))
        run.reporter.step(2, 2)
        run.output("bundle", opened.artefact.name, path)
    except (AuditorError, OSError, Stop):
        for made in (path, *copies.values()):
            made.unlink(missing_ok=True)
        raise
    return {
        "html": str(copies["html"]),
        "pdf": str(copies["pdf"]),
        "bundle": str(path),
        "findings": len(case.findings),
    }
