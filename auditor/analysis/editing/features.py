"""A feature of a dictionary edited, its error term kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from auditor.analysis.editing.at_points import AT_HELP, positions
from auditor.analysis.editing.spec import EditSpec, spec
from auditor.analysis.editing.which import ALL, EACH, Which, numbers_of, one
from auditor.base.config import field
from auditor.base.errors import AuditorError

if TYPE_CHECKING:
    from auditor.analysis.editing.scene import Scene
    from auditor.models.edits import Edit
    from auditor.models.inputs import Inputs


@spec
class Feature(EditSpec):
    kind = "feature"
    title = "Edit a feature"
    arguments: ClassVar[tuple[str, ...]] = ("feature",)
    parts: ClassVar[tuple[str, ...]] = ("feature",)
    feature: Which = field(title="Feature", help="A number, or several to test one by one: 3,17,40, 0:100, * (each).")
    mode: Literal["ablate", "scale", "clamp"] = field("clamp", title="Change", choices=("ablate", "scale", "clamp"))
    amount: float = field(1.0, title="Amount", help="Factor of a scale; level of a clamp in units of the feature's "
                          "largest activation on the samples.")  # fmt: skip
    only_active: bool = field(False, title="Only where it fires")
    dictionary: str = field("", title="Dictionary", help="Empty: the experiment's.", artefact="dictionary")
    at: str = field("ordinary", title="Positions", help=AT_HELP)

    @model_validator(mode="after")
    def _some(self) -> Feature:
        if self.feature == ALL:
            raise ValueError("a number, or several to test one by one: 3,17,40, 0:100, *")
        return self

    def describe(self) -> str:
        level = self.mode == "clamp"  # which those alone have that fire
        several = f"features {self.feature}{' that fire' * level}, one by one,"
        every = f"each feature{' that fires' * level}"
        which = every if self.feature == EACH else several if self.sweeps else f"feature {self.feature}"
        change = {
            "ablate": f"Takes {which} away",
            "scale": f"Multiplies the activation of {which} by {self.amount:g}",
            "clamp": f"Clamps {which} to {self.amount:g} times its largest activation on the samples",
        }[self.mode]
        fires = " where it fires" if self.only_active else ""
        return f"{change}{fires}{positions(self.at)}; the dictionary's error term is kept."

    @property
    def reads(self) -> str | None:
        return self.dictionary

    def each(self, scene: Scene) -> list[EditSpec]:
        """Of a clamp, those alone that fire on the samples: others have no level to be clamped to."""
        if not self.sweeps:
            return [self]
        sae = scene.dictionary(self.dictionary)
        found = numbers_of(self.feature, sae.d_sae, "feature")
        if self.mode == "clamp":
            sae.must_be_plain("Editing a feature")
            fires = (scene.all_largest(sae) > 0).tolist()
            found = [number for number in found if fires[int(number)]]
            if not found:
                raise AuditorError(
                    f"None of the features {self.feature} fires on these samples, so there is no level to clamp it to.",
                    "Choose samples on which they fire, or ablate them.",
                )
        return [self.model_copy(update={"feature": number}) for number in found]

    @property
    def cell(self) -> tuple[str, str]:
        return "feature", self.feature

    def build(self, scene: Scene, inputs: Inputs) -> Edit:
        from auditor.analysis.feature_edit import EditFeature

        sae, feature = scene.dictionary(self.dictionary), one(self.feature)
        amount = self.amount * scene.largest(sae, feature) if self.mode == "clamp" else self.amount
        at = scene.positions(self.at, inputs, scene.point(sae.hook))
        return EditFeature(sae, feature, self.mode, amount, at, only_active=self.only_active)
