"""A circuit as an SVG for reports: token position across, depth up, width and sign of edges, shapes by kind of node."""

from __future__ import annotations

from dataclasses import replace
from html import escape

import numpy as np

from auditor.analysis.circuits.graph import Graph, Node
from auditor.analysis.circuits.layout import layout
from auditor.analysis.flow import Floats, Measures, Pieces, Placed, flow

_PLUS, _MINUS, _INK, _MUTED, _RULE = "#C4500A", "#2A62C9", "#1D1D1B", "#5F5E5A", "#DEDDD8"
_WIDTH, _HEIGHT, _LEFT, _TOP, _FOOT = 1080, 560, 84, 14, 44
_SIZES = Measures(15, 18, 24, 28, 16, 2, 34, 90)
_TYPE = 12
_CHARACTER = 0.53
_LONGEST_LABEL, _LONGEST_TOKEN = 24, 16
_MOST_EDGES = 400


def to_svg(graph: Graph, *, named: int = 24) -> str:
    """The graph (prune it first) as SVG text; the `named` most influential features carry their labels.

    Features of one token and layer with the same label are named once, with how many they are.
    """
    graph, tokens = _close_ranks(graph)
    for most in (named, named * 2 // 3, named // 3):
        names = _names(graph, most)
        placed = _place(graph, len(tokens), names)
        if placed.fits:
            break
    x = placed.spots[:, 0] + _LEFT
    wide = max(_WIDTH, float(np.nanmax(placed.column_spans)) + _LEFT + 16)
    bottom = float(np.nanmax(placed.band_spans)) + _TOP
    y = bottom - placed.spots[:, 1]
    high = bottom + _FOOT
    edges, drawn, total = _edges(graph, x, y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:.0f}" height="{high:.0f}" '
        f'viewBox="0 0 {wide:.0f} {high:.0f}">',
        f'<rect width="{wide:.0f}" height="{high:.0f}" fill="#FFFFFF"/>',
        *_bands(graph, placed, bottom, wide),
        *edges,
    ]
    for at, node in enumerate(graph.nodes):
        parts.append(_shape(node, float(x[at]), float(y[at])))
    for at, text in names.items():
        left, middle = float(x[at]) + 9, float(y[at])
        ground = f'<rect x="{left - 1:.1f}" y="{middle - 7:.1f}" width="{_long(text) + 2:.1f}" height="14"'
        parts.append(f'{ground} fill="#FFFFFF" fill-opacity="0.8"/>')
        parts.append(_word(left, middle + 4, text))
    parts += _legend(high - 12, drawn, total)
    return "".join([*parts, "</svg>"])


def _close_ranks(graph: Graph) -> tuple[Graph, list[str]]:
    """The graph with the positions that hold nodes counted 0, 1, 2…, and the token of each."""
    held = sorted({node.position for node in graph.nodes})
    rank = {position: at for at, position in enumerate(held)}
    tokens = [graph.tokens[position] if position < len(graph.tokens) else "" for position in held]
    return replace(graph, nodes=[replace(n, position=rank[n.position]) for n in graph.nodes], tokens=tokens), tokens


def _names(graph: Graph, most: int) -> dict[int, str]:
    """Row → label of the features that are named."""
    held: dict[tuple[int, int, str], list[int]] = {}
    for row in np.argsort(-graph.influence(), kind="stable").tolist():
        node = graph.nodes[row]
        if node.kind == "feature":
            held.setdefault((node.layer, node.position, node.label or f"#{node.feature}"), []).append(row)
    return {
        rows[0]: _cut(_seen(label), _LONGEST_LABEL) + (f" ×{len(rows)}" if len(rows) > 1 else "")
        for (_, _, label), rows in list(held.items())[:most]
    }


def _place(graph: Graph, columns: int, names: dict[int, str]) -> Placed:
    kinds = np.array([node.kind for node in graph.nodes])
    widths = np.full(len(graph.nodes), _SIZES.pitch)
    for row, text in names.items():
        widths[row] += _long(text) + 12
    boxes = np.isin(kinds, ("token", "patch", "logit"))
    for row in np.flatnonzero(boxes).tolist():
        widths[row] = _box(graph.nodes[row]) + (2 if graph.nodes[row].kind == "patch" else 8)
    order = layout(graph).astype(np.float64)
    likely = np.array([node.prob or 0.0 for node in graph.nodes])
    order[kinds == "logit"] = 0
    order[:, 1] -= np.where(kinds == "logit", likely, 0)
    cells = np.array([(node.position, node.layer) for node in graph.nodes], np.int64)
    pieces = Pieces(cells, order, widths, boxes, kinds == "logit", kinds == "patch")
    return flow(pieces, columns, graph.n_layers, _WIDTH - _LEFT - 16, _HEIGHT - _TOP - _FOOT, _SIZES)


