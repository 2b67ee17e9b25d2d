"""Which nodes and edges of a graph to keep: those that hold a given share of influence (circuit-tracer's rule)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from auditor.analysis.circuits.graph import Floats, Graph, Mask, node_influence, normalised
from auditor.base.errors import AuditorError


def prune_masks(graph: Graph, node_threshold: float, edge_threshold: float) -> tuple[Mask, Mask]:
    """Nodes to keep [n] and edges to keep [n, n], at a fixpoint.

    Nodes that together hold `node_threshold` of node influence, then edges that hold `edge_threshold` of edge
    influence among them; then, until nothing changes, features and errors without an outgoing edge and features
    without an incoming one fall. Embeddings and logits stay.
    """
    for name, value in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
        if not 0 < value <= 1:
            raise AuditorError(f"{name} is {value}; it is a share of influence.", "Choose a number over 0, up to 1.")
    feature, inner = graph.mask("feature"), graph.mask("feature", "error")
    always = ~inner
    influence = graph.influence()
    keep: Mask = (influence >= share_threshold(influence, node_threshold)) & (influence > 0) | always
    weights = normalised(np.where(keep[:, None] & keep[None, :], graph.adjacency, np.float32(0)))
    through = node_influence(weights, graph.output_weights) + graph.output_weights
    score = weights * through[:, None]
    edges: Mask = (score >= share_threshold(score, edge_threshold)) & (score > 0)
    while True:
        edges &= keep[:, None] & keep[None, :]
        falls = inner & ~edges.any(0) | feature & ~edges.any(1)
        if not (falls & keep).any():
            return keep, edges
        keep &= ~falls


def share_threshold(scores: NDArray[np.floating], share: float) -> float:
    """The smallest score among the largest ones that together hold `share` of the sum; inf when all are 0."""
    positive = np.sort(scores[scores > 0].ravel())[::-1].astype(np.float64)
    if not len(positive):
        return float("inf")
    held = np.cumsum(positive) / positive.sum()
    return float(positive[min(int(np.searchsorted(held, share)), len(positive) - 1)])


def random_circuit(graph: Graph, like: Graph, seed: int = 0) -> Graph:
    """A null circuit: as many features and errors as `like`, drawn at random from `graph` layer by layer."""
    generator = np.random.default_rng(seed)
    keep: Mask = graph.mask("token", "patch", "logit").copy()
    layers = np.array([node.layer for node in graph.nodes])
    wanted = np.array([node.layer for node in like.nodes])
    for kind in ("feature", "error"):
        for layer in range(graph.n_layers):
            pool = np.flatnonzero(graph.mask(kind) & (layers == layer))
            n = int((like.mask(kind) & (wanted == layer)).sum())
            keep[generator.choice(pool, size=min(n, len(pool)), replace=False)] = True
    return graph.subgraph(keep)


def influence_held(graph: Graph, circuit: Graph) -> float:
    """Share of the graph's feature and error influence that the circuit's nodes hold; 0…1."""
    influence: Floats = graph.influence()
    inner = graph.mask("feature", "error")
    inside = np.array([node.id in circuit.index for node in graph.nodes])
    total = float(influence[inner].sum())
    return float(influence[inner & inside].sum()) / total if total > 0 else 0.0
