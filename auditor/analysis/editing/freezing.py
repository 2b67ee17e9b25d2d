"""Attention patterns or norms frozen at what they are in another run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Literal

from auditor.analysis.editing.spec import EditSpec, spec
from auditor.analysis.editing.which import ALL, Which, one
from auditor.base.config import field
from auditor.base.errors import AuditorError

if TYPE_CHECKING:
    from auditor.analysis.editing.scene import Scene
    from auditor.models.edits import Edit
    from auditor.models.inputs import Inputs


_MOST_NUMBERS = 1 << 20


@spec
class Freeze(EditSpec):
    kind = "freeze"
    title = "Freeze attention or norms"
    arguments: ClassVar[tuple[str, ...]] = ()
    holds = True
    what: Literal["attention", "norms"] = field("attention", title="What", choices=("attention", "norms"))
    blocks: str = field("", title="Blocks", help="As in 3 or 2:5; empty: all.")
    head: Which = field(ALL, title="Head", help="Of attention: all, or a number.")
    text: str = field("", title="Text of the other run", help="Of as many tokens; empty: the sample itself, unedited.")

    def describe(self) -> str:
        what = "the denominators of the norms" if self.what == "norms" else "the attention patterns"
        head = f" of head {self.head}" if self.head != ALL and self.what == "attention" else ""
        blocks = f" in blocks {self.blocks}" if self.blocks else ""
        run = f"the run on “{self.text}”" if self.text else "the unedited run"
        return f"Keeps {what}{head}{blocks} as they are in {run}."

    def build(self, scene: Scene, inputs: Inputs) -> Edit:
        from auditor.models.edits import FreezeAttention, FreezeNorms

        blocks = numbers(self.blocks, scene.model.n_layers, "block") if self.blocks else None
        other = scene.other(self.text, inputs)
        if self.what == "norms":
            return FreezeNorms.at(scene.model, other, blocks)
        return FreezeAttention.at(scene.model, other, blocks, None if self.head == ALL else [one(self.head)])


def numbers(text: str, count: int | None, what: str) -> list[int]:
    """“3”, “-1” or “2:5,7” as numbers below `count`; as they stand where that is not known (None). AuditorError for
    anything else."""
    found: list[int] = []
    for part in text.split(","):
        ends = part.strip().split(":")
        if len(ends) > 2 or not all(re.fullmatch(r"-?[0-9]{1,9}", end.strip()) for end in ends):
            raise AuditorError(f"“{text}” names no {what}s.", "Write numbers and ranges, as in 3 or 2:5.")
        first, last = int(ends[0]), int(ends[-1]) + (len(ends) == 1)
        if last - first > _MOST_NUMBERS:
            raise AuditorError(f"“{text}” names too many {what}s.", "Leave it empty for all.")
        for number in range(first, last) if len(ends) == 2 else [first]:
            if count is not None and not -count <= number < count:
                raise AuditorError(f"There is no {what} {number}: there are {count}.", "Choose one that there is.")
            found.append(number if count is None else number % count)
    return found