def _edges(graph: Graph, x: Floats, y: Floats) -> tuple[list[str], int, int]:
    """The strongest edges, how many they are, and how many there are."""
    weights = graph.adjacency
    targets, sources = np.nonzero(weights)
    size = np.abs(weights[targets, sources])
    drawn = np.argsort(-size, kind="stable")[:_MOST_EDGES][::-1]
    largest = float(size.max()) if len(size) else 1.0
    parts = []
    for edge in drawn:
        t, s = targets[edge], sources[edge]
        part = (float(size[edge]) / largest) ** 0.5
        colour = _PLUS if weights[t, s] > 0 else _MINUS
        dash = "" if weights[t, s] > 0 else ' stroke-dasharray="5 2"'
        middle = (y[s] + y[t]) / 2
        path = f"M{x[s]:.1f} {y[s]:.1f}C{x[s]:.1f} {middle:.1f} {x[t]:.1f} {middle:.1f} {x[t]:.1f} {y[t]:.1f}"
        parts.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-opacity="{0.2 + 0.45 * part:.2f}" '
            f'stroke-width="{0.4 + 3.6 * part:.2f}"{dash}/>'
        )
    return parts, len(drawn), len(size)


def _bands(graph: Graph, placed: Placed, bottom: float, wide: float) -> list[str]:
    names = {node.layer: node.hook.removesuffix(".resid_post") or node.kind for node in graph.nodes}
    names |= {0: "input", graph.n_layers - 1: "output"}
    parts = []
    for number, (low, high) in enumerate(placed.band_spans.tolist()):
        if np.isfinite(low):
            parts.append(_word(8, bottom - (low + high) / 2 + 4, _cut(_seen(names[number]), 12), _MUTED))
        above = placed.band_spans[number + 1 :, 0]
        above = above[np.isfinite(above)]
        if np.isfinite(high) and len(above):
            line = bottom - (high + float(above[0])) / 2
            parts.append(f'<path d="M0 {line:.1f}H{wide:.0f}" stroke="{_RULE}"/>')
    return parts


def _legend(y: float, drawn: int, total: int) -> list[str]:
    ring = f'fill="#FFFFFF" stroke="{_INK}"'
    edges = f"the {drawn} strongest of {total} edges" if drawn < total else f"all {total} edges"
    return [
        f'<circle cx="16" cy="{y - 4:.1f}" r="5" {ring} stroke-width="1.4"/>', _word(26, y, "feature", _MUTED),
        f'<path d="{_diamond(92, y - 4)}" {ring}/>', _word(102, y, "error node", _MUTED),
        f'<rect x="176" y="{y - 10:.1f}" width="14" height="12" rx="3" {ring}/>',
        _word(196, y, "token or output", _MUTED),
        f'<path d="M300 {y - 4:.1f}h18" stroke="{_PLUS}" stroke-width="3"/>', _word(324, y, "adds", _MUTED),
        f'<path d="M364 {y - 4:.1f}h18" stroke="{_MINUS}" stroke-width="3" stroke-dasharray="5 2"/>',
        _word(388, y, f"takes away;  width: size of the effect;  {edges}", _MUTED),
    ]  # fmt: skip


def _shape(node: Node, x: float, y: float) -> str:
    if node.kind == "error":
        return f'<path d="{_diamond(x, y)}" fill="#FFFFFF" stroke="{_MUTED}"/>'
    if node.kind == "feature":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#FFFFFF" stroke="{_INK}" stroke-width="1.4"/>'
    wide = _box(node)
    box = f'<rect x="{x - wide / 2:.1f}" y="{y - 9:.1f}" width="{wide:.1f}" height="18" rx="4" fill="#FFFFFF"'
    return f'{box} stroke="{_INK}"/>' + _word(x, y + 4, _told(node), middle=True)


def _diamond(x: float, y: float) -> str:
    return f"M{x:.1f} {y - 6:.1f}L{x + 6:.1f} {y:.1f}L{x:.1f} {y + 6:.1f}L{x - 6:.1f} {y:.1f}Z"


def _told(node: Node) -> str:
    """What stands in a box."""
    if node.kind == "patch":
        return "" if node.cell is None else f"{node.cell[0] + 1},{node.cell[1] + 1}"
    text = _cut(_seen(node.token), _LONGEST_TOKEN)
    if node.kind != "logit":
        return text
    chance = 100 * (node.prob or 0.0)
    return f"{text}  " + (f"{chance:.0f} %" if chance >= 0.95 else f"{chance:.1f} %" if chance >= 0.05 else "<0.1 %")


def _box(node: Node) -> float:
    return _long(_told(node)) + (4 if node.kind == "patch" else 10)


def _long(text: str) -> float:
    """About the pixels that a text takes across."""
    return _CHARACTER * _TYPE * len(text)


def _word(x: float, y: float, text: str, colour: str = _INK, middle: bool = False) -> str:
    anchor = ' text-anchor="middle"' if middle else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="Inter, sans-serif" font-size="{_TYPE}" fill="{colour}"{anchor}>'
        f"{escape(text)}</text>"
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _seen(text: str) -> str:
    """A token or label as it may be drawn: a blank or a line feed is named, nothing is invisible."""
    stripped = text.strip(" ") or text.replace(" ", "_")
    return "".join(c if c.isprintable() else "\\n" if c == "\n" else f"[{ord(c):04X}]" for c in stripped)
