"""The walk from the logits down to the embeddings: which features become nodes, and what adds to what."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from auditor.analysis.circuits.linear import Trace
from auditor.base.reporter import Reporter
from auditor.sae import Sae


@dataclass(frozen=True)
class Outputs:
    """The logits to explain: token ids, probabilities, mean-centred values, and directions [n, width]."""

    ids: list[int]
    probs: list[float]
    values: list[float]
    directions: Tensor


@dataclass(frozen=True)
class Candidates:
    """Active features of one hook point, by position then id: position, id, activation [C] and what each writes."""

    position: Tensor
    feature: Tensor
    activation: Tensor
    sae: Sae

    def writes(self, rows: Tensor) -> Tensor:
        """Activation × decoder row of these candidates, [n, width]."""
        return self.activation[rows, None] * self.sae.W_dec[self.feature[rows]]

    def kept(self, rows: Tensor) -> Candidates:
        return Candidates(self.position[rows], self.feature[rows], self.activation[rows], self.sae)


@dataclass(frozen=True)
class Incoming:
    """What the sources of one cut add to a list of targets: features [T, C], all of the rest [T, P], b_dec [T]."""

    features: Tensor
    rest: Tensor
    bias: Tensor

    def keep(self, candidates: Candidates, rows: Tensor) -> Incoming:
        """Only these features; the others' share goes to the rest of their position."""
        out = torch.ones(self.features.shape[1], dtype=torch.bool, device=self.features.device)
        out[rows] = False
        rest = self.rest.index_add(1, candidates.position[out], self.features[:, out])
        return Incoming(self.features[:, rows], rest, self.bias)


class Tracer:
    """Walks from the logits down to the embeddings, one cut at a time, keeping the influential features of each."""

    def __init__(
        self,
        run: Trace,
        fired: list[Candidates],
        budget: list[int],
        outputs: Outputs,
        position: int,
        batch_size: int,
        reporter: Reporter,
    ) -> None:
        self.run, self.fired, self.budget, self.outputs = run, fired, budget, outputs
        self.position, self.batch_size, self.reporter = position, batch_size, reporter
        self.kept: list[Candidates] = list(fired)
        self.done, self.total = 0, sum(budget) + len(outputs.ids)

    def downward(self) -> list[Incoming]:
        """Incoming effects of the targets above each cut, from the embeddings upward."""
        found: list[Incoming] = []
        directions = self.outputs.directions
        positions = torch.full((len(directions),), self.position, device=directions.device)
        influence = torch.tensor(self.outputs.probs, device=directions.device)
        for level in range(len(self.fired), 0, -1):
            candidates = self.fired[level - 1]
            incoming = self._incoming(level, positions, directions, candidates)
            weights = torch.cat([incoming.features, incoming.rest], 1).abs()
            passed = influence @ (weights / weights.sum(1, keepdim=True).clamp(min=1e-10))
            chosen = passed[: incoming.features.shape[1]].argsort(descending=True, stable=True)
            rows = chosen[: self.budget[level - 1]].sort().values
            self.kept[level - 1] = candidates.kept(rows)
            found.append(incoming.keep(candidates, rows))
            influence = passed[rows]
            positions = self.kept[level - 1].position
            directions = candidates.sae.W_enc.T[self.kept[level - 1].feature]
        found.append(self._incoming(0, positions, directions, None))
        return found[::-1]

    def _incoming(self, level: int, positions: Tensor, directions: Tensor, sources: Candidates | None) -> Incoming:
        x = self.run.rows(level)[: self.position + 1]
        empty = x.new_zeros(0, 0 if sources is None else len(sources.feature))
        parts: list[Incoming] = [Incoming(empty, x.new_zeros(0, len(x)), x.new_zeros(0))]
        constant = torch.zeros_like(x)
        if sources is not None:
            constant[self.run.described[: len(x)]] = sources.sae.b_dec
        for start in range(0, len(directions), self.batch_size):
            part = slice(start, start + self.batch_size)
            run = self.run.prefix(int(positions[part].max()) + 1)  # targets come in the order of their positions
            gradient = run.pull_at(level, positions[part], directions[part])[:, : len(x)]
            n = gradient.shape[1]
            features = _feature_effects(gradient, sources)
            rest = functional.pad((gradient * (x - constant)[:n]).sum(-1), (0, len(x) - n))
            if sources is not None:
                rest = rest.index_add(1, sources.position, features, alpha=-1)
            parts.append(Incoming(features, rest, (gradient * constant[:n]).sum((1, 2))))
            self.done += len(gradient)
            self.reporter.step(self.done, self.total, unit="targets")
        return Incoming(*(torch.cat([getattr(p, name) for p in parts]) for name in ("features", "rest", "bias")))


def _feature_effects(gradient: Tensor, sources: Candidates | None) -> Tensor:
    """Effects [K, C] of the features that fire on targets with gradients [K, P, width]."""
    if sources is None:
        return gradient.new_zeros(len(gradient), 0)
    effects = gradient.new_zeros(len(gradient), len(sources.feature))
    for position in sorted(p for p in set(sources.position.tolist()) if p < gradient.shape[1]):
        rows = torch.nonzero(sources.position == position)[:, 0]
        effects[:, rows] = gradient[:, position] @ sources.writes(rows).T
    return effects


def active_features(run: Trace, level: int, sae: Sae, position: int) -> Candidates:
    """Features that fire at ordinary positions up to the explained one."""
    x = run.rows(level)[: position + 1]
    values, ids = sae.encode_sparse(x)
    fires = (values > 0) & run.described[: len(x), None]
    where = torch.nonzero(fires)[:, 0]
    feature, activation = ids[fires], values[fires]
    order = (where * sae.d_sae + feature).argsort()
    return Candidates(where[order], feature[order], activation[order], sae)


def features_of_each_hook(run: Trace, fired: list[Candidates], outputs: Outputs, position: int, most: int) -> list[int]:
    """Feature nodes of each hook point: all that fire, or phase 1 of the selection."""
    sizes = [len(candidates.feature) for candidates in fired]
    if sum(sizes) <= most:
        return sizes
    probs = torch.tensor(outputs.probs, device=outputs.directions.device)
    gradients = run.uncut(position, outputs.directions)[1:]
    scores = [probs @ _feature_effects(g, c).abs() for g, c in zip(gradients, fired, strict=True)]
    chosen = torch.cat(scores).argsort(descending=True, stable=True)[:most]
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(chosen.device)[chosen]
    return torch.bincount(owner, minlength=len(sizes)).tolist()
