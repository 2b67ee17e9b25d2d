"""The map of many figures as SVG: a cell for each figure, names made visible, and nothing that reaches out."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from auditor.audit.figures import figure_kind
from auditor.audit.heat_map import heat_map

SVG = "{http://www.w3.org/2000/svg}"


def cells(drawn: str) -> list[dict[str, str]]:
    return [dict(part.attrib) for part in ElementTree.fromstring(drawn).iter(f"{SVG}rect")][1:]


def test_that_each_figure_has_a_cell_and_what_is_missing_has_none() -> None:
    drawn = heat_map("Effects", "nats", ["a", "b"], ["0", "1", "2"], [[1.0, -0.5, 0.0], [None, 0.25, 1.0]])
    assert figure_kind(drawn.encode()) == "svg"
    found = cells(drawn)
    assert len(found) == 5 and len({cell["fill"] for cell in found}) == 4
    assert found[2]["fill"] == "#FFFFFF" and found[0]["fill"] == found[4]["fill"]
    assert len({cell["x"] for cell in found}) == 3 and len({cell["y"] for cell in found}) == 2


def test_that_names_are_escaped_and_many_rows_are_cut_and_said() -> None:
    drawn = heat_map("<b>", "u", [f"<row {n}>\u202e" for n in range(70)], ["0"], [[float(n)] for n in range(70)])
    assert figure_kind(drawn.encode()) == "svg" and "\u202e" not in drawn and "<b>" not in drawn
    assert len(cells(drawn)) == 60 and "10 more rows" in drawn


@pytest.mark.parametrize("columns", [1, 48, 600])
def test_that_all_cells_lie_inside(columns: int) -> None:
    drawn = heat_map("t", "u", ["a"], [str(n) for n in range(columns)], [[1.0] * columns])
    width = float(ElementTree.fromstring(drawn).attrib["width"])
    assert all(float(cell["x"]) + float(cell["width"]) <= width for cell in cells(drawn))
