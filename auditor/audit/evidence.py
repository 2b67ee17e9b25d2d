"""One piece of evidence: what was run, on which inputs, what it measured, and how its examples were chosen."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from auditor.audit.text import Line, Text

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]

EvidenceKind = Literal[
    "examples",
    "held_out",
    "intervention",
    "baseline",
    "stability",
    "null",
    "planted",
    "search",
    "circuit",
    "comparison",
    "labels",
    "reconstruction",
    "other",
]
KIND_TITLES: dict[str, str] = {
    "examples": "Examples",
    "held_out": "Held-out test",
    "intervention": "Intervention",
    "baseline": "Simple baselines",
    "stability": "Stability over seeds",
    "null": "Null model",
    "planted": "Planted cases",
    "search": "Search",
    "circuit": "Circuit",
    "comparison": "Comparison",
    "labels": "Blind labels",
    "reconstruction": "Reconstruction",
    "other": "Other",
}
assert KIND_TITLES.keys() == set(get_args(EvidenceKind))


class Record(BaseModel):
    """Base of everything in a case: frozen, no unknown field, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Null(Record):
    """The distribution of the same metric where there is nothing to find (random features, re-initialised model).

    `p` is one-sided and uncorrected; `p_adjusted` is what the correction over `family` comparisons gave. Where it is
    missing, p × family (Bonferroni) stands in, which can only be stricter.
    """

    n: int = Field(ge=1)
    mean: float
    quantiles: dict[str, float] = {}
    p: float = Field(ge=0, le=1)
    family: int = Field(1, ge=1)
    p_adjusted: float | None = Field(None, ge=0, le=1)
    correction: Line = ""
    description: Line = ""

    @property
    def corrected(self) -> float:
        """The p value after correction for `family` comparisons."""
        return self.p_adjusted if self.p_adjusted is not None else min(1.0, self.p * self.family)


class Metric(Record):
    """A number that can stand in a report: with unit, sample size, uncertainty, baselines and null beside it.

    `interval` has coverage `level`. `no_effect` is the value that means nothing was found (0 for a difference, 0.5
    for AUROC, the base rate for precision); `higher_is_more` False turns every comparison around.
    """

    name: Line
    estimate: float
    interval: tuple[float, float] | None = None
    level: float = Field(0.95, gt=0, lt=1)
    n: int = Field(ge=0)
    unit: Line = ""
    seeds: tuple[int, ...] = ()
    baseline: dict[Line, float] = {}
    null: Null | None = None
    no_effect: float = 0.0
    higher_is_more: bool = True

    @field_validator("seeds", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _ordered(self) -> Metric:
        if self.interval and self.interval[0] > self.interval[1]:
            raise ValueError(f"the interval of “{self.name}” has its ends swapped")
        return self

    def exceeds(self, value: float) -> bool:
        """Whether the whole interval lies on the side of `value` that means more."""
        if self.interval is None:
            return False
        return self.interval[0] > value if self.higher_is_more else self.interval[1] < value


class Recipe(Record):
    """How to make the evidence again: the verb, its whole configuration and, where it helps, the command."""

    verb: Line
    config: dict[str, JsonValue] = {}
    command: Text = ""
    versions: dict[str, Line] = {}


class Table(Record):
    """A small table shown with the evidence: up to 200 rows."""

    columns: tuple[Line, ...]
    rows: tuple[tuple[Line | float | int | None, ...], ...] = Field((), max_length=200)

    @model_validator(mode="after")
    def _rectangular(self) -> Table:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("a row of the table has not as many cells as there are columns")
        return self


class Choice(Record):
    """How the shown examples were chosen, so that a reader can judge how far they were picked."""

    rule: Line
    seen: int = Field(ge=0)
    shown: int = Field(ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Choice:
        if self.shown > self.seen:
            raise ValueError("more examples are shown than were seen")
        return self


class Evidence(Record):
    """What one analysis gave, pinned as it was.

    `inputs` maps each input's name to its SHA-256. `figure` names the picture's file and `figure_digest` is the
    SHA-256 of its bytes. `contrary` says that it speaks against the claim; `exploratory` that it was not planned in a
    sealed question. A "planted" piece names in `settings_of` the search whose detection rate it measures.
    """

    id: Id
    kind: EvidenceKind
    title: Line
    note: Text = ""
    question: Id | None = None
    recipe: Recipe
    inputs: dict[Line, Digest] = {}
    metric: Metric | None = None
    further: tuple[Metric, ...] = ()
    choice: Choice | None = None
    table: Table | None = None
    figure: FileName | None = None
    figure_digest: Digest | None = None
    figure_alt: Line = ""
    settings_of: Id | None = None
    contrary: bool = False
    exploratory: bool = True
    claimed_time: Line = ""

    @model_validator(mode="after")
    def _figure_is_bound(self) -> Evidence:
        if (self.figure is None) != (self.figure_digest is None):
            raise ValueError("a figure is named together with the SHA-256 of its bytes")
        return self

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metric and the further ones."""
        return ((self.metric,) if self.metric else ()) + self.further
