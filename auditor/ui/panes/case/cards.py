"""How a case's summary, findings, questions and evidence are laid out as cards."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QWidget

from auditor.ui import theme
from auditor.ui.widgets import controls, numbers
from auditor.ui.widgets.flow import Flow
from auditor.ui.widgets.plain_text import ElidedLabel, PlainLabel

if TYPE_CHECKING:
    from auditor.audit.case import Case, Finding, Question
    from auditor.audit.evidence import Evidence, Metric

Open = Callable[[str], object]
_RUNGS = ("claimed", "observed", "held out", "intervened", "controlled", "replicated")


def summary(case: Case, opened: Open) -> list[QWidget]:
    """What the case is about, and its findings as one table."""
    facts = [
        ("Author", f"{case.author}{', ' + case.organisation if case.organisation else ''}"),
        ("Access", case.access),
        ("Subjects", ", ".join(subject.name for subject in case.subjects) or "none named"),
        ("Questions", f"{len(case.questions)}, {sum(q.sealed is not None for q in case.questions)} sealed"),
        ("Evidence", f"{len(case.evidence)}, {sum(e.contrary for e in case.evidence)} contrary"),
    ]
    parts: list[QWidget] = [PlainLabel(case.title, "page", wrap=True), controls.card(_facts(facts))]
    if case.summary:
        parts.append(PlainLabel(case.summary, wrap=True, selectable=True))
    if not case.findings:
        parts.append(PlainLabel("No finding is written yet. Pin evidence from any pane with “Add to case”.", "muted"))
    for finding in case.findings:
        parts.append(finding_line(case, finding, opened))
    for heading, texts in (("Not tested", case.not_tested), ("Dead ends", case.dead_ends)):
        if texts:
            rows = [PlainLabel(f"• {text}", wrap=True, selectable=True) for text in texts]
            parts.append(controls.card(controls.heading(heading), *rows))
    return parts


def finding_line(case: Case, finding: Finding, opened: Open) -> QWidget:
    from auditor.audit.ladder import ladder

    standing = ladder(case, finding)
    head = controls.row(
        PlainLabel(finding.id, "mono"),
        ElidedLabel(finding.title, "strong"),
        PlainLabel(finding.status, _ROLE[finding.status]),
        severity(finding.severity),
        controls.button("Open", lambda: opened(finding.id), flat=True),
    )
    parts: list[QWidget] = [controls.box(head), ladder_strip(int(standing.rung))]
    if standing.next and standing.missing:
        more = f" (and {len(standing.missing) - 1} more)" if len(standing.missing) > 1 else ""
        told = f"Missing for “{standing.next.title}”: {standing.missing[0]}{more}"
        parts.append(PlainLabel(told, "muted", wrap=True))
    if against := [id for id in (*finding.evidence, *finding.counter_evidence) if case.find_evidence(id).contrary]:
        parts.append(
            PlainLabel(f"▲ {', '.join(against)} speak{'s' * (len(against) == 1)} against it", "bad", wrap=True)
        )
    return controls.card(*parts, gap="tight")


_ROLE = {"present": "strong", "absent": "strong", "inconclusive": "muted"}


_SEVERITY = {"info": ("○", "muted"), "low": ("◇", "muted"), "medium": ("◆", "warn"), "high": ("▲", "bad"),
             "critical": ("■", "bad")}  # fmt: skip


def severity(word: str) -> PlainLabel:
    """A severity with its shape, as the report shows it."""
    shape, role = _SEVERITY[word]
    return PlainLabel(f"{shape} {word}", role)


def ladder_strip(rung: int) -> QWidget:
    """The rungs of the ladder, those reached in the accent colour and marked with a tick."""
    labels = []
    for number, title in enumerate(_RUNGS[1:], 1):
        reached = number <= rung
        labels.append(PlainLabel(f"{'✓' if reached else '○'} {title}", "good" if reached else "muted"))
    return controls.box(Flow(*labels, gap="medium"))


def finding(case: Case, item: Finding, opened: Open, edit: Open) -> list[QWidget]:
    """A finding: claim, where it stands and what is missing, what it rests on."""
    from auditor.audit.ladder import ladder, objections

    standing = ladder(case, item)
    head = controls.row(
        PlainLabel(item.status, "strong"),
        severity(item.severity),
        PlainLabel(f"{int(standing.rung)} of 5: {standing.rung.title}", "muted"),
        None,
        controls.button("Edit", lambda: edit(item.id), icon="pencil"),
        gap="medium",
    )
    above = standing.next
    missing = [PlainLabel(f"• {text}", wrap=True, selectable=True) for text in standing.missing]
    rests = [_evidence_line(case.find_evidence(id), opened) for id in item.evidence]
    refutes = [_evidence_line(case.find_evidence(id), opened) for id in item.counter_evidence]
    parts: list[QWidget] = [
        PlainLabel(f"{item.id}  {item.title}", "page", wrap=True),
        controls.box(head),
        PlainLabel(item.claim, wrap=True, selectable=True),
        controls.card(
            controls.heading("Where it stands"),
            ladder_strip(int(standing.rung)),
            *([PlainLabel(f"Missing for “{above.title}”:", "muted"), *missing] if above and missing else []),
        ),
        controls.card(
            controls.heading("What it rests on"), *(rests or [PlainLabel("Nothing yet.", "warn")]), gap="tight"
        ),
        controls.card(
            controls.heading("What was looked for to refute it"),
            *(refutes or [PlainLabel("Nothing yet.", "warn")]),
            gap="tight",
        ),
    ]
    blocking = objections(case, item)
    if blocking:
        told = [PlainLabel(text, "warn", wrap=True) for text in blocking]
        parts.append(controls.card(controls.heading("Cannot be signed yet"), *told))
    for name, text in (("Limits", item.limits), ("Recipe", item.recipe)):
        if text:
            parts.append(controls.card(controls.heading(name), PlainLabel(text, wrap=True, selectable=True)))
    return parts


def figures_told(piece: Evidence) -> str:
    """The leading figure of a piece of evidence, else its kind."""
    return _short(piece.metric) if piece.metric else piece.kind.replace("_", " ")


def _evidence_line(piece: Evidence, opened: Open) -> QWidget:
    parts: list[QWidget] = [
        PlainLabel(piece.id, "mono"),
        ElidedLabel(piece.title),
        PlainLabel(figures_told(piece), "muted"),
    ]
    if piece.contrary:
        parts.append(PlainLabel("▲ speaks against", "bad"))
    return controls.box(controls.row(*parts, controls.button("Open", lambda: opened(piece.id), flat=True)))


def seal_told(item: Question) -> str:
    """Whether a question is sealed, and since when by the author's clock."""
    if item.sealed:
        return f"✓ Sealed {item.sealed_claimed_time} (claimed): the plan cannot be changed"
    return "Open: seal its plan before you look, or what answers it counts as exploratory"


