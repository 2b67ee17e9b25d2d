"""Where the nodes of a graph are drawn: token position across, depth up, neighbours near one another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from auditor.analysis.circuits.graph import Floats, Graph

SWEEPS = 3
COLUMN_GAP = 1.0
LAYER_GAP = 2.0


def layout(graph: Graph, widest: int = 8) -> Floats:
    """Position of each node, float32 [n, 2] (x to the right, y upward); unit: one node's room.

    The nodes of one (layer, position) cell stand in rows of at most `widest`, no two nearer than 1. Their order
    follows the weighted mean x of their neighbours (barycentre heuristic, Sugiyama et al. 1981), in three sweeps.
    """
    n = len(graph.nodes)
    if not n:
        return np.zeros((0, 2), dtype=np.float32)
    layer = np.array([node.layer for node in graph.nodes])
    position = np.array([node.position for node in graph.nodes])
    n_positions = max(int(position.max()) + 1, len(graph.tokens))
    cell = layer * n_positions + position
    size = np.bincount(cell, minlength=(int(layer.max()) + 1) * n_positions).reshape(-1, n_positions)
    across = np.clip(size.max(0), 1, widest)
    left = np.concatenate(([0.0], np.cumsum(across + COLUMN_GAP)[:-1]))
    rows = np.maximum(1, -(-size // across)).max(1)
    bottom = np.concatenate(([0.0], np.cumsum(rows + LAYER_GAP)[:-1]))
    first = np.concatenate(([0], np.cumsum(size.ravel())[:-1]))
    weights = np.abs(graph.adjacency)
    degree = np.maximum(weights.sum(0) + weights.sum(1), np.float32(1e-12))
    place = (left + across / 2)[position].astype(np.float32)
    spot = np.zeros((n, 2), dtype=np.float32)
    for _ in range(SWEEPS):
        mean = (weights @ place + place @ weights) / degree
        order = np.lexsort((np.arange(n), mean, cell))
        rank = np.empty(n, dtype=np.int64)
        rank[order] = np.arange(n)
        rank -= first[cell]
        in_row = across[position]
        row, column = rank // in_row, rank % in_row
        members = np.minimum(in_row, size.ravel()[cell] - row * in_row)
        spot[:, 0] = left[position] + column + (in_row - members) / 2 + 0.5
        spot[:, 1] = bottom[layer] + row + 0.5
        place = spot[:, 0].copy()
    return spot


def bands(graph: Graph, spots: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Extent of each token's column [tokens, 2] and of each layer [layers, 2] (low, high); NaN where one is empty."""
    position = np.array([node.position for node in graph.nodes], dtype=np.int64)
    layer = np.array([node.layer for node in graph.nodes], dtype=np.int64)
    n_positions = max(len(graph.tokens), int(position.max(initial=-1)) + 1)
    return _extent(position, spots[:, 0], n_positions), _extent(layer, spots[:, 1], graph.n_layers)


def _extent(group: NDArray[np.int64], at: Floats, n: int) -> NDArray[np.float32]:
    extent = np.full((n, 2), (np.inf, -np.inf), dtype=np.float32)
    np.minimum.at(extent[:, 0], group, at - np.float32(0.5))
    np.maximum.at(extent[:, 1], group, at + np.float32(0.5))
    extent[~np.isfinite(extent).all(1)] = np.nan
    return extent
