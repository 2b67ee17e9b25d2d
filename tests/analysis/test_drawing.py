"""The circuit as an SVG for reports: all of it in the picture, nothing over another, and what was left out said."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from auditor.analysis.circuits.drawing import to_svg
from auditor.analysis.circuits.graph import Graph
from auditor.analysis.flow import Measures, Pieces, flow
from tests.analysis.graphs import random_graph

SVG = "{http://www.w3.org/2000/svg}"


def drawn(graph: Graph) -> ET.Element:
    return ET.fromstring(to_svg(graph))


def boxes(root: ET.Element) -> list[tuple[float, float, float, float]]:
    """Left, top, right, bottom of the boxes of tokens and outputs."""
    found = [r.attrib for r in root.iter(f"{SVG}rect") if r.get("rx") == "4"]
    return [
        (float(a["x"]), float(a["y"]), float(a["x"]) + float(a["width"]), float(a["y"]) + float(a["height"]))
        for a in found
    ]


@pytest.mark.parametrize("seed", range(3))
def test_that_boxes_stand_apart_and_within_the_picture(seed: int) -> None:
    root = drawn(random_graph(seed=seed, positions=6, hooks=3))
    wide, high = float(root.attrib["width"]), float(root.attrib["height"])
    found = boxes(root)
    assert found
    for at, (left, top, right, bottom) in enumerate(found):
        assert left >= 0 and top >= 0 and right <= wide and bottom <= high
        for other in found[:at]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_that_features_of_one_token_and_layer_with_one_label_are_named_once() -> None:
    graph = random_graph(seed=1, positions=4, hooks=2)
    graph = replace(graph, nodes=[replace(n, label="of") if n.kind == "feature" else n for n in graph.nodes])
    cells = {(n.layer, n.position) for n in graph.nodes if n.kind == "feature"}
    told = [t.text or "" for t in drawn(graph).iter(f"{SVG}text")]
    assert sum(re.fullmatch(r"of( ×\d+)?", text) is not None for text in told) <= len(cells)


def test_that_edges_that_are_left_out_are_counted() -> None:
    graph = random_graph(seed=2, positions=8, hooks=3)
    total = int(np.count_nonzero(graph.adjacency))
    told = " ".join(t.text or "" for t in drawn(graph).iter(f"{SVG}text"))
    expected = f"the 400 strongest of {total} edges" if total > 400 else f"all {total} edges"
    assert expected in told


def test_that_a_crowded_cell_is_given_the_room_that_empty_ones_leave() -> None:
    cells = np.array([(0, 1), (1, 1), *[(2, 1)] * 30])
    n = len(cells)
    no = np.zeros(n, bool)
    pieces = Pieces(cells, np.zeros((n, 2)), np.full(n, 12.0), no, no, no)
    placed = flow(pieces, 3, 2, 300, 200, Measures(12, 16, 18, 20, 10, 1, 20, 60))
    wide = placed.column_spans[:, 1] - placed.column_spans[:, 0]
    assert placed.fits and wide[2] > 4 * wide[0]
    away = np.abs(placed.spots[:, None] - placed.spots[None]).max(-1)[~np.eye(n, dtype=bool)]
    assert away.min() >= 11.9
