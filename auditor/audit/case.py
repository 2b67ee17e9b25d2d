"""The case: questions, evidence, findings and reviews of one audit; what every report is made from."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, JsonValue, ValidationError, model_validator

from auditor.audit.evidence import Digest, Evidence, Id, Record
from auditor.audit.text import Line, Text, visible
from auditor.base.digest import digest_json
from auditor.base.errors import AuditorError
from auditor.base.files import write_atomic

FORMAT: Literal["auditor-case/1"] = "auditor-case/1"
MAX_CASE_BYTES = 64 * 2**20

_Item = TypeVar("_Item", Evidence, "Finding")
Access = Literal["black box", "grey box", "white box"]
Status = Literal["present", "absent", "inconclusive"]
Severity = Literal["info", "low", "medium", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "low", "medium", "high", "critical")


class Plan(Record):
    """What was decided before looking: the metric, how large an effect counts, on how many, which correction."""

    metric: Line
    threshold: float
    n: int = Field(ge=1)
    alpha: float = Field(0.05, gt=0, lt=1)
    correction: Literal["none", "bonferroni", "benjamini-hochberg"] = "benjamini-hochberg"
    family: int = Field(1, ge=1)
    note: Text = ""


class Question(Record):
    """A hypothesis, its null hypothesis and the plan that decides; `sealed` is their digest, set before looking."""

    id: Id
    title: Line = ""
    hypothesis: Text
    null_hypothesis: Text
    plan: Plan
    protocol: Line = ""
    sealed: Digest | None = None
    sealed_claimed_time: Line = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of hypothesis, null hypothesis and plan."""
        return digest_json(
            {
                "hypothesis": self.hypothesis,
                "null_hypothesis": self.null_hypothesis,
                "plan": self.plan.model_dump(mode="json"),
            }
        )

    def seal(self, when: str = "") -> Question:
        """The same question, bound to its plan; `when` is the claimed time."""
        return self.model_copy(update={"sealed": self.digest, "sealed_claimed_time": when or now()})

    @model_validator(mode="after")
    def _unchanged(self) -> Question:
        if self.sealed is not None and self.sealed != self.digest:
            raise ValueError(f"question {self.id} was changed after it was sealed")
        return self


class Finding(Record):
    """A claim with its status, its severity (the auditor's) and what it rests on; its confidence is the ladder's.

    `counter_evidence` lists what was gathered to refute the claim, whatever it gave.
    """

    id: Id
    title: Line
    claim: Text
    status: Status
    severity: Severity
    question: Id | None = None
    evidence: tuple[Id, ...] = ()
    counter_evidence: tuple[Id, ...] = ()
    limits: Text = ""
    recipe: Text = ""
    location: dict[Line, Line] = Field(default_factory=dict)


class Rerun(Record):
    """What a reviewer got when running a piece of evidence again."""

    evidence: Id
    estimate: float
    agrees: bool
    note: Text = ""


class Review(Record):
    """Another person's judgement on findings: verdict, what was re-run and what it gave, dissent kept as written."""

    id: Id
    reviewer: Line
    organisation: Line = ""
    findings: tuple[Id, ...] = ()
    verdict: Literal["confirmed", "not confirmed", "inconclusive"]
    reruns: tuple[Rerun, ...] = ()
    blind_labels: Text = ""
    dissent: Text = ""
    key_fingerprint: Line = ""
    claimed_time: Line = ""


class Subject(Record):
    """Something that was audited, with the SHA-256 of every one of its files."""

    name: Line
    kind: Line = "model"
    digest: Digest | None = None
    files: dict[Line, Digest] = Field(default_factory=dict)


class LogHead(Record):
    """How long the project's log was and the digest of its newest entry."""

    entries: int = Field(ge=0)
    digest: Digest


