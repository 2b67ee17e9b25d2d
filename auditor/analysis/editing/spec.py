"""One edit as plain values: its kind, its settings, the sentence that a report says, and how it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict

from auditor.analysis.editing.which import is_several
from auditor.base.config import Config
from auditor.base.registry import Registry

if TYPE_CHECKING:
    from auditor.analysis.editing.scene import Scene
    from auditor.models.edits import Edit
    from auditor.models.inputs import Inputs

KINDS: Registry[type[EditSpec]] = Registry("edit")


class EditSpec(Config):
    """Settings of one edit. `kind` is its first word on a line, `title` what a person chooses in the window."""

    model_config = ConfigDict(allow_inf_nan=False)
    kind: ClassVar[str]
    title: ClassVar[str]
    holds: ClassVar[bool] = False
    """Whether it holds something still for the other edits, and has no control of its own."""
    parts: ClassVar[tuple[str, ...]] = ()
    """Settings that may name several, each to be tested by itself."""

    def describe(self) -> str:
        """One sentence for a report."""
        raise NotImplementedError

    @property
    def sweeps(self) -> bool:
        """Whether it stands for several edits that are tested one by one."""
        return any(is_several(getattr(self, name)) for name in self.parts)

    @property
    def reads(self) -> str | None:
        """The dictionary whose feature it names, empty for the experiment's; None where it names none."""
        return None

    def each(self, scene: Scene) -> list[EditSpec]:
        """The edits that it stands for, in the network's order: itself, unless it `sweeps`. AuditorError where it
        names what the network does not have."""
        return [self]

    @property
    def cell(self) -> tuple[str, str]:
        """Where its figure stands in a map of many: the row and the column."""
        return self.kind, ""

    def build(self, scene: Scene, inputs: Inputs) -> Edit:
        """The edit for a run on `inputs`, a batch of one sample. AuditorError for what the network does not have."""
        raise NotImplementedError


def spec(kind: type[EditSpec]) -> type[EditSpec]:
    """Declare a kind of edit."""
    return KINDS.add(kind.kind, kind)
