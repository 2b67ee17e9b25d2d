"""The attribution graph of one prompt: its nodes, its edges, how well it stands for the model, and what it predicts.

Scores follow circuit-tracer (Ameisen et al. 2025, "Circuit Tracing", graph scores): the absolute weights that enter a
node are normalised to sum 1, and a node's influence is the power series of that matrix applied to the logits'
probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from auditor.base.errors import AuditorError

NodeKind = Literal["feature", "error", "token", "patch", "logit"]
NODE_KINDS: tuple[str, ...] = get_args(NodeKind)
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Node:
    """One source or target of the graph.

    `layer` counts upward: 0 for embeddings, 1… for the dictionaries in order of depth, the last for logits. `hook` is
    the dictionary's hook point. `activation` is the feature's activation, or the size (L2 norm) of an error or
    embedding vector, or the mean-centred logit. `cell` is a patch's (row, column) in its image.
    """

    id: str
    kind: NodeKind
    layer: int
    position: int
    feature: int | None = None
    activation: float = 0.0
    label: str = ""
    token: str = ""
    prob: float | None = None
    hook: str = ""
    token_id: int | None = None
    cell: tuple[int, int] | None = None


@dataclass(frozen=True)
class Scores:
    """How much of the graph's influence passes through features instead of error nodes; each in 0…1.

    replacement: influence of embeddings / (embeddings + errors). completeness: share of incoming weight that does not
    come from error nodes, averaged with the nodes' output influence. error_share: influence of error nodes / all.
    """

    replacement: float
    completeness: float
    error_share: float


@dataclass(frozen=True)
class Graph:
    """Nodes and the linear effects between them. `adjacency[t, s]` is what source s adds to the value of target t.

    `value[t]` is the target's whole linear value (feature: encoder column · residual stream; logit: minus the mean
    logit) and `bias[t]` the part that the dictionaries' own constants b_dec bring. In a graph that is not pruned,
    `value = adjacency.sum(1) + bias` for features and logits: nothing is missing.
    """

    nodes: list[Node]
    adjacency: Floats
    prompt: str
    tokens: list[str]
    value: Floats
    bias: Floats
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.nodes)
        if self.adjacency.shape != (n, n) or self.value.shape != (n,) or self.bias.shape != (n,):
            raise AuditorError(f"The graph has {n} nodes, but its arrays are not {n} long.", "The file is damaged.")

    @property
    def n_layers(self) -> int:
        """Rows of the drawing: embeddings, one for each dictionary, logits."""
        return max((node.layer for node in self.nodes), default=0) + 1

    @cached_property
    def index(self) -> dict[str, int]:
        """Row of each node by its id."""
        return {node.id: row for row, node in enumerate(self.nodes)}

    @cached_property
    def kinds(self) -> NDArray[np.str_]:
        return np.array([node.kind for node in self.nodes], dtype="U7")

    def mask(self, *kinds: str) -> Mask:
        """Which nodes are of these kinds, bool [n]."""
        found: Mask = np.isin(self.kinds, kinds)
        return found

    def node(self, node_id: str) -> Node:
        """The node with this id; AuditorError when the graph has none."""
        return self.nodes[self.row(node_id)]

    def row(self, node_id: str) -> int:
        if node_id not in self.index:
            raise AuditorError(f"The graph has no node “{node_id}”.", "Choose a node that the graph shows.")
        return self.index[node_id]

    @cached_property
    def output_weights(self) -> Floats:
        """Where influence starts: the probability of each logit node, 0 elsewhere; float32 [n]."""
        return np.array([n.prob or 0.0 if n.kind == "logit" else 0.0 for n in self.nodes], dtype=np.float32)

    def influence(self) -> Floats:
        """Influence of each node on the graph's outputs, float32 [n]; 0 at the logits themselves."""
        return node_influence(normalised(self.adjacency), self.output_weights)

    def scores(self) -> Scores:
        """Replacement, completeness and error share; see `Scores`."""
        weights = normalised(self.adjacency)
        influence = node_influence(weights, self.output_weights)
        errors, inputs = self.mask("error"), self.mask("token", "patch")
        error, entered = float(influence[errors].sum()), float(influence[inputs].sum())
        output = influence + self.output_weights
        explained = 1.0 - weights[:, errors].sum(1)
        return Scores(
            replacement=_share(entered, entered + error),
            completeness=_share(float((explained * output).sum()), float(output.sum())),
            error_share=_share(error, float(influence.sum())),
        )

    def missing(self) -> Floats:
        """value − incoming edges − bias of each feature and logit, 0 elsewhere: what conservation lacks, [n]."""
        gap = self.value - self.adjacency.astype(np.float64).sum(1).astype(np.float32) - self.bias
        return np.where(self.mask("feature", "logit"), gap, np.float32(0))

    def response(self, change: Mapping[str, float]) -> Floats:
        """Linear change of every target's value when sources change by a share (−1 removes them); float32 [n].

        Features below a changed source follow it in proportion to their activation; error nodes stay. The change is
        not clipped where an activation would fall below 0.
        """
        share = np.zeros(len(self.nodes), dtype=np.float64)
        fixed = np.zeros(len(self.nodes), dtype=np.bool_)
        for node_id, amount in change.items():
            share[self.row(node_id)], fixed[self.row(node_id)] = amount, True
        delta = np.zeros(len(self.nodes), dtype=np.float64)
        layer = np.array([node.layer for node in self.nodes])
        activation = np.array([node.activation for node in self.nodes])
        targets = self.mask("feature", "logit")
        for depth in range(1, self.n_layers):
            rows = np.flatnonzero(targets & (layer == depth))
            delta[rows] = self.adjacency[rows].astype(np.float64) @ share
            free = rows[~fixed[rows] & (activation[rows] > 0) & (self.kinds[rows] == "feature")]
            share[free] = delta[free] / activation[free]
        return delta.astype(np.float32)

    def prune(self, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> Graph:
        """The part of the graph that holds these shares of influence; embeddings and logits stay.

        `meta["pruning"]` keeps the thresholds, the scores before and after, and the shares that were cut.
        """
        from auditor.analysis.circuits.prune import prune_masks

        keep, edges = prune_masks(self, node_threshold, edge_threshold)
        kept = self.subgraph(keep, edges)
        influence, weight = self.influence(), float(np.abs(self.adjacency).sum())
        facts = {
            "node_threshold": node_threshold,
            "edge_threshold": edge_threshold,
            "nodes": [len(self.nodes), len(kept.nodes)],
            "edges": [int(np.count_nonzero(self.adjacency)), int(np.count_nonzero(kept.adjacency))],
            "influence_cut": 1.0 - _share(float(influence[keep].sum()), float(influence.sum())),
            "weight_cut": 1.0 - _share(float(np.abs(kept.adjacency).sum()), weight),
            "scores_before": vars(self.scores()),
            "scores_after": vars(kept.scores()),
        }
        return replace(kept, meta={**self.meta, "pruning": facts})

    def subgraph(self, keep: Mask, edges: Mask | None = None) -> Graph:
        """The nodes of `keep` [n] with the edges of `edges` [n, n] between them."""
        rows = np.flatnonzero(keep)
        adjacency = self.adjacency[np.ix_(rows, rows)]
        if edges is not None:
            adjacency = np.where(edges[np.ix_(rows, rows)], adjacency, np.float32(0))
        nodes = [self.nodes[row] for row in rows]
        return replace(self, nodes=nodes, adjacency=adjacency, value=self.value[rows], bias=self.bias[rows])

    def relabelled(self, labels: Mapping[str, str]) -> Graph:
        """The same graph with new labels for the nodes whose id is named."""
        nodes = [replace(node, label=labels.get(node.id, node.label)) for node in self.nodes]
        return replace(self, nodes=nodes)

    def save(self, path: Path | str) -> Path:
        """Write one `*.graph.json.gz`: same graph, same bytes."""
        from auditor.analysis.circuits.graph_file import write_graph

        return write_graph(self, path)

    @staticmethod
    def load(path: Path | str) -> Graph:
        """Read what `save` wrote; AuditorError for anything else."""
        from auditor.analysis.circuits.graph_file import read_graph

        return read_graph(path)


def normalised(adjacency: Floats) -> Floats:
    """Absolute weights with each row (target) divided by its sum; rows without edges stay 0."""
    weights = np.abs(adjacency)
    weights /= np.maximum(weights.sum(1, keepdims=True), np.float32(1e-10))
    return weights


def node_influence(weights: Floats, outputs: Floats) -> Floats:
    """outputs·W + outputs·W² + … of a normalised acyclic matrix W; AuditorError when W has a cycle."""
    current = outputs @ weights
    total = current.copy()
    for _ in range(len(weights)):
        if not current.any():
            return total
        current = current @ weights
        total += current
    raise AuditorError("The graph has a cycle, so influence has no end.", "Trace the prompt again.")


def top_nodes(graph: Graph, n: int, kinds: Iterable[str] = ("feature",)) -> list[str]:
    """Ids of the n nodes of these kinds with the most influence, strongest first."""
    influence = np.where(graph.mask(*kinds), graph.influence(), -1.0)
    order = np.argsort(-influence, kind="stable")[:n]
    return [graph.nodes[row].id for row in order if influence[row] >= 0]


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
