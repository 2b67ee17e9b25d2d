"""The locally linear model of one prompt, cut at the embeddings and at each dictionary's hook point.

Attention patterns, norm denominators and gates are frozen (`Model.linearised`), so each stretch between two cuts is a
linear map of the residual stream, and gradients through it are exact effects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from auditor.analysis.measures import ordinary
from auditor.base.errors import AuditorError
from auditor.data.sample import PositionKind, Sample, text_sample
from auditor.models import Model
from auditor.models.edits import Edit
from auditor.models.hook_points import RESIDUAL
from auditor.models.inputs import Inputs
from auditor.models.sinks import sinks
from auditor.sae import Sae

# Rows of a batched backward pass are bounded by rows × positions: what an MLP keeps for each is a few KB.
_MOST_POSITIONS = 8192
_PREFIX_STEP = 8
_EVERY_STREAM = ("streams_pre", "streams_post")


class Cut(Edit):
    """Stops gradients: what lies above sees a leaf with the same values; `before` stays tied to what lies below."""

    before: Tensor
    leaf: Tensor

    def apply(self, x: Tensor) -> Tensor:
        self.before = x
        self.leaf = x.detach().clone().requires_grad_(True)
        return self.leaf


@dataclass(frozen=True)
class Trace:
    """One prompt's linear model: cuts from the embeddings upward, then the normalised output `top` [1, P, width]."""

    model: Model
    inputs: Inputs
    cuts: list[Cut]
    top: Tensor
    prefixes: dict[int, Trace] = field(default_factory=dict, repr=False)

    @property
    def described(self) -> Tensor:
        """Positions [P] that a dictionary describes: no special tokens or sinks, which none was trained on."""
        return ordinary(self.inputs.kind[0])

    def prefix(self, length: int) -> Trace:
        """The trace of at least the first `length` positions: what comes later costs time and changes nothing before.

        Lengths are rounded up, so that few are run. A prompt with an image or a sound is never cut.
        """
        whole = self.inputs.mask.shape[1]
        rounded = -(-length // _PREFIX_STEP) * _PREFIX_STEP
        if rounded >= whole or self.inputs.pixels is not None or self.inputs.sound is not None:
            return self
        if rounded not in self.prefixes:
            cut = {name: getattr(self.inputs, name)[:, :rounded] for name in ("ids", "mask", "kind", "unit")}
            hooks = [cut.hook for cut in self.cuts]
            self.prefixes[rounded] = _traced(self.model, replace(self.inputs, **cut), hooks)
        return self.prefixes[rounded]

    def output(self, level: int) -> Tensor:
        """The tensor [1, P, width] that ends the stretch that starts at cut `level`."""
        return self.cuts[level + 1].before if level + 1 < len(self.cuts) else self.top

    def rows(self, level: int) -> Tensor:
        """Values of the residual stream at cut `level`, [P, width]."""
        return self.cuts[level].leaf.detach()[0]

    def pull(self, level: int, seeds: Tensor) -> Tensor:
        """Gradients at cut `level` of seeds·output, for many seeds at once: [K, P, width] → [K, P, width]."""
        parts = []
        at_once = max(1, _MOST_POSITIONS // seeds.shape[1])
        for part in torch.split(seeds, at_once):
            (gradient,) = torch.autograd.grad(
                self.output(level),
                self.cuts[level].leaf,
                part[:, None].to(self.output(level)),
                retain_graph=True,
                is_grads_batched=True,
            )
            parts.append(gradient[:, 0])
        return torch.cat(parts)

    def pull_at(self, level: int, positions: Tensor, directions: Tensor) -> Tensor:
        """`pull` of one direction [K, width] at one position [K] each."""
        seeds = directions.new_zeros(len(directions), self.output(level).shape[1], directions.shape[1])
        seeds[torch.arange(len(directions)), positions] = directions
        return self.pull(level, seeds)

    def uncut(self, position: int, directions: Tensor) -> list[Tensor]:
        """Gradients [K, P, width] at every cut of directions [K, width] · output, with no cut in between."""
        at = torch.full((len(directions),), position, device=directions.device)
        found = [self.pull_at(len(self.cuts) - 1, at, directions)]
        for level in range(len(self.cuts) - 2, -1, -1):
            found.insert(0, self.pull(level, found[0]))
        return found


def as_sample(prompt: str | Sample) -> Sample:
    """A prompt given as text or as a sample; AuditorError when it is empty."""
    sample = text_sample(prompt) if isinstance(prompt, str) else prompt
    if sample.modalities <= {"text"} and not (sample.text or "").strip():
        raise AuditorError("The prompt is empty.", "Write a prompt of at least one word.")
    return sample


def in_depth_order(model: Model, dictionaries: Mapping[str, Sae] | Sequence[Sae]) -> dict[str, Sae]:
    """Dictionaries by hook point from the input upward; AuditorError for a set that cannot cut this model."""
    pairs = list(dictionaries.items()) if isinstance(dictionaries, Mapping) else [(d.hook, d) for d in dictionaries]
    if not pairs:
        raise AuditorError("A circuit needs at least one dictionary.", "Choose a dictionary of a residual stream.")
    found: dict[str, Sae] = {}
    for hook, sae in pairs:
        point = model.hook_points.get(hook)
        if point is None:
            raise AuditorError(f"The model “{model.name}” has no hook point “{hook}”.", "Choose its own dictionaries.")
        if hook.split(".")[-1] not in (*RESIDUAL, *_EVERY_STREAM, "embed") or point.stream != "text":
            raise AuditorError(
                f"The dictionary of “{hook}” does not cut the residual stream, so paths would pass beside it.",
                "Choose dictionaries trained at resid_pre, resid_mid or resid_post.",
            )
        if beyond := model.beyond(hook):
            raise AuditorError(
                f"The dictionary of “{hook}” does not cut all that “{model.name}” passes on: {beyond}.",
                "Choose earlier hook points, or those of all streams (streams_pre, streams_post) where there are some.",
            )
        if sae.d_in != point.width:
            raise AuditorError(f"The dictionary of “{hook}” has width {sae.d_in}, the model {point.width}.")
        sae.must_be_plain("Tracing a circuit")
        if sae.arch == "matching_pursuit":
            raise AuditorError(
                f"The dictionary of “{hook}” chooses features one after another, so no gradient leads to them.",
                "Choose one by TopK, ReLU or JumpReLU.",
            )
        if hook in found:
            raise AuditorError(f"Two dictionaries are given for “{hook}”.", "Choose one of them.")
        found[hook] = sae.to(model.device)
    return dict(sorted(found.items(), key=lambda item: model.hook_points[item[0]].depth))


def unembedding(model: Model) -> Tensor:
    """The map from the last norm's output to logits, [width, vocabulary]; AuditorError for models without one."""
    if model.unembed is None or "final_norm" not in model.hook_points:
        raise AuditorError(
            f"The model “{model.name}” does not predict a next token, so there are no logits to explain.",
            "Choose a language model.",
        )
    return model.unembed.detach()


def trace(model: Model, hooks: Sequence[str], prompt: str | Sample) -> Trace:
    """Run the prompt once through the linearised model, cut at `embed` and at `hooks` (from the input upward)."""
    inputs = model.encode([as_sample(prompt)]).to(model.device)
    if not bool(inputs.mask.all()) or not inputs.mask.shape[1]:
        raise AuditorError("The prompt has no positions to trace.", "Write a prompt of at least one word.")
    return _without_sinks(_traced(model, inputs, ["embed", *hooks]))


def _traced(model: Model, inputs: Inputs, hooks: Sequence[str]) -> Trace:
    cuts = [Cut(hook) for hook in hooks]
    with model.linearised():
        run = model.run(inputs, record=["final_norm"], edits=cuts, grad=True, logits=False)
    return Trace(model, inputs, cuts, run.rows("final_norm"))


def _without_sinks(run: Trace) -> Trace:
    """The run with the positions that are attention sinks at any cut marked as special."""
    found = torch.zeros_like(run.inputs.mask)
    for level, cut in enumerate(run.cuts):
        x = run.rows(level)[None]
        found[:, : x.shape[1]] |= sinks(cut.hook, x, run.described[None, : x.shape[1]])
    kind = run.inputs.kind.masked_fill(found, int(PositionKind.SPECIAL))
    return replace(run, inputs=replace(run.inputs, kind=kind))