class Case(Record):
    """One audit. Times are what a clock claimed; their order comes from the log."""

    format: Literal["auditor-case/1"] = FORMAT
    title: Line
    author: Line
    organisation: Line = ""
    mark: Line = ""
    summary: Text = ""
    access: Access = "white box"
    subjects: tuple[Subject, ...] = ()
    environment: dict[Line, Line] = Field(default_factory=dict)
    questions: tuple[Question, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    findings: tuple[Finding, ...] = ()
    reviews: tuple[Review, ...] = ()
    not_tested: tuple[Text, ...] = ()
    dead_ends: tuple[Text, ...] = ()
    hours: float | None = Field(None, ge=0)
    log_head: LogHead | None = None
    claimed_start: Line = ""
    claimed_time: Line = Field("", description="when the case was last changed, ISO 8601, UTC")

    @model_validator(mode="after")
    def _whole(self) -> Case:
        for items in (self.questions, self.evidence, self.findings, self.reviews):
            ids = [item.id.casefold() for item in items]
            if len(ids) != len(set(ids)):
                raise ValueError("two items of the case have the same id")
        questions, evidence = {q.id for q in self.questions}, {e.id for e in self.evidence}
        findings = {f.id for f in self.findings}
        for finding in self.findings:
            _known(finding.id, (*finding.evidence, *finding.counter_evidence), evidence, "evidence")
            _known(finding.id, (finding.question,) if finding.question else (), questions, "question")
        for piece in self.evidence:
            _known(piece.id, (piece.question,) if piece.question else (), questions, "question")
            _known(piece.id, (piece.settings_of,) if piece.settings_of else (), evidence, "evidence")
        for review in self.reviews:
            _known(review.id, review.findings, findings, "finding")
            _known(review.id, tuple(r.evidence for r in review.reruns), evidence, "evidence")
        return self

    # Looking up

    def find_question(self, id: str | None) -> Question | None:
        """The question `id`, or None."""
        return next((q for q in self.questions if q.id == id), None)

    def find_evidence(self, id: str) -> Evidence:
        """The evidence `id`; AuditorError where there is none."""
        return _pick(self.evidence, id, "evidence")

    def find_finding(self, id: str) -> Finding:
        """The finding `id`; AuditorError where there is none."""
        return _pick(self.findings, id, "finding")

    # Changing: each gives a new case, checked as a whole

    def changed(self, **fields: Any) -> Case:
        """A new case with `fields` replaced; AuditorError where the result would not be a case."""
        try:
            return Case.model_validate({**{name: getattr(self, name) for name in Case.model_fields}, **fields})
        except ValidationError as error:
            raise AuditorError(f"The case cannot be changed so: {first_fault(error)}.") from error

    def put(self, item: Question | Evidence | Finding | Review) -> Case:
        """A new case in which `item` takes the place of the one with its id, or comes last.

        A sealed question can only be put back as it is.
        """
        field = _FIELD_OF[type(item)]
        items = list(getattr(self, field))
        places = [place for place, old in enumerate(items) if old.id == item.id]
        if not places:
            return self.changed(**{field: (*items, item)})
        old = items[places[0]]
        if isinstance(old, Question) and old.sealed and old != item:
            raise AuditorError(f"Question {old.id} is sealed.", "Add another question instead; the sealed one stays.")
        items[places[0]] = item
        return self.changed(**{field: tuple(items)})

    def without(self, item: Question | Evidence | Finding | Review) -> Case:
        """A new case without `item`; AuditorError where something rests on it or it is a sealed question."""
        if isinstance(item, Question) and item.sealed:
            raise AuditorError(f"Question {item.id} is sealed.", "It stays in the case, answered or not.")
        field = _FIELD_OF[type(item)]
        return self.changed(**{field: tuple(old for old in getattr(self, field) if old.id != item.id)})

    def next_id(self, field: Literal["questions", "evidence", "findings", "reviews"]) -> str:
        """A free id: Q3, E12, F2, R1."""
        letter = {"questions": "Q", "evidence": "E", "findings": "F", "reviews": "R"}[field]
        taken = {item.id for item in getattr(self, field)}
        return next(f"{letter}{n}" for n in range(1, len(taken) + 2) if f"{letter}{n}" not in taken)

    # On disk

    def to_bytes(self) -> bytes:
        """UTF-8 JSON with sorted keys; equal cases give equal bytes."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8") + b"\n"

    @staticmethod
    def from_bytes(data: bytes, where: str = "the case") -> Case:
        """The case in `data`; AuditorError says what does not fit and where."""
        if len(data) > MAX_CASE_BYTES:
            raise AuditorError(f"{where} is too large ({len(data) // 2**20} MiB; the limit is 64 MiB).")
        try:
            return Case.model_validate_json(data)
        except ValidationError as error:
            raise AuditorError(f"{where} is not a case: {first_fault(error)}.", "Was it changed by hand?") from error

    def save(self, path: Path | str) -> None:
        """Write case.json atomically."""
        write_atomic(path, self.to_bytes())

    @staticmethod
    def load(path: Path | str) -> Case:
        """Read a case.json; AuditorError where it is missing or not a case."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise AuditorError(f"“{path}” cannot be read: {error.strerror}.", "Choose a case.json.") from error
        return Case.from_bytes(data, f"“{Path(path).name}”")


_FIELD_OF: dict[type, str] = {Question: "questions", Evidence: "evidence", Finding: "findings", Review: "reviews"}


def now() -> str:
    """This machine's clock, UTC, to the second: a claimed time."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def first_fault(error: ValidationError) -> str:
    """The first thing that does not fit, in words, with its place."""
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    told = fault["msg"].removeprefix("Value error, ")
    return visible(f"{place}: {told}" if place else told, newlines=False)[:300]


def _known(owner: str, ids: tuple[str, ...], known: set[str], what: str) -> None:
    for id in ids:
        if id not in known:
            raise ValueError(f"{owner} names {what} {id}, which the case does not hold")


def _pick(items: tuple[_Item, ...], id: str, what: str) -> _Item:
    for item in items:
        if item.id == id:
            return item
    raise AuditorError(f"The case holds no {what} {visible(id)}.")


def settings(config: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The part of a configuration that a planted case must share with the search it calibrates."""
    return {name: value for name, value in config.items() if name not in ("planted", "samples", "seed", "out")}
