"""Cut edges: what one component writes is taken out of what another one reads, and of nothing else.

A component of a pre-norm transformer reads norm(r) of the residual stream r, which is the plain sum of what was
written to it (Elhage et al. 2021), times a factor in some families (Granite). Taking a source's contribution c out of
it is exact in either of two ways:

    frozen   norm(r) − scale(r) · gain · centre(c)    the denominator stays that of the whole stream
    live     norm(r − c)                              the denominator is computed anew

The frozen one is linear: the shares of all sources (and the norm's bias) add up to norm(r), so edges can be compared
and cut one by one or together. The live one is what the component would have read, had the source never written, and
is the usual path patching (Wang et al. 2023, §3.1; Goldowsky-Dill et al. 2023). Cuts of one reading act together.

Where a norm stands after each sum (BERT, BART, OPT-350m), r_k = norm_k(r_{k−1} + w_k), and a component reads r_K as it
is. What a source that writes c into w_j adds to it has gone through the norms j … K; all else that is written between
stays as it is in the run:

    frozen   c_j = scale_j · gain_j · centre_j(c),  c_k = scale_k · gain_k · centre_k(c_{k−1}),  and r_K − c_K is read
    live     r′_j = norm_j(r_{j−1} + w_j − c),  r′_k = norm_k(r′_{k−1} + w_k),                   and r′_K is read

Frozen shares of all sources add up to r_K less the biases that have gone the same way (Kobayashi et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.models.edits.edit import Edit
from auditor.models.edits.reading import One, Reading, read_by
from auditor.models.edits.source import Source
from auditor.models.edits.wiring import Way, Wiring, named, wiring_of

if TYPE_CHECKING:
    from auditor.models.hook_points import HookPoint
    from auditor.models.inputs import Inputs
    from auditor.models.model import Model

Norm = Literal["frozen", "live"]
Write = Callable[[Tensor], Tensor]


class CutEdge(Edit):
    """Take what `source` writes out of what `target` reads; everything else still reads it.

    `source`: a hook point whose values reach the residual stream in a straight line: ``blocks.N.z`` (with the
    `columns` of a head), ``blocks.N.mlp_hidden`` (a neuron), ``attn_out``, ``mlp_out``, ``embed`` or the stream itself;
    `write` maps its values [B, P, width] to the part of them that counts, as for a dictionary's feature. `target`:
    ``blocks.N.q``, ``.k``, ``.v`` (of `heads`, or all; k and v are numbered by their own heads), ``.cross_q``,
    ``.mlp_pre``, ``.mlp_linear`` (`heads` are then neurons), ``blocks.N.attn``, ``blocks.N.mlp``, or ``final_norm``,
    which is the source's direct effect on the logits; ``logits`` where no norm stands before the head. `instead`:
    source values of another run, whose contribution then takes the place of the cut one (path patching). `positions`:
    of the reader. The source is read after all edits of it.
    """

    def __init__(
        self,
        source: str,
        target: str,
        *,
        columns: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
        instead: Tensor | None = None,
        write: Write | None = None,
        norm: Norm = "frozen",
    ) -> None:
        super().__init__("", positions)
        self.source, self.target, self.source_columns = source, target, columns
        self.heads, self.instead, self.write, self.norm = heads, instead, write, norm
        self.aside: list[int] = []

    def bound(self, model: Model, inputs: Inputs) -> Sequence[Edit]:
        wiring = wiring_of(model, inputs)
        prefix, number, part = named(self.target)
        read = read_by(model, wiring, prefix, number, part)
        source = Source(self, model, wiring, inputs)
        parts: list[Edit] = [source]
        for hook, module in read:
            norm, stream = _read(wiring, hook, module, prefix)
            if stream is None:
                raise AuditorError(
                    f"“{self.target}” does not read the residual stream of this network in a way that can be told.",
                    "Choose another edge, or ablate the component.",
                )
            way = self._way(model, wiring, source.point, stream)
            cut = Reading(hook, module, norm, model, inputs)
            cut.cuts.append(One(self._columns(model, hook), self.positions, source, way, self.norm == "live"))
            parts.append(cut)
        return parts

    def control(self, seeds: Sequence[int]) -> Edit:
        """The same cut of a vector as long as the source's, at each position: along what another head or neuron writes,
        or a random direction."""
        made = CutEdge(
            self.source, self.target, columns=self.source_columns, heads=self.heads, positions=self.positions,
            instead=self.instead, write=self.write, norm=self.norm,
        )  # fmt: skip
        made.aside = list(seeds)
        return made

    @property
    def after_final_norm(self) -> bool:
        return self.target.endswith(("final_norm", "logits"))

    def _columns(self, model: Model, hook: str) -> list[int] | None:
        if self.heads is None or not hook:
            return None if self.heads is None else _no_heads(self.target)
        point = model.hook_points[hook]
        count, what = (point.heads, "head") if point.heads else (point.width, "neuron")
        if beyond := [number for number in self.heads if not -count <= number < count]:
            raise AuditorError(f"“{self.target}” has no {what} {beyond[0]}: it has {count}.", "Choose one that it has.")
        size = point.width // count if point.heads else 1
        return [head * size + at for head in self.heads for at in range(size)]

    def _way(self, model: Model, wiring: Wiring, source: HookPoint, stream: str) -> Way:
        """From the source to the stream that is read. AuditorError where that does not hold what the source writes."""
        within = named(stream)[0] == named(source.name)[0]
        before = within and source.depth <= model.hook_points[stream].depth
        way = wiring.way(source.name, stream) if before else None
        if way is None:
            raise AuditorError(
                f"What “{self.source}” writes does not reach “{self.target}” along the residual stream.",
                "Choose a source in an earlier place of the same network.",
            )
        return way


def _read(wiring: Wiring, hook: str, module: str, prefix: str) -> tuple[str | None, str | None]:
    """The norm through which the module reads, if any, and the place of the stream that it reads."""
    x = wiring.read.get(module)
    if not hook.endswith("final_norm") and x is not None and (stream := wiring.stream(x, prefix)) is not None:
        return None, stream
    norm = module if hook.endswith("final_norm") else wiring.before.get(module)
    x = wiring.read.get(norm or module)
    return norm, None if x is None else wiring.stream(x, prefix)


def _no_heads(target: str) -> Any:
    raise AuditorError(f"“{target}” is read as a whole.", "Name q, k or v to choose heads, or mlp_pre for neurons.")