def question(case: Case, item: Question, seal: Open, edit: Open) -> list[QWidget]:
    """A question with its plan; sealed ones cannot be changed."""
    plan = item.plan
    sealed = PlainLabel(seal_told(item), "good" if item.sealed else "warn", wrap=True)
    buttons: list[QWidget] = []
    if not item.sealed:
        buttons = [
            controls.button("Edit", lambda: edit(item.id), icon="pencil"),
            controls.button("Seal the plan", lambda: seal(item.id), primary=True, icon="lock"),
        ]
    facts = [
        ("Hypothesis", item.hypothesis),
        ("Null hypothesis", item.null_hypothesis),
        ("Metric", plan.metric),
        ("Smallest effect that counts", numbers.figure(plan.threshold)),
        ("Cases", numbers.count(plan.n)),
        ("α and correction", f"{plan.alpha:g}, {plan.correction}, family of {plan.family}"),
    ]
    if plan.note:
        facts.append(("Note", plan.note))
    if item.sealed:
        facts.append(("SHA-256 of the plan", item.sealed))
    answers = [f for f in case.findings if f.question == item.id]
    told = ", ".join(f"{f.id} ({f.status})" for f in answers) or "no finding yet"
    return [
        PlainLabel(f"{item.id}  {item.title or 'Question'}", "page", wrap=True),
        controls.box(_stretched(sealed, *buttons)),
        controls.card(_facts(facts)),
        PlainLabel(f"Answered by: {told}", "muted"),
    ]


def _stretched(first: QWidget, *others: QWidget) -> QHBoxLayout:
    """Parts side by side of which the first takes the room that is left."""
    made = controls.row(first, *others)
    made.setStretch(0, 1)
    return made


