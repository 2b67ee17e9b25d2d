"""What was left out of a set of samples: how many cannot be read, with the first reasons, and how many are repeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from auditor.base.errors import AuditorError

FIRST = 20


class Unreadable(AuditorError):
    """One item of many that cannot be read. It is left out and counted, unless the person asked to be strict."""


@dataclass
class Skips:
    """How many items cannot be read, and the sentences of the first of them; how many were `repeats` of others."""

    count: int = 0
    first: list[str] = field(default_factory=list)
    repeats: int = 0

    def add(self, error: AuditorError) -> None:
        """Count one; its sentence is kept while there are few."""
        self.count += 1
        if len(self.first) < FIRST:
            self.first.append(error.message)

    def facts(self) -> dict[str, Any]:
        """As a store and a run keep it."""
        return {"unreadable": self.count, "first": list(self.first), "repeats": self.repeats}

    def of_all(self, name: str) -> AuditorError:
        """That nothing is left: every item of `name` was unreadable."""
        if self.count == 1:
            return AuditorError(f"“{name}” holds nothing that can be read. {self.first[0]}", "Check the file.")
        return AuditorError(
            f"None of the {self.count:,} items of “{name}” can be read. The first: {self.first[0]}",
            "Check the file, and the options after its name.",
        )


def left_out(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a verb tells of `Skips.facts`: nothing where nothing was left out."""
    told: dict[str, Any] = {name: facts[name] for name in ("unreadable", "repeats") if facts.get(name)}
    if facts.get("first"):
        told["first_unreadable"] = [{"why": sentence} for sentence in facts["first"]]
    return told
