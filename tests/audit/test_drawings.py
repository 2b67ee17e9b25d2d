"""The small plots of a report: each line can be told from the others, and its words can be printed."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from auditor.audit.drawings import against_null
from auditor.audit.evidence import Metric
from auditor.audit.report.pdf import characters

SVG = "{http://www.w3.org/2000/svg}"


def metric(unit: str = "") -> Metric:
    return Metric(
        name="AUROC", estimate=0.65, interval=(0.5, 0.8), n=120, no_effect=0.5, unit=unit,
        baseline={"logistic probe": 0.95, "best neuron": 0.8, "length": 0.5},
    )  # fmt: skip


def words(**changes: str) -> list[str]:
    drawn = ET.fromstring(against_null(metric(**changes), [0.4, 0.5, 0.6]))
    return [text.text or "" for text in drawn.iter(f"{SVG}text")]


def test_that_each_baseline_has_a_letter_at_its_line_and_in_the_legend() -> None:
    told = words()
    letters = [text for text in told if re.fullmatch("[a-z]", text)]
    assert letters == ["a", "b", "c"]
    assert "a  best neuron: 0.800" in told and "c  logistic probe: 0.950" in told


def test_that_every_character_has_a_shipped_face() -> None:
    assert all(ord(c) in characters() for text in words() for c in text)


def test_that_a_figure_without_a_unit_has_no_gap_and_one_with_a_unit_says_it() -> None:
    assert "AUROC: 0.650, n = 120" in words()
    assert "AUROC: 0.650 nats, n = 120" in words(unit="nats")
