"""Audit protocols as data: questions with their plans, concept sets, the analyses to run; from TOML files."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import Field, JsonValue, ValidationError, model_validator

from auditor.audit.case import Case, Plan, Question, first_fault
from auditor.audit.evidence import EvidenceKind, Id, Record
from auditor.audit.text import Line, Text
from auditor.base.errors import AuditorError
from auditor.base.paths import resources

MAX_BYTES = 4 * 2**20


class Concept(Record):
    """Examples that have a concept, that lack it, and near misses that share its surface; text and image names."""

    positive: tuple[Text, ...] = ()
    negative: tuple[Text, ...] = ()
    near_miss: tuple[Text, ...] = ()
    images_positive: tuple[Line, ...] = ()
    images_negative: tuple[Line, ...] = ()
    images_near_miss: tuple[Line, ...] = ()


class Analysis(Record):
    """A verb with settings, and the kind of evidence that it gives; `counter` when it is run to refute."""

    verb: Line
    config: dict[str, JsonValue] = Field(default_factory=dict)
    evidence: EvidenceKind
    counter: bool = False


class Asked(Record):
    """A question of a protocol: the plan is ready to be sealed."""

    id: Id
    title: Line
    hypothesis: Text
    null_hypothesis: Text
    plan: Plan
    concept: Line = ""
    analyses: tuple[Analysis, ...] = ()


class Protocol(Record):
    """A list of questions about one kind of risk."""

    id: Id
    title: Line
    description: Text = ""
    limits: Text = ""
    concepts: dict[Line, Concept] = Field(default_factory=dict)
    questions: tuple[Asked, ...]

    @model_validator(mode="after")
    def _concepts_known(self) -> Protocol:
        for asked in self.questions:
            if asked.concept and asked.concept not in self.concepts:
                raise ValueError(f"question {asked.id} names the concept “{asked.concept}”, which is not given")
        return self

    def put_into(self, case: Case) -> Case:
        """`case` with this protocol's questions added, not yet sealed, under free ids."""
        for asked in self.questions:
            fields = {name: getattr(asked, name) for name in ("title", "hypothesis", "null_hypothesis", "plan")}
            case = case.put(Question(id=case.next_id("questions"), protocol=self.id, **fields))
        return case


def load_protocol(path: Path | str) -> Protocol:
    """The protocol in a TOML file, or the shipped one of that id; AuditorError says what does not fit and where."""
    file = Path(path)
    if not file.suffix and not file.exists():
        file = resources() / "protocols" / f"{path}.toml"
    try:
        data = file.read_bytes()
        if len(data) > MAX_BYTES:
            raise AuditorError(f"“{file.name}” is too large for a protocol.", "The limit is 4 MiB.")
        return Protocol.model_validate(tomllib.loads(data.decode("utf-8")))
    except OSError as error:
        names = ", ".join(protocol_names())
        raise AuditorError(f"There is no protocol “{path}”.", f"Shipped are: {names}.") from error
    except ValidationError as error:
        raise AuditorError(f"“{file.name}” is not a protocol: {first_fault(error)}.", "Copy a shipped one.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise AuditorError(f"“{file.name}” is not TOML: {error}.", "Copy a shipped protocol.") from error


def protocol_names() -> list[str]:
    """The ids of the shipped protocols, in alphabetical order."""
    return sorted(path.stem for path in (resources() / "protocols").glob("*.toml"))
