"""`auditor case new|ask|add|find|show`: the audit's questions, evidence and findings on the command line."""

from __future__ import annotations

from typing import Any

import click

from auditor.audit.case import SEVERITIES, Finding, Plan, Question
from auditor.audit.ladder import ladder
from auditor.cli import console
from auditor.cli.parameters import json_option, open_or_create, project_option
from auditor.project import Artefact, Project
from auditor.tasks.casework import OpenCase, checked, create_case, open_case
from auditor.tasks.opening import index_of
from auditor.tasks.pinning import evidence_of, search_result
from auditor.tasks.result import feature_result
from auditor.tasks.task import resolve

_CASE = click.Option(["--case"], default="", help="The case; left out: the newest one.")


def _params() -> list[click.Parameter]:
    return [_CASE, project_option(), json_option()]


@click.group("case")
def command() -> None:
    """Work on a case: its questions, evidence and findings."""


@command.command("new", params=[project_option(), json_option()])
@click.argument("title")
@click.option("--author", required=True, help="Who answers for the audit.")
@click.option("--organisation", default="")
def new(title: str, author: str, organisation: str, project: str, json: bool) -> int:
    """Start a case called TITLE about the project's models."""
    with open_or_create(project) as held:
        opened = create_case(held, title, author, organisation=organisation)
        return _told({"case": opened.artefact.name, "path": str(opened.artefact.path)}, json)


@command.command("ask", params=_params())
@click.argument("hypothesis")
@click.option("--null", "null_hypothesis", required=True, help="What holds if the hypothesis does not.")
@click.option("--metric", required=True, help="The figure that decides.")
@click.option("--threshold", type=float, required=True, help="The smallest value that counts.")
@click.option("--n", type=int, required=True, help="How many cases it is measured on.")
@click.option("--seal/--leave-open", default=True, help="Seal the plan, so that it cannot change after looking.")
def ask(case: str, project: str, json: bool, seal: bool, **fields: Any) -> int:
    """Ask whether HYPOTHESIS holds, with the plan that will decide it."""
    plan = checked(Plan, metric=fields["metric"], threshold=fields["threshold"], n=fields["n"])
    with open_or_create(project) as held:
        opened = open_case(held, case)
        question = checked(
            Question, id=opened.case.next_id("questions"), hypothesis=fields["hypothesis"],
            null_hypothesis=fields["null_hypothesis"], plan=plan,
        )  # fmt: skip
        question = question.seal() if seal else question
        opened.change(f"Ask {question.id}", opened.case.put(question))
        return _told({"question": question.id, "sealed": question.sealed}, json)


@command.command("add", params=_params())
@click.argument("result", default="")
@click.option("--feature", type=int, default=None, help="Instead of a result: the examples of this feature.")
@click.option("--search", default=None, help="Instead of a result: what this search of the features finds.")
@click.option("--question", default=None, help="The question that it answers.")
@click.option("--contrary", is_flag=True, help="It speaks against the claim.")
def add(
    result: str, feature: int | None, search: str | None, question: str | None, contrary: bool, case: str,
    project: str, json: bool,
) -> int:  # fmt: skip
    """Add RESULT (the name or id of a result, circuit, store or dictionary, or a result's path; left out: the newest
    result) to the case as evidence."""
    with open_or_create(project) as held:
        opened = open_case(held, case)
        if feature is not None:
            with index_of(held) as index:
                found, picture = feature_result(index, feature)
            piece = opened.pin(found, question=question, contrary=contrary, figure=picture)
        elif search is not None:
            with index_of(held) as index:
                found = search_result(index, search, index.search(search).tolist())
            piece = opened.pin(found, question=question, contrary=contrary)
        else:
            found = evidence_of(held, _named(held, result))
            piece = opened.pin(found, question=question, contrary=contrary)
        return _told({"evidence": piece.id, "kind": piece.kind, "title": piece.title}, json)


def _named(project: Project, ref: str) -> Artefact:
    """The artefact of any kind that shows something; else a result, which may be named by its path."""
    known = [a for kind in ("store", "dictionary") for a in project.artefacts(kind) if ref in (a.id, a.name)]
    return known[-1] if known else resolve(project, ref, "result")


@command.command("find", params=_params())
@click.argument("title")
@click.option("--claim", required=True, help="The claim in full.")
@click.option("--status", type=click.Choice(["present", "absent", "inconclusive"]), required=True)
@click.option("--severity", type=click.Choice(SEVERITIES), default="info", show_default=True)
@click.option("--question", default=None, help="The question that it answers.")
@click.option("--evidence", multiple=True, help="A piece of evidence that it rests on; may be given again.")
@click.option("--counter-evidence", multiple=True, help="What was gathered to refute it; may be given again.")
@click.option("--limits", default="", help="Where the claim ends.")
@click.option("--recipe", default="", help="How to make it again.")
def find(case: str, project: str, json: bool, **fields: Any) -> int:
    """Write a finding called TITLE; where it stands on the ladder follows from its evidence."""
    with open_or_create(project) as held:
        opened = open_case(held, case)
        finding = checked(Finding, id=opened.case.next_id("findings"), **fields)
        opened.change(f"Write {finding.id}", opened.case.put(finding))
        standing = ladder(opened.case, finding)
        facts = {"finding": finding.id, "stands": standing.rung.title, "missing_for_next": list(standing.missing)}
        return _told(facts, json)


@command.command("show", params=_params())
def show(case: str, project: str, json: bool) -> int:
    """Show the case: findings with their rung, questions, evidence."""
    with open_or_create(project) as held:
        return _told(_overview(open_case(held, case)), json)


def _overview(opened: OpenCase) -> dict[str, Any]:
    case = opened.case
    findings = [
        {"id": f.id, "status": f.status, "severity": f.severity, "stands": ladder(case, f).rung.title, "title": f.title}
        for f in case.findings
    ]
    questions = [{"id": q.id, "sealed": bool(q.sealed), "hypothesis": q.hypothesis} for q in case.questions]
    evidence = [
        {"id": e.id, "kind": e.kind, "estimate": e.metric.estimate if e.metric else None, "title": e.title}
        for e in case.evidence
    ]
    return {"title": case.title, "findings": findings, "questions": questions, "evidence": evidence}


def _told(facts: dict[str, Any], as_json: bool) -> int:
    if as_json:
        console.print_json(facts)
        return 0
    for name, value in facts.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            console.say(f"\n{name}")
            console.table(value)
        elif isinstance(value, list):
            for item in value:
                console.say(f"{name.replace('_', ' ')}: {item}")
        else:
            console.say(f"{name}: {console.figure(value)}")
    return 0
