"""One declaration of a setting that gives the form, the command-line option, the report's table and the provenance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from auditor.base.errors import AuditorError

ArtefactKind = Literal["model", "samples", "store", "dictionary", "index", "result", "case", "bundle"]
ARTEFACT_KINDS: tuple[str, ...] = get_args(ArtefactKind)


class Config(BaseModel):
    """Settings of one verb: immutable, and closed to names that it does not declare.

    `arguments` names the fields that the command line takes by position; all others are options.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    arguments: ClassVar[tuple[str, ...]] = ()


C = TypeVar("C", bound=Config)


def field(
    default: Any = PydanticUndefined,
    *,
    title: str,
    help: str = "",
    unit: str = "",
    ge: float | None = None,
    le: float | None = None,
    choices: Sequence[str] | None = None,
    advanced: bool = False,
    artefact: ArtefactKind | None = None,
    hook_of: str | None = None,
    between: str = ",",
    zero: str = "",
) -> Any:
    """A setting. `artefact` names the kind that a picker lists; `hook_of` the field whose hook points are offered;
    `between` is what stands between the items of a list in a form, `zero` what a whole number of 0 is called there."""
    extra: dict[str, Any] = {"unit": unit, "choices": list(choices) if choices else None, "advanced": advanced}
    extra |= {"artefact": artefact, "hook_of": hook_of, "between": between, "zero": zero}
    return Field(default, title=title, description=help, ge=ge, le=le, json_schema_extra=extra)


def describe(info: FieldInfo) -> dict[str, Any]:
    """The facts that `field` was given: unit, choices, advanced, artefact, hook_of, between, zero, ge, le, title,
    help."""
    facts: dict[str, Any] = {"unit": "", "choices": None, "advanced": False, "artefact": None, "hook_of": None}
    facts |= {"between": ",", "zero": ""}
    if isinstance(info.json_schema_extra, dict):
        facts |= info.json_schema_extra
    facts |= {"title": info.title or "", "help": info.description or "", "ge": None, "le": None}
    for item in info.metadata:
        for bound in ("ge", "le"):
            if getattr(item, bound, None) is not None:
                facts[bound] = getattr(item, bound)
    return facts


def read_config(kind: type[C], values: dict[str, Any]) -> C:
    """`values` as a config of `kind`; AuditorError names the first field that is wrong and why."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or kind.__name__
        known = kind.model_fields.get(name)
        title = known.title if known and known.title else name
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            raise AuditorError(f"“{title}” ({name}) is missing.", known.description or "" if known else "") from None
        raise AuditorError(f"“{title}” ({name}) is not usable: {reason}.", _hint(kind, first["type"])) from None


def _hint(kind: type[Config], error_type: str) -> str:
    if error_type == "extra_forbidden":
        return f"The settings are: {', '.join(kind.model_fields)}."
    return "Change this setting and start again."
