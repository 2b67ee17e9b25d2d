"""An edge cut: what a head, neuron or feature writes is taken out of what one other component reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from auditor.analysis.editing.at_points import AT_HELP, positions, where
from auditor.analysis.editing.spec import EditSpec, spec
from auditor.base.config import field

if TYPE_CHECKING:
    from auditor.analysis.editing.scene import Scene
    from auditor.models.edits import Edit
    from auditor.models.inputs import Inputs


@spec
class Cut(EditSpec):
    kind = "cut"
    title = "Cut an edge"
    arguments: ClassVar[tuple[str, ...]] = ("source", "target")
    source: str = field(title="From", help="blocks.N.z (a head), blocks.N.mlp_hidden (a neuron), attn_out, mlp_out, "
                        "embed; with a feature, the dictionary's hook point.", hook_of="model")  # fmt: skip
    target: str = field(title="To", help="blocks.N.q, .k, .v, .attn, .mlp, .mlp_pre, or final_norm for the logits.")
    head: int = field(-1, title="Its head", help="−1: all.", ge=-1)
    neuron: int = field(-1, title="Its neuron", help="−1: all.", ge=-1)
    feature: int = field(-1, title="Its feature", help="−1: none.", ge=-1)
    to_head: int = field(-1, title="Head there", help="Of q, or of k and v by their own number; −1: all.", ge=-1)
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
        if sum(part >= 0 for part in (self.head, self.neuron, self.feature)) > 1:
            raise ValueError("a head, a neuron or a feature, not several")
        return self

    def describe(self) -> str:
        source = f"feature {self.feature} of {self.source}" if self.feature >= 0 else where(
            self.source, self.head, self.neuron
        )  # fmt: skip
        instead = f", and puts in what it writes on “{self.text}”" if self.text else ""
        return (
            f"Takes what {source} writes out of what {where(self.target, self.to_head)} reads{positions(self.at)}"
            f"{instead} ({self.norm} norm); all else reads it as before."
        )

    def build(self, scene: Scene, inputs: Inputs) -> Edit:
        from auditor.analysis.feature_edit import writes
        from auditor.models.edits import CutEdge

        point = scene.point(self.source)
        write = writes(scene.dictionary(self.dictionary), self.feature, point.name) if self.feature >= 0 else None
        return CutEdge(
            point.name, self.target, columns=scene.columns(point, self.head, self.neuron),
            heads=None if self.to_head < 0 else [self.to_head],
            positions=scene.positions(self.at, inputs, point),
            instead=scene.run(self.text, inputs, [point.name]).rows(point.name) if self.text else None,
            write=write, norm=self.norm,
        )  # fmt: skip
