"""The typed events that are all that leaves long work; the window, the terminal and torchrun read the same ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Started(_Event):
    """Work began; `total` units of `unit` lie ahead, 0 where that is not known."""

    type: Literal["started"] = "started"
    title: str
    total: int = 0
    unit: str = ""


class Progress(_Event):
    """`done` of `total` units are finished."""

    type: Literal["progress"] = "progress"
    done: int
    total: int = 0
    note: str = ""
    unit: str = ""


class Metric(_Event):
    """Named figures measured at one step."""

    type: Literal["metric"] = "metric"
    step: int
    values: dict[str, float]


class Partial(_Event):
    """Something to show before the end; `kind` says how to read `data`."""

    type: Literal["partial"] = "partial"
    kind: str
    data: dict[str, Any]


class Failed(_Event):
    """Work ended in an error; `trace` is empty where the person can mend it and full where it is our bug."""

    type: Literal["failed"] = "failed"
    message: str
    hint: str = ""
    trace: str = ""


class Cancelled(_Event):
    """The person stopped it."""

    type: Literal["cancelled"] = "cancelled"


class Done(_Event):
    """Work ended well; `result` holds plain values only."""

    type: Literal["done"] = "done"
    result: dict[str, Any]


Event = Annotated[Started | Progress | Metric | Partial | Failed | Cancelled | Done, Field(discriminator="type")]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
"""Reads an event back: `EVENT.validate_json(line)`."""
