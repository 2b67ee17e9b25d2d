"""The option that plans a recording and starts none."""

from __future__ import annotations

from typing import Any

import click

from auditor.base.reporter import Reporter
from auditor.project import Project

# The window plans trainings, too, but from what is chosen in its pane.
PLANNED = ("record",)


def options(verb: str) -> list[click.Parameter]:
    """The parameters that `verb` has for this."""
    if verb not in PLANNED:
        return []
    told = "Only plan: tell what it will take, measured on a few batches, and record nothing; 1 where it does not fit."
    return [click.Option(["--plan", "only_plan"], is_flag=True, help=told)]


def planned(project: Project, config: Any, reporter: Reporter) -> dict[str, Any]:
    """What a recording would take, against what is free; `ok` where it fits."""
    from auditor.tasks.record import plan_of

    plan = plan_of(project, config, reporter)
    formats = [
        {"numbers": name, "disk_mb": size / 1e6, "fvu": lost} for name, (size, lost) in sorted(plan.formats.items())
    ]
    free = {"free_disk_mb": plan.free_bytes / 1e6, "free_memory_mb": plan.free_memory_bytes / 1e6}
    probe = {"probed": plan.probed, "batch_size": plan.batch_size}
    fits = plan.fits and plan.fits_memory
    return {**plan.facts(), **free, **probe, "fits": fits, "formats": formats, "ok": fits and plan.rows > 0}