def evidence(case: Case, piece: Evidence, shown: QWidget | None) -> list[QWidget]:
    """A piece of evidence: figures with interval, n, baseline and null beside them, and its picture."""
    marks = [piece.kind.replace("_", " "), "exploratory" if piece.exploratory else "planned"]
    head: list[QWidget] = [PlainLabel(" · ".join(marks), "muted")]
    if piece.contrary:
        head.append(PlainLabel("▲ speaks against the claim", "bad"))
    rests = [f.id for f in case.findings if piece.id in (*f.evidence, *f.counter_evidence)]
    head.append(PlainLabel(f"pinned for {', '.join(rests)}" if rests else "no finding rests on it yet", "muted"))
    parts: list[QWidget] = [
        PlainLabel(f"{piece.id}  {piece.title}", "page", wrap=True),
        controls.box(controls.row(*head, None, gap="medium")),
    ]
    if piece.note:
        parts.append(PlainLabel(piece.note, wrap=True, selectable=True))
    if shown is not None:
        parts.append(shown)
    for metric in piece.metrics:
        parts.append(controls.card(controls.heading(metric.name), _facts(_metric(metric))))
    if piece.choice:
        text = f"{piece.choice.rule}: {piece.choice.shown} shown of {piece.choice.seen} seen"
        parts.append(PlainLabel(text, "muted", wrap=True))
    if piece.table:
        parts.append(_table(piece))
    recipe = [("Verb", piece.recipe.verb), *((k, str(v)) for k, v in sorted(piece.recipe.config.items()))]
    parts.append(controls.card(controls.heading("Recipe"), _facts(recipe)))
    inputs = [(name, digest) for name, digest in sorted(piece.inputs.items())]
    if inputs:
        parts.append(controls.card(controls.heading("Inputs, SHA-256"), _facts(inputs, mono=True)))
    return parts


def _short(metric: Metric) -> str:
    if metric.interval is None:
        return numbers.figure(metric.estimate, metric.unit)
    return numbers.interval(metric.estimate, *metric.interval, metric.unit)


def _metric(metric: Metric) -> list[tuple[str, str]]:
    level = f"{100 * metric.level:.0f} % interval"
    rows = [("Estimate", _short(metric)), ("n", numbers.count(metric.n))]
    rows[0] = (f"Estimate, {level}" if metric.interval else "Estimate", rows[0][1])
    rows += [(f"Baseline: {name}", numbers.figure(value, metric.unit)) for name, value in metric.baseline.items()]
    if metric.null:
        null = metric.null
        told = f"mean {numbers.figure(null.mean)} over {numbers.count(null.n)} draws, p = {numbers.figure(null.p)}"
        if null.family > 1:
            told += f", corrected for {numbers.count(null.family)}: {numbers.figure(null.corrected)}"
        rows.append((f"Null{': ' + null.description if null.description else ''}", told))
    if metric.seeds:
        rows.append(("Seeds", ", ".join(map(str, metric.seeds))))
    return rows


def _facts(rows: list[tuple[str, str]], mono: bool = False) -> QWidget:
    made = QWidget()
    grid = QGridLayout(made)
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setHorizontalSpacing(theme.space("large"))
    grid.setVerticalSpacing(theme.space("tight"))
    grid.setColumnStretch(1, 1)
    for at, (name, value) in enumerate(rows):
        label = PlainLabel(name, "muted", wrap=True)
        label.setFixedWidth(theme.px(150))
        grid.addWidget(label, at, 0, Qt.AlignmentFlag.AlignTop)
        grid.addWidget(PlainLabel(value, "mono" if mono else "", wrap=True, selectable=True), at, 1)
    return made


def _table(piece: Evidence) -> QWidget:
    assert piece.table is not None
    made = QWidget()
    grid = QGridLayout(made)
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setHorizontalSpacing(theme.space("large"))
    for column, name in enumerate(piece.table.columns):
        grid.addWidget(PlainLabel(name, "heading"), 0, column)
    for at, row in enumerate(piece.table.rows[:40], 1):
        for column, cell in enumerate(row):
            text = numbers.figure(cell) if isinstance(cell, float) else "" if cell is None else str(cell)
            grid.addWidget(PlainLabel(text, selectable=True), at, column)
    return controls.card(made)
