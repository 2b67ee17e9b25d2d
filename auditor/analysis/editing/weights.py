"""A weight edited, on a copy: by path and index, or by a low-rank change from files."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from auditor.analysis.editing.spec import EditSpec, spec
from auditor.base.config import field
from auditor.base.patterns import is_pattern

if TYPE_CHECKING:
    from auditor.analysis.editing.scene import Scene
    from auditor.models.edits import Edit
    from auditor.models.inputs import Inputs


@spec
class Weight(EditSpec):
    kind = "weight"
    title = "Edit a weight"
    arguments: ClassVar[tuple[str, ...]] = ("path",)
    path: str = field(title="Weight", help="Its path in the network, as in model.layers.3.mlp.down_proj.weight; with "
                      "* or 2:5 in it: each such weight, tested one by one.")  # fmt: skip
    change: Literal["set", "scale", "add"] = field("set", title="Change", choices=("set", "scale", "add"))
    amount: float = field(0.0, title="Amount", help="The new value, the factor, or what is added.")
    index: str = field("", title="Index", help="Numbers and ranges, as in 3,: for row 3; empty: everywhere.")
    left: str = field("", title="Left factor", help="A .npy file of the project, or beside the list, [rows, r] or "
                      "[rows]: amount × left × right is added.", advanced=True)  # fmt: skip
    right: str = field("", title="Right factor", help="A .npy file [r, columns] or [columns].", advanced=True)

    @model_validator(mode="after")
    def _whole(self) -> Weight:
        if bool(self.left) != bool(self.right):
            raise ValueError("a low-rank change needs both of its factors")
        return self

    def describe(self) -> str:
        if self.left:
            return f"Adds {self.amount:g} × “{self.left}” × “{self.right}” to a copy of the weight {self.path}."
        told = {"set": f"Sets {{}} to {self.amount:g}", "scale": f"Multiplies {{}} by {self.amount:g}",
                "add": f"Adds {self.amount:g} to {{}}"}[self.change]  # fmt: skip
        return told.format(f"the weight {self.path}{f'[{self.index}]' if self.index else ''}") + ", on a copy."

    @property
    def sweeps(self) -> bool:
        return is_pattern(self.path)

    def each(self, scene: Scene) -> list[EditSpec]:
        return [self.model_copy(update={"path": path}) for path in scene.weights(self.path)]

    @property
    def cell(self) -> tuple[str, str]:
        return self.path, ""

    def build(self, scene: Scene, inputs: Inputs) -> Edit:
        from auditor.models.edits import EditWeight
        from auditor.models.edits.weight import parsed_index

        if self.left:
            left, right = scene.matrix(self.left), scene.matrix(self.right)
            left = left[:, None] if left.ndim == 1 else left
            right = right[None] if right.ndim == 1 else right
            return EditWeight(self.path, amount=self.amount, left=left, right=right)
        return EditWeight(self.path, self.change, self.amount, parsed_index(self.index))
