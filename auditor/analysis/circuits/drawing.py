"""A circuit as an SVG for reports: token position across, depth up, width and sign of edges, shapes by kind of node."""

from __future__ import annotations

from html import escape

import numpy as np

from auditor.analysis.circuits.graph import Graph, Node
from auditor.analysis.circuits.layout import layout

_PLUS, _MINUS, _INK, _MUTED, _RULE = "#C4500A", "#2A62C9", "#1D1D1B", "#5F5E5A", "#DEDDD8"
_ROOM = 26
_LEFT = 110
_MOST_EDGES = 400


def to_svg(graph: Graph, *, named: int = 12) -> str:
    """The graph (prune it first) as SVG text; the `named` most influential features carry their labels."""
    spots = layout(graph)
    width, height = int(spots[:, 0].max() * _ROOM) + _LEFT + 190, int(spots[:, 1].max() * _ROOM) + 110
    x, y = spots[:, 0] * _ROOM + _LEFT, height - 70 - spots[:, 1] * _ROOM
    influence = graph.influence()
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f'<rect width="{width}" height="{height}" fill="#FFFFFF"/>',
    ]
    parts += _edges(graph, x, y) + _layers(graph, y, width) + _tokens(graph, x, height)
    ranked = np.argsort(-influence)
    features = [int(i) for i in ranked if graph.nodes[i].kind == "feature"][:named]
    for at, node in enumerate(graph.nodes):
        parts.append(_shape(node, float(x[at]), float(y[at])))
    for at, node in enumerate(graph.nodes):
        if node.kind == "logit":
            parts.append(
                _word(float(x[at]) + 12, float(y[at]) + 5, f"{_seen(node.token)} {100 * (node.prob or 0):.0f} %", 13)
            )
    for at in features:
        node = graph.nodes[at]
        parts.append(_word(float(x[at]) + 9, float(y[at]) - 7, _seen(node.label or str(node.feature))[:22], 10))
    return "".join([*parts, "</svg>"])


def _edges(graph: Graph, x: np.ndarray, y: np.ndarray) -> list[str]:
    weights = graph.adjacency
    targets, sources = np.nonzero(weights)
    size = np.abs(weights[targets, sources])
    drawn = np.argsort(-size)[:_MOST_EDGES][::-1]
    largest = float(size.max()) if len(size) else 1.0
    parts = []
    for edge in drawn:
        t, s = targets[edge], sources[edge]
        thick = 0.4 + 4 * (float(size[edge]) / largest) ** 0.5
        colour = _PLUS if weights[t, s] > 0 else _MINUS
        middle = (y[s] + y[t]) / 2
        path = f"M{x[s]:.1f} {y[s]:.1f}C{x[s]:.1f} {middle:.1f} {x[t]:.1f} {middle:.1f} {x[t]:.1f} {y[t]:.1f}"
        parts.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-opacity="0.45" stroke-width="{thick:.2f}"/>'
        )
    return parts


def _layers(graph: Graph, y: np.ndarray, width: int) -> list[str]:
    names = {node.layer: node.hook.removesuffix(".resid_post") or node.kind for node in graph.nodes}
    names |= {0: "inputs", graph.n_layers - 1: "outputs"}
    layer = np.array([node.layer for node in graph.nodes])
    parts = []
    for number, name in sorted(names.items()):
        rows = y[layer == number]
        line = float(rows.max()) + _ROOM * 0.9
        parts.append(f'<path d="M12 {line:.1f}H{width - 12}" stroke="{_RULE}" stroke-width="1"/>')
        parts.append(_word(12, float(rows.mean()) + 4, name, 12, _MUTED))
    return parts


def _tokens(graph: Graph, x: np.ndarray, height: int) -> list[str]:
    position = np.array([node.position for node in graph.nodes])
    parts = []
    for number, token in enumerate(graph.tokens):
        here = x[position == number]
        if len(here):
            parts.append(_word(float(here.mean()), height - 30, _seen(token)[:12], 13, middle=True))
    return parts


def _shape(node: Node, x: float, y: float) -> str:
    if node.kind == "error":
        path = f"M{x:.1f} {y - 7:.1f}L{x + 7:.1f} {y:.1f}L{x:.1f} {y + 7:.1f}L{x - 7:.1f} {y:.1f}Z"
        return f'<path d="{path}" fill="#FFFFFF" stroke="{_MUTED}"/>'
    if node.kind == "feature":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="#FFFFFF" stroke="{_INK}" stroke-width="1.4"/>'
    return f'<rect x="{x - 7:.1f}" y="{y - 7:.1f}" width="14" height="14" rx="3" fill="{_RULE}" stroke="{_INK}"/>'


def _word(x: float, y: float, text: str, size: int, colour: str = _INK, middle: bool = False) -> str:
    anchor = ' text-anchor="middle"' if middle else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="Inter, sans-serif" font-size="{size}" fill="{colour}"{anchor}>'
        f"{escape(text)}</text>"
    )


def _seen(text: str) -> str:
    return "".join(c if c.isprintable() else "·" for c in text)
