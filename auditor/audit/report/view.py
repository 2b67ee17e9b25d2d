"""What a report says, as plain words, numbers already printed, and positions for the small interval plots."""

from __future__ import annotations

import json
from typing import Any

from auditor import __version__
from auditor.audit.case import Case, Finding, Question, Review
from auditor.audit.evidence import KIND_TITLES, Evidence, Metric, Table
from auditor.audit.ladder import Rung, is_planned, ladder, objections
from auditor.audit.text import given, interval, number, visible

STATEMENT = "This report is evidence, not a certificate of conformity."
RUNGS = (
    (Rung.OBSERVED, "examples that show it"),
    (Rung.HELD_OUT, "precision and recall on fresh data"),
    (Rung.INTERVENED, "a causal effect that beats its null after correction"),
    (Rung.CONTROLLED, "beats the simple baselines, stable over seeds"),
    (Rung.REPLICATED, "another person ran it again and agrees"),
)
# A shape and a word beside each colour, so that colour is never the only carrier.
_SEVERITY_SHAPES = {"info": "○", "low": "◇", "medium": "◆", "high": "▲", "critical": "■"}
_STATUS_SHAPES = {"present": "●", "absent": "○", "inconclusive": "?"}


def to_json(case: Case) -> bytes:
    """The report's content as UTF-8 JSON with sorted keys: what the HTML and the PDF lay out."""
    return json.dumps(view(case), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def view(case: Case) -> dict[str, Any]:
    """The report's content: dictionaries, lists, strings, numbers and truth values only."""
    shown: set[str] = set()
    findings = [_finding(case, finding, shown) for finding in case.findings]
    content = {
        "title": case.title,
        "mark": case.mark,
        "statement": STATEMENT,
        "summary": case.summary,
        "facts": _facts(case),
        "rungs": [{"n": int(rung), "title": rung.title, "text": text} for rung, text in RUNGS],
        "findings": findings,
        "questions": [_question(question) for question in case.questions],
        "other_evidence": [_evidence(case, piece) for piece in case.evidence if piece.id not in shown],
        "reviews": [_review(review) for review in case.reviews],
        "subjects": [
            {
                "name": subject.name,
                "kind": subject.kind,
                "digest": subject.digest or "",
                "files": [{"name": name, "digest": subject.files[name]} for name in sorted(subject.files)],
            }
            for subject in case.subjects
        ],
        "inputs": _inputs(case),
        "environment": [[name, case.environment[name]] for name in sorted(case.environment)],
        "not_tested": list(case.not_tested),
        "dead_ends": list(case.dead_ends),
        "log": {"entries": number(case.log_head.entries), "digest": case.log_head.digest} if case.log_head else None,
        "objections": objections(case),
        "made_with": f"Auditor {__version__}",
        "author": case.author,
    }
    result: dict[str, Any] = _shown(content)
    return result


def _shown(value: Any) -> Any:
    """Every string once more without hidden characters: configurations and keys are not made visible by the case."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(name): _shown(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return value


def _facts(case: Case) -> list[list[str]]:
    hours = f"{number(case.hours)} h" if case.hours is not None else "not stated"
    facts = [
        ["Author", ", ".join(part for part in (case.author, case.organisation) if part)],
        ["Subjects", "; ".join(subject.name for subject in case.subjects) or "none stated"],
        ["Access", case.access],
        ["Hours", hours],
        ["Claimed start", case.claimed_start or "not stated"],
        ["Claimed end", case.claimed_time or "not stated"],
    ]
    if case.log_head:
        facts.append(["Log", f"{number(case.log_head.entries)} entries, head {case.log_head.digest[:16]}…"])
    return facts


def _finding(case: Case, finding: Finding, shown: set[str]) -> dict[str, Any]:
    standing = ladder(case, finding)
    question = case.find_question(finding.question)

    def pieces(ids: tuple[str, ...]) -> list[dict[str, Any]]:
        made = []
        for id in ids:
            piece = case.find_evidence(id)
            made.append({"id": id, "title": piece.title, "again": True} if id in shown else _evidence(case, piece))
            shown.add(id)
        return made

    return {
        "id": finding.id,
        "title": finding.title,
        "claim": finding.claim,
        "status": {"word": finding.status, "shape": _STATUS_SHAPES[finding.status]},
        "severity": {"word": finding.severity, "shape": _SEVERITY_SHAPES[finding.severity]},
        "rung": int(standing.rung),
        "rung_title": standing.rung.title,
        "next": standing.next.title if standing.next else "",
        "missing": list(standing.missing),
        "question": f"{question.id}: {question.hypothesis}" if question else "",
        "location": [_place(name, finding.location[name]) for name in sorted(finding.location)],
        "evidence": pieces(finding.evidence),
        "counter": pieces(finding.counter_evidence),
        "counts": f"{len(finding.evidence)} for, {len(finding.counter_evidence)} counter",
        "limits": finding.limits,
        "recipe": finding.recipe,
        "objections": objections(case, finding),
        "reviews": [r.id for r in case.reviews if finding.id in r.findings],
    }


def _place(name: str, value: str) -> list[str]:
    """A part of a location; a value that begins with its own name (“feature 7”) says it once."""
    return ["" if value.startswith(f"{name} ") else name, value]


def _question(question: Question) -> dict[str, Any]:
    plan = question.plan
    family = f" over {number(plan.family)} comparisons" if plan.family > 1 else ""
    return {
        "id": question.id,
        "title": question.title,
        "hypothesis": question.hypothesis,
        "null_hypothesis": question.null_hypothesis,
        "plan": f"{plan.metric} of at least {given(plan.threshold)}, n ≥ {number(plan.n)}, "
        f"α = {given(plan.alpha)}, correction: {plan.correction}{family}",
        "note": plan.note,
        "sealed": question.sealed or "",
        "sealed_time": question.sealed_claimed_time,
        "protocol": question.protocol,
    }


def _evidence(case: Case, piece: Evidence) -> dict[str, Any]:
    config = [[name, _setting(piece.recipe.config[name])] for name in sorted(piece.recipe.config)]
    chosen = ""
    if piece.choice:
        chosen = f"{piece.choice.rule}; {number(piece.choice.shown)} shown of {number(piece.choice.seen)} seen"
    return {
        "id": piece.id,
        "again": False,
        "kind": KIND_TITLES[piece.kind],
        "title": piece.title,
        "note": piece.note,
        "planned": "planned" if is_planned(case, piece) else "exploratory",
        "contrary": piece.contrary,
        "question": piece.question or "",
        "metrics": [_metric(metric) for metric in piece.metrics],
        "choice": chosen,
        "table": _table(piece.table) if piece.table else None,
        "figure": piece.figure or "",
        "figure_alt": piece.figure_alt or f"Figure of {piece.id}: {piece.title}",
        "verb": piece.recipe.verb,
        "command": piece.recipe.command,
        "config": config,
        "versions": ", ".join(f"{name} {piece.recipe.versions[name]}" for name in sorted(piece.recipe.versions)),
        "inputs": ", ".join(f"{name} {piece.inputs[name][:12]}…" for name in sorted(piece.inputs)),
        "claimed_time": piece.claimed_time,
    }


def _setting(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _metric(metric: Metric) -> dict[str, Any]:
    unit = f" {metric.unit}" if metric.unit else ""
    baselines = [f"{name}: {number(metric.baseline[name])}{unit}" for name in sorted(metric.baseline)]
    return {
        "name": metric.name,
        "estimate": number(metric.estimate) + unit,
        "interval": interval(*metric.interval) if metric.interval else "no interval",
        "level": f"{given(metric.level * 100)} %" if metric.interval else "",
        "n": number(metric.n),
        "seeds": f"{number(len(set(metric.seeds)))} seeds" if len(set(metric.seeds)) > 1 else "",
        "null": _null(metric),
        "baselines": baselines,
        "no_effect": given(metric.no_effect) + unit,
        "strip": _strip(metric),
    }


def _null(metric: Metric) -> str:
    null = metric.null
    if null is None:
        return ""
    quantiles = ", ".join(f"{name} {number(null.quantiles[name])}" for name in sorted(null.quantiles))
    family = f" corrected over {number(null.family)}" if null.family > 1 else ""
    what = f"{null.description}: " if null.description else ""
    parts = [f"mean {number(null.mean)}", quantiles, f"p = {number(null.corrected)}{family}", f"n = {number(null.n)}"]
    return what + "; ".join(part for part in parts if part)


def _strip(metric: Metric) -> dict[str, Any] | None:
    """Positions, in percent of the width, of interval, estimate, null span, baselines and "no effect" on one scale."""
    if metric.interval is None:
        return None
    null = sorted([*metric.null.quantiles.values(), metric.null.mean]) if metric.null else []
    values = [*metric.interval, metric.estimate, metric.no_effect, *metric.baseline.values(), *null]
    low, high = min(values), max(values)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round(3 + 94 * (value - low) / span, 2)

    return {
        "low": place(metric.interval[0]),
        "high": place(metric.interval[1]),
        "estimate": place(metric.estimate),
        "zero": place(metric.no_effect),
        "null": [place(null[0]), place(null[-1])] if null else None,
        "baselines": [place(metric.baseline[name]) for name in sorted(metric.baseline)],
    }


def _table(table: Table) -> dict[str, Any]:
    numeric = [
        bool(table.rows) and all(isinstance(row[place], int | float) for row in table.rows)
        for place in range(len(table.columns))
    ]
    rows = [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in table.rows]
    return {"columns": list(table.columns), "rows": rows, "numeric": numeric}


def _review(review: Review) -> dict[str, Any]:
    return {
        "id": review.id,
        "reviewer": ", ".join(part for part in (review.reviewer, review.organisation) if part),
        "findings": ", ".join(review.findings),
        "verdict": review.verdict,
        "reruns": [
            f"{rerun.evidence}: {number(rerun.estimate)}, {'agrees' if rerun.agrees else 'does not agree'}"
            + (f" ({rerun.note})" if rerun.note else "")
            for rerun in review.reruns
        ],
        "blind_labels": review.blind_labels,
        "dissent": review.dissent,
        "key": review.key_fingerprint,
        "claimed_time": review.claimed_time,
    }


def _inputs(case: Case) -> list[dict[str, str]]:
    used: dict[tuple[str, str], list[str]] = {}
    for piece in case.evidence:
        for name, digest in piece.inputs.items():
            used.setdefault((name, digest), []).append(piece.id)
    return [{"name": name, "digest": digest, "used": ", ".join(used[name, digest])} for name, digest in sorted(used)]
