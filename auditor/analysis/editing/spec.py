"""One edit as plain values: its kind, its settings, the sentence that a report says, and how it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from auditor.base.config import Config
from auditor.base.registry import Registry

if TYPE_CHECKING:
    from auditor.analysis.editing.scene import Scene
    from auditor.models.edits import Edit
    from auditor.models.inputs import Inputs

KINDS: Registry[type[EditSpec]] = Registry("edit")


class EditSpec(Config):
    """Settings of one edit. `kind` is its first word on a line, `title` what a person chooses in the window."""

    kind: ClassVar[str]
    title: ClassVar[str]
    holds: ClassVar[bool] = False
    """Whether it holds something still for the other edits, and has no control of its own."""

    def describe(self) -> str:
        """One sentence for a report."""
        raise NotImplementedError

    def build(self, scene: Scene, inputs: Inputs) -> Edit:
        """The edit for a run on `inputs`, a batch of one sample. AuditorError for what the network does not have."""
        raise NotImplementedError


def spec(kind: type[EditSpec]) -> type[EditSpec]:
    """Declare a kind of edit."""
    return KINDS.add(kind.kind, kind)
