"""Edits at one hook point: ablate, scale, add a direction, patch; of all channels, one head or one neuron."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from auditor.analysis.editing.spec import EditSpec, spec
from auditor.analysis.editing.which import ALL, EACH, WHICH_HELP, Which, is_several, numbers_of, one
from auditor.base.config import field
from auditor.base.patterns import is_pattern

if TYPE_CHECKING:
    from auditor.analysis.editing.scene import Scene
    from auditor.models.edits import Edit
    from auditor.models.inputs import Inputs

AT_HELP = "Positions, as in 3 or 2:5 or -1; last; ordinary (no special tokens); empty: all."


class AtPoint(EditSpec):
    """What all of them say: where."""

    arguments: ClassVar[tuple[str, ...]] = ("hook",)
    parts: ClassVar[tuple[str, ...]] = ("head", "neuron")
    hook: str = field(title="Hook point", help="Such as blocks.5.z (heads), blocks.5.mlp_hidden (neurons) or "
                      "blocks.5.expert_weights (experts); blocks.*.z or blocks.2:5.z: each block's, tested one by one.",
                      hook_of="model")  # fmt: skip
    head: Which = field(ALL, title="Head", help=WHICH_HELP)
    neuron: Which = field(ALL, title="Neuron", help=f"Or channel, or expert. {WHICH_HELP}")
    at: str = field("", title="Positions", help=AT_HELP)

    @model_validator(mode="after")
    def _one(self) -> AtPoint:
        if ALL not in (self.head, self.neuron):
            raise ValueError("a head or a neuron, not both")
        return self

    @property
    def place(self) -> str:
        """“head 2 of blocks.5.z at position -1”."""
        return where(self.hook, self.head, self.neuron) + positions(self.at)

    @property
    def sweeps(self) -> bool:
        return super().sweeps or is_pattern(self.hook)

    def each(self, scene: Scene) -> list[EditSpec]:
        return [
            self.model_copy(update={"hook": point.name, "head": head, "neuron": neuron})
            for point in scene.points(self.hook)
            for head in numbers_of(self.head, scene.heads(point) if is_several(self.head) else 0, "head")
            for neuron in numbers_of(self.neuron, point.width, "channel")
        ]

    @property
    def cell(self) -> tuple[str, str]:
        number = self.head if self.head != ALL else self.neuron
        return self.hook, "" if number == ALL else number

    def _where(self, scene: Scene, inputs: Inputs) -> tuple[str, list[int] | None, list[int] | None]:
        """Hook point, positions and channels of the edit."""
        point = scene.point(self.hook)
        columns = scene.columns(point, one(self.head), one(self.neuron))
        return point.name, scene.positions(self.at, inputs, point), columns


def where(hook: str, head: str = ALL, neuron: str = ALL) -> str:
    named = [(what, which) for what, which in (("head", head), ("neuron", neuron)) if which != ALL]
    return "".join(part_of(what, which) for what, which in named) + hook


def part_of(what: str, which: str) -> str:
    """“head 2 of ”, “each head of ”, “heads 1,4, one by one, of ”."""
    if which == EACH:
        return f"each {what} of "
    return f"{what}s {which}, one by one, of " if is_several(which) else f"{what} {which} of "


def positions(at: str) -> str:
    named = {"": "", "last": " at the last position", "ordinary": " at ordinary positions"}
    return named.get(at, f" at position{'s' if ',' in at or ':' in at else ''} {at}")


@spec
class AblateAt(AtPoint):
    kind = "ablate"
    title = "Ablate"
    mode: Literal["zero", "mean", "resample"] = field(
        "zero", title="In its place", help="zero; mean: over ordinary positions of the samples, or of a store; "
        "resample: rows of those, drawn by the seed.", choices=("zero", "mean", "resample"),
    )  # fmt: skip
    store: str = field("", title="Store", help="For mean and resample. Empty: the samples.", artefact="store",
                       advanced=True)  # fmt: skip
    seed: int = field(0, title="Seed", ge=0, advanced=True)

    def describe(self) -> str:
        whose = f"the store “{self.store}”" if self.store else "the samples"
        what = {"zero": "zero", "mean": f"its mean over {whose}", "resample": f"rows of {whose}, drawn with seed "
                f"{self.seed},"}  # fmt: skip
        return f"Puts {what[self.mode]} in the place of {self.place}."

    def build(self, scene: Scene, inputs: Inputs) -> Edit:
        from auditor.models.edits import Ablate

        hook, at, columns = self._where(scene, inputs)
        rows = None if self.mode == "zero" else scene.rows(hook, self.store)
        mean = rows.mean(0) if rows is not None and self.mode == "mean" else None
        return Ablate(hook, self.mode, mean, at, columns, rows=rows, seed=self.seed)


@spec
class ScaleAt(AtPoint):
    kind = "scale"
    title = "Scale"
    factor: float = field(0.5, title="Factor")

    def describe(self) -> str:
        return f"Multiplies {self.place} by {self.factor:g}."

    def build(self, scene: Scene, inputs: Inputs) -> Edit:
        from auditor.models.edits import Scale

        hook, at, columns = self._where(scene, inputs)
        return Scale(hook, self.factor, at, columns)


@spec
class Add(AtPoint):
    kind = "add"
    title = "Add a direction"
    direction: str = field(
        "random", title="Direction", help="random or random:SEED (length 1); token:TEXT (its unembedding, length 1); "
        "feature:NUMBER (of the dictionary, as it is); difference:TEXT|TEXT (last positions of two prompts); or a .npy "
        "file of the project, or beside the list of edits, with one number a channel.",
    )  # fmt: skip
    amount: float = field(1.0, title="Amount", help="How many times the direction.")
    dictionary: str = field(
        "", title="Dictionary", help="Of feature:NUMBER. Empty: the experiment's.", artefact="dictionary"
    )

    @property
    def reads(self) -> str | None:
        return self.dictionary if self.direction.startswith("feature:") else None

    def describe(self) -> str:
        return f"Adds {self.amount:g} times the direction “{self.direction}” to {self.place}."

    def build(self, scene: Scene, inputs: Inputs) -> Edit:
        from auditor.models.edits import AddDirection

        hook, at, columns = self._where(scene, inputs)
        return AddDirection(hook, scene.direction(self.direction, hook, self.dictionary), self.amount, at, columns)


@spec
class PatchAt(AtPoint):
    kind = "patch"
    title = "Patch from another run"
    text: str = field("", title="Text of the other run", help="Empty: the sample itself, unedited.")
    origin: str = field("", title="Its positions", help="As many as here, in order; empty: the same.")

    def describe(self) -> str:
        run = f"the run on “{self.text}”" if self.text else "the unedited run"
        taken = f", from its positions {self.origin}," if self.origin else ""
        return f"Puts the values of {run}{taken} in the place of {self.place}."

    def build(self, scene: Scene, inputs: Inputs) -> Edit:
        from auditor.models.edits import Patch

        hook, at, columns = self._where(scene, inputs)
        run = scene.run(self.text, inputs, [hook])
        origins = scene.positions(self.origin, run.inputs, scene.point(hook)) if self.origin else None
        if origins is None and self.at in ("last", "ordinary"):
            origins = scene.positions(self.at, run.inputs, scene.point(hook))
        return Patch.from_run(hook, run, at, origins, columns)
