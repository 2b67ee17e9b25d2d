"""Which hook points a dictionary reads and predicts, and how their rows are brought to one scale for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from auditor.base.errors import AuditorError
from auditor.sae.sae import LAYER_NORM_EPS

Columns = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Reading:
    """The hook points read, and those predicted (none: what is read), each with its width, as columns side by side.

    Where samples are read `in_order`, two more columns follow (`auditor.sae.whole_samples`): where one begins, and
    which rows count.
    """

    sources: Columns
    targets: Columns = ()
    in_order: bool = False

    @property
    def hooks(self) -> list[str]:
        """All of them, in the order of columns."""
        return [name for name, _ in (*self.sources, *self.targets)]

    @property
    def kind(self) -> str:
        """As `Sae.kind`."""
        if self.in_order:
            return "temporal autoencoder"
        return "transcoder" if self.targets else "crosscoder" if len(self.sources) > 1 else "autoencoder"

    @property
    def d_in(self) -> int:
        return sum(width for _, width in self.sources)

    @property
    def d_out(self) -> int:
        return sum(width for _, width in self.targets or self.sources)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Input [B, d_in] and target [B, d_out] of rows [B, all columns]; the same tensor if nothing else is
        predicted."""
        rows = rows[:, : self.d_in] if self.in_order else rows
        return (rows[:, : self.d_in], rows[:, self.d_in :]) if self.targets else (rows, rows)

    def judged(self, rows: Tensor) -> Tensor:
        """Those of `rows` [B, all columns] that count."""
        return rows[rows[:, -1] > 0] if self.in_order else rows

    def order(self, rows: Tensor) -> dict[str, Any]:
        """What a `Batch` of `rows` [B, all columns] says of samples: the lengths of its `runs`, and which rows are
        `judged`."""
        if not self.in_order:
            return {}
        begins = [*rows[:, -2].nonzero().flatten().tolist(), len(rows)]
        runs = [stop - start for start, stop in pairwise(begins)]
        return {"runs": runs, "judged": rows[:, -1] > 0}


@dataclass(frozen=True)
class Scaling:
    """Factors that rows are multiplied by for training, one for each column: `input` [d_in] and `output` [d_out], the
    same within one hook point. With `layer_norm`, rows are first normalised each on its own."""

    reading: Reading
    input: Tensor
    output: Tensor
    layer_norm: bool = False

    @classmethod
    def of(cls, reading: Reading, sample: Tensor, normalise: str) -> Scaling:
        """From rows `sample` [n, all columns]: mean norm sqrt(width) for each hook point unless `normalise` is none.
        AuditorError for rows that are all zero or not finite."""
        factors = []
        at = 0
        for name, width in (*reading.sources, *reading.targets):
            mean = sample[:, at : at + width].norm(dim=1).mean()
            factor = width**0.5 / mean if normalise == "norm" else torch.ones(())
            if not torch.isfinite(mean) or not torch.isfinite(factor):
                raise AuditorError(
                    f"The first rows of “{name}” are all zero or not finite.", "Check the store, or record it again."
                )
            factors.append(factor.expand(width))
            at += width
        columns = torch.cat(factors)
        layer_norm = normalise == "layer_norm"
        if layer_norm and (reading.targets or len(reading.sources) > 1):
            raise AuditorError(
                "Layer normalisation is for dictionaries of one hook point.", "Choose the normalisation norm or none."
            )
        return cls(reading, *reading.split(columns[None]), layer_norm)._flat()

    def _flat(self) -> Scaling:
        return Scaling(self.reading, self.input.flatten(), self.output.flatten(), self.layer_norm)

    def to(self, device: torch.device) -> Scaling:
        """The same with its factors on `device`."""
        return replace(self, input=self.input.to(device), output=self.output.to(device))

    def apply(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Input and target on the training scale, of raw rows [B, all columns] on the device of training."""
        x, target = self.reading.split(rows)
        if self.layer_norm:
            x = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + LAYER_NORM_EPS)
            return x, x
        scaled = x * self.input.to(x.device)
        return scaled, (scaled if target is x else target * self.output.to(x.device))

    def factors(self) -> float | dict[str, float]:
        """The factor of the one hook point, or of each by name."""
        columns = torch.cat([self.input, self.output]) if self.reading.targets else self.input
        found, at = {}, 0
        for name, width in (*self.reading.sources, *self.reading.targets):
            found[name] = float(columns[at])
            at += width
        return next(iter(found.values())) if len(found) == 1 else found

    def facts(self) -> dict[str, Any]:
        """What a finished dictionary keeps of it, as fields of `Sae`."""
        found: dict[str, Any] = {"hook": ", ".join(name for name, _ in self.reading.sources)}
        if self.reading.targets:
            found["hook_out"] = ", ".join(name for name, _ in self.reading.targets)
        elif len(self.reading.sources) > 1:
            found["sources"] = self.reading.sources
        return found | ({"normalise": "layer_norm"} if self.layer_norm else {})


def names_of(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def reading_of(hooks: dict[str, int], takes: str, hook: str, target: str) -> Reading:
    """The columns that an architecture which takes `takes` reads of a store with `hooks` (name → width).

    AuditorError where the settings `hook` and `target` do not name what it takes.
    """
    sources, targets = _columns(hooks, hook, takes), _columns(hooks, target, takes) if target else ()
    if takes in ("one", "several", "samples") and targets:
        raise AuditorError("Only transcoders predict another hook point.", "Leave “Predicts” empty.")
    if takes in ("pair", "layers") and not targets:
        raise AuditorError(
            "A transcoder predicts one hook point from another, and none is named.",
            f"Set “Predicts” to one of: {', '.join(hooks)}.",
        )
    if takes in ("one", "pair", "samples") and len(sources) + len(targets) > (2 if takes == "pair" else 1):
        raise AuditorError(
            f"Several hook points are named ({hook}), and this architecture reads one.",
            "Choose a crosscoder or a cross-layer transcoder, or name one.",
        )
    if takes == "several" and len(sources) < 2:
        raise AuditorError(
            "A crosscoder reads at least two hook points, or one of several stores.",
            "Name hook points separated by commas, or further stores.",
        )
    if takes == "layers" and len(sources) != len(targets):
        raise AuditorError(
            f"{len(sources)} hook points are read and {len(targets)} predicted.",
            "A cross-layer transcoder needs as many of each.",
        )
    return Reading(sources, targets, in_order=takes == "samples")


def _columns(hooks: dict[str, int], text: str, takes: str) -> Columns:
    names: Sequence[str] = names_of(text)
    if not names and (len(hooks) == 1 or takes == "several"):
        names = list(hooks)
    unknown = [name for name in names if name not in hooks]
    if unknown or not names:
        said = f"no hook point “{unknown[0]}”" if unknown else "several hook points"
        raise AuditorError(f"The store has {said}.", f"Choose one of: {', '.join(hooks)}.")
    return tuple((name, hooks[name]) for name in names)
