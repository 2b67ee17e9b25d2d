"""A feature of a dictionary edited, its error term kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from auditor.analysis.editing.at_points import AT_HELP, positions
from auditor.analysis.editing.spec import EditSpec, spec
from auditor.base.config import field

if TYPE_CHECKING:
    from auditor.analysis.editing.scene import Scene
    from auditor.models.edits import Edit
    from auditor.models.inputs import Inputs


@spec
class Feature(EditSpec):
    kind = "feature"
    title = "Edit a feature"
    arguments: ClassVar[tuple[str, ...]] = ("feature",)
    feature: int = field(title="Feature", ge=0)
    mode: Literal["ablate", "scale", "clamp"] = field("clamp", title="Change", choices=("ablate", "scale", "clamp"))
    amount: float = field(1.0, title="Amount", help="Factor of a scale; level of a clamp in units of the feature's "
                          "largest activation on the samples.")  # fmt: skip
    only_active: bool = field(False, title="Only where it fires")
    dictionary: str = field("", title="Dictionary", help="Empty: the experiment's.", artefact="dictionary")
    at: str = field("ordinary", title="Positions", help=AT_HELP)

    def describe(self) -> str:
        change = {
            "ablate": f"Takes feature {self.feature} away",
            "scale": f"Multiplies the activation of feature {self.feature} by {self.amount:g}",
            "clamp": f"Clamps feature {self.feature} to {self.amount:g} times its largest activation on the samples",
        }[self.mode]
        fires = " where it fires" if self.only_active else ""
        return f"{change}{fires}{positions(self.at)}; the dictionary's error term is kept."

    def build(self, scene: Scene, inputs: Inputs) -> Edit:
        from auditor.analysis.feature_edit import EditFeature

        sae = scene.dictionary(self.dictionary)
        amount = self.amount * scene.largest(sae, self.feature) if self.mode == "clamp" else self.amount
        at = scene.positions(self.at, inputs, scene.point(sae.hook))
        return EditFeature(sae, self.feature, self.mode, amount, at, only_active=self.only_active)
