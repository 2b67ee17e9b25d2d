"""An edge cut: what a head, neuron or feature writes is taken out of what one other component reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from auditor.analysis.editing.at_points import AT_HELP, part_of, positions, where
from auditor.analysis.editing.spec import EditSpec, spec
from auditor.analysis.editing.which import (
    ALL,
    NONE,
    WHICH_HELP,
    Some,
    Which,
    is_several,
    numbers_of,
    one,
)  # fmt: skip
from auditor.base.config import field
from auditor.base.patterns import is_pattern

if TYPE_CHECKING:
    from auditor.analysis.editing.scene import Scene
    from auditor.models.edits import Edit
    from auditor.models.inputs import Inputs


@spec
class Cut(EditSpec):
    kind = "cut"
    title = "Cut an edge"
    arguments: ClassVar[tuple[str, ...]] = ("source", "target")
    parts: ClassVar[tuple[str, ...]] = ("head", "neuron", "feature", "to_head")
    source: str = field(title="From", help="blocks.N.z (a head), blocks.N.mlp_hidden (a neuron), attn_out, mlp_out, "
                        "embed; with a feature, the dictionary's hook point; blocks.*.z: each, one by one.",
                        hook_of="model")  # fmt: skip
    target: str = field(title="To", help="blocks.N.q, .k, .v, .attn, .mlp, .mlp_pre, or final_norm for the logits.")
    head: Which = field(ALL, title="Its head", help=WHICH_HELP)
    neuron: Which = field(ALL, title="Its neuron", help=WHICH_HELP)
    feature: Some = field(NONE, title="Its feature", help="none, a number, or several to test one by one.")
    to_head: Which = field(ALL, title="Head there", help=f"Of q, or of k and v by their own number. {WHICH_HELP}")
    dictionary: str = field(
        "", title="Dictionary", help="Of a feature. Empty: the experiment's.", artefact="dictionary", advanced=True
    )
    norm: Literal["frozen", "live"] = field(
        "frozen", title="The reader's norm", help="frozen: its denominator stays, so that edges add up; live: it is "
        "computed again without the source.", choices=("frozen", "live"),
    )  # fmt: skip
    at: str = field("", title="Positions there", help=AT_HELP)
    text: str = field("", title="Other text", help="What the source writes on this text, of as many tokens, is put in "
                      "(path patching); empty: nothing.", advanced=True)  # fmt: skip

    @model_validator(mode="after")
    def _one(self) -> Cut:
        if sum(part not in (ALL, NONE) for part in (self.head, self.neuron, self.feature)) > 1:
            raise ValueError("a head, a neuron or a feature, not several")
        return self

    def describe(self) -> str:
        source = self._source
        instead = f", and puts in what it writes on “{self.text}”" if self.text else ""
        return (
            f"Takes what {source} writes out of what {where(self.target, self.to_head)} reads{positions(self.at)}"
            f"{instead} ({self.norm} norm); all else reads it as before."
        )

    @property
    def _source(self) -> str:
        if self.feature != NONE:
            return part_of("feature", self.feature) + self.source
        return where(self.source, self.head, self.neuron)

    @property
    def reads(self) -> str | None:
        return None if self.feature == NONE else self.dictionary

    @property
    def sweeps(self) -> bool:
        return super().sweeps or is_pattern(self.source)

    def each(self, scene: Scene) -> list[EditSpec]:
        there = scene.heads(scene.point(self.target)) if is_several(self.to_head) else 0
        known = scene.dictionary(self.dictionary).d_sae if is_several(self.feature) else 0
        return [
            self.model_copy(
                update={"source": point.name, "head": head, "neuron": neuron, "feature": feature, "to_head": to_head}
            )
            for point in scene.points(self.source)
            for head in numbers_of(self.head, scene.heads(point) if is_several(self.head) else 0, "head")
            for neuron in numbers_of(self.neuron, point.width, "channel")
            for feature in numbers_of(self.feature, known, "feature")
            for to_head in numbers_of(self.to_head, there, "head")
        ]

    @property
    def cell(self) -> tuple[str, str]:
        return self._source, where(self.target, self.to_head)

    def build(self, scene: Scene, inputs: Inputs) -> Edit:
        from auditor.analysis.feature_edit import writes
        from auditor.models.edits import CutEdge

        point = scene.point(self.source)
        feature, to_head = one(self.feature), one(self.to_head)
        write = writes(scene.dictionary(self.dictionary), feature, point.name) if feature >= 0 else None
        return CutEdge(
            point.name, self.target, columns=scene.columns(point, one(self.head), one(self.neuron)),
            heads=None if to_head < 0 else [to_head],
            positions=scene.positions(self.at, inputs, point),
            instead=scene.run(self.text, inputs, [point.name]).rows(point.name) if self.text else None,
            write=write, norm=self.norm,
        )  # fmt: skip
