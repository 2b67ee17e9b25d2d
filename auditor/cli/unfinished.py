"""`auditor unfinished`: what stopped and killed work left in a project, to go on with or to remove."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.cli import console
from auditor.cli.parameters import json_option, project_option
from auditor.project import Project


@click.command("unfinished", params=[project_option(makes=False), json_option()])
@click.option("--go-on", "go_on", default="", metavar="NAME", help="Run this one's settings again, from where it was.")
@click.option("--anew", default="", metavar="NAME", help="Remove what this one left, and run it from the start.")
@click.option("--remove", default="", metavar="NAME", help="Remove what this one left; asks first.")
@click.option("--yes", is_flag=True, help="With --remove and --anew: do not ask.")
def command(go_on: str, anew: str, remove: str, yes: bool, project: str, json: bool) -> int:
    """List recordings, trainings and tests of edits that were stopped, killed or broken off: how far each came, when,
    and what it takes on the disk."""
    if sum(map(bool, (go_on, anew, remove))) > 1:
        raise AuditorError(
            "One is either gone on with, started anew or removed.", "Name one of --go-on, --anew and --remove."
        )
    with Project.open(project) as held:
        if go_on or anew:
            return _gone_on(held, go_on, json) if go_on else _begun_anew(held, anew, yes, json)
        return _removed(held, remove, yes, json) if remove else _listed(held, json)


def _listed(project: Project, as_json: bool) -> int:
    from auditor.tasks.unfinished import unfinished

    rows = [one.facts() for one in unfinished(project)]
    if as_json:
        console.print_json({"unfinished": rows})
    elif rows:
        console.table([_shown(row) for row in rows])
        console.say("Go on with one: --go-on NAME. From its start: --anew NAME. Remove what it left: --remove NAME.")
    else:
        console.say("Nothing is unfinished.")
    return 0


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    changed = str(row["changed"]).replace("T", " ").replace("+00:00", " UTC")
    goes_on = "yes" if row["goes_on"] else "no"
    named = {name: row[name] for name in ("name", "work", "reached")}
    return {**named, "last written": changed, "on disk": _size(row["bytes"]), "goes on": goes_on}


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.3g} MB"


def _gone_on(project: Project, name: str, as_json: bool) -> int:
    from auditor.tasks.unfinished import go_on

    project.must_write()
    return _run(project, name, go_on, as_json)


def _begun_anew(project: Project, name: str, yes: bool, as_json: bool) -> int:
    from auditor.tasks.unfinished import start_anew

    project.must_write()
    return _run(project, name, start_anew, as_json) if _sure(project, name, yes, as_json) else 0


def _run(
    project: Project, name: str, work: Callable[[Project, str, Reporter], dict[str, Any]], as_json: bool
) -> int:  # fmt: skip
    from auditor.cli.main import described, show

    with console.reporting(as_json) as reporter:
        result = described(project, lambda: work(project, name, reporter))
    return show(result, as_json)


def _removed(project: Project, name: str, yes: bool, as_json: bool) -> int:
    from auditor.tasks.unfinished import remove

    project.must_write()
    if not _sure(project, name, yes, as_json):
        return 0
    freed = remove(project, name)
    if as_json:
        console.print_json({"removed": name, "bytes": freed})
    else:
        console.say(f"Removed: {name}, {_size(freed)} are free again.")
    return 0


def _sure(project: Project, name: str, yes: bool, as_json: bool) -> bool:
    """Whether what is left of it is to go; AuditorError where nobody can be asked, or there is none of this name."""
    from auditor.tasks.unfinished import find

    one = find(project, name)
    if not yes and (as_json or not _can_answer()):
        raise AuditorError(f"Removing “{name}” is for good, and nobody can be asked here.", "Add --yes to remove it.")
    if not yes:
        told = ", ".join(part for part in (one.work, one.reached, _size(one.bytes)) if part)
        if not click.confirm(f"Remove what is left of “{name}” ({told}) for good?", err=True):
            console.say("Nothing was removed.")
            return False
    return True


def _can_answer() -> bool:
    return sys.stdin.isatty()
