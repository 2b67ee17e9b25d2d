"""How a canvas arranges a graph for its own size: room by need, labels apart, outputs to be read."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PySide6.QtCore import QRectF
from pytestqt.qtbot import QtBot

from auditor.ui.widgets.graph_canvas import GraphCanvas
from auditor.ui.widgets.graph_drawing import Drawing, DrawnNode, View, captions, label_areas, places, sizes
from auditor.ui.widgets.graph_flow import arrange
from tests.ui.widgets.test_graph_canvas import drawing

TOKENS = ("<|im_start|>", "A", "picture", "of")


def crowded(heap: int = 33, outputs: int = 10, seed: int = 0) -> Drawing:
    """Four tokens under three layers; nearly all features stand at the last token, as they do in real circuits."""
    rng = np.random.default_rng(seed)
    nodes, cells = [], []
    for column, token in enumerate(TOKENS):
        nodes.append(DrawnNode(f"t{column}", "token", token))
        cells.append((column, 0))
        for band in (1, 2, 3):
            for _ in range(heap if column == 3 else 1):
                nodes.append(DrawnNode(f"f{len(nodes)}", "feature", f"some words {len(nodes)}"))
                cells.append((column, band))
    for number in range(outputs):
        nodes.append(DrawnNode(f"o{number}", "logit", f"output {number}  {10 - number} %"))
        cells.append((3, 4))
    spots = np.zeros((len(nodes), 2), np.float32)
    spots[:, 0] = rng.random(len(nodes))
    spots[-outputs:, 1] = -np.arange(outputs)
    return Drawing(
        nodes, spots, np.zeros((0, 2), np.int64), np.zeros(0, np.float32), rng.random(len(nodes)).astype(np.float32),
        TOKENS, bands=("input", "blocks.1", "blocks.2", "blocks.3", "output"), cells=np.array(cells),
    )  # fmt: skip


def boxes(held: Drawing, view: View) -> list[QRectF]:
    points, half = places(held, view), sizes(held, view)
    return [QRectF(x - w, y - h, 2 * w, 2 * h) for (x, y), (w, h) in zip(points, half, strict=True)]


@pytest.mark.parametrize("size", [(690, 270), (690, 430), (1320, 760)])
def test_that_no_node_covers_another_and_all_are_in_view(qtbot: QtBot, size: tuple[int, int]) -> None:
    canvas = GraphCanvas()
    qtbot.addWidget(canvas)
    canvas.resize(*size)
    canvas.set_drawing(crowded())
    canvas.fit()
    found = boxes(canvas.drawing, canvas.view)
    whole = QRectF(canvas.rect())
    for at, box in enumerate(found):
        assert whole.contains(box), canvas.drawing.nodes[at]
        inner = box.adjusted(1, 1, -1, -1)
        assert not any(inner.intersects(other.adjusted(1, 1, -1, -1)) for other in found[:at]), canvas.drawing.nodes[at]


def test_that_a_crowded_token_has_the_width_that_empty_ones_leave(qtbot: QtBot) -> None:
    held = arrange(crowded(), 600, 400)
    wide = held.column_spans[:, 1] - held.column_spans[:, 0]
    assert wide[3] > 2 * wide[:3].max() and wide[3] > wide[:3].sum()


def test_that_the_strongest_features_have_room_for_their_labels(qtbot: QtBot) -> None:
    held = arrange(crowded(), 1200, 640)
    view = View(held.pitch, held.pitch, 100, 700)
    points, half = places(held, view), sizes(held, view)
    placed = label_areas(held, points, half, QRectF(0, 0, 2000, 1000))
    assert set(list(captions(held))[:25]) <= set(placed)
    areas = list(placed.values())
    assert not any(a.intersects(b) for at, a in enumerate(areas) for b in areas[:at])


def test_that_outputs_stand_side_by_side_the_most_probable_first(qtbot: QtBot) -> None:
    held = arrange(crowded(), 600, 400)
    view = View(held.pitch, held.pitch, 100, 500)
    spots = {held.nodes[row].id: point for row, point in enumerate(places(held, view).tolist())}
    order = sorted((f"o{number}" for number in range(10)), key=lambda i: (round(spots[i][1]), spots[i][0]))
    assert order == [f"o{number}" for number in range(10)]
    assert len({round(spots[i][1]) for i in order}) < 4


def test_that_features_of_one_cell_with_one_label_are_named_once_with_their_number() -> None:
    held = crowded(heap=5)
    nodes = [DrawnNode(n.id, n.kind, "of") if n.kind == "feature" and c[0] == 3 and c[1] == 1 else n
             for n, c in zip(held.nodes, np.asarray(held.cells).tolist(), strict=True)]  # fmt: skip
    same = Drawing(nodes, held.spots, held.ends, held.weights, held.influence, held.columns, bands=held.bands,
                   cells=held.cells)  # fmt: skip
    named = [text for text in captions(same).values() if text.startswith("of")]
    assert named == ["of ×5"]
    placed = arrange(same, 600, 400)
    together = sorted(placed.spots[[n.text == "of" for n in nodes]].tolist())
    assert np.ptp([y for _, y in together]) < 2 or len({y for _, y in together}) <= 2


def test_that_a_long_prompt_still_fits_and_is_arranged_without_a_wait(qtbot: QtBot) -> None:
    held = drawing(layers=8, columns=60, per_cell=3, edges=500, celled=True)
    took = []
    for _ in range(3):
        canvas = GraphCanvas()
        qtbot.addWidget(canvas)
        canvas.resize(700, 430)
        start = time.perf_counter()
        canvas.set_drawing(held)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.5, f"{1000 * min(took):.0f} ms"
    assert all(canvas.rect().contains(canvas.spot_of(node.id)) for node in held.nodes)


def test_that_pruning_keeps_how_far_in_the_person_looks(qtbot: QtBot) -> None:
    canvas = GraphCanvas()
    qtbot.addWidget(canvas)
    canvas.resize(690, 430)
    canvas.set_drawing(crowded())
    canvas.zoom(2.0)
    before = canvas.view.scale_x / canvas.drawing.pitch
    canvas.set_drawing(crowded(heap=6), keep_view=True)
    assert canvas.view.scale_x / canvas.drawing.pitch == pytest.approx(before)
