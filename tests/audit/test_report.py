# ruff: noqa: E501 (hostile strings and tables of cases read best in one piece)
"""The report says what the case holds, in one file, the same bytes each time, and looks the same on paper."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from auditor.audit.case import Case
from auditor.audit.figures import figure_kind
from auditor.audit.report import render_html, render_pdf, to_json
from auditor.audit.report.pdf import characters
from auditor.audit.sarif import to_sarif
from auditor.audit.tables import to_csv
from auditor.base.errors import AuditorError
from tests.audit.sample import curve, histogram, png, sample_case


@pytest.fixture(scope="module")
def sample():
    return sample_case()


def test_that_the_html_shows_every_number_with_interval_n_null_and_baseline(sample):
    page = render_html(*sample)
    for piece in sample[0].evidence:
        assert piece.title.split("“")[0] in page
    for shown in (
        "1.84 nats",
        "[1.52, 2.17]",
        "160",
        "density-matched features",
        "mean difference: 1.21",
        "p = 0.00800",
    ):
        assert shown in page
    for shown in ("30 shown of 300\u2009000 seen", "▲ high", "5 of 5: replicated", "Missing for “controlled”"):
        assert shown in page
    for shown in (*sample[0].not_tested, *sample[0].dead_ends[0].split("“")[:1], sample[0].reviews[0].dissent):
        assert shown in page
    assert "Internal: for the review board" in page and "evidence, not a certificate" in page


def test_that_every_subject_file_and_the_log_head_stand_in_the_report_with_their_digests(sample):
    text = re.sub(r"\s", "", render_html(*sample))
    for subject in sample[0].subjects:
        for name, digest in subject.files.items():
            assert name in text and digest in text
    assert sample[0].log_head.digest in text


def test_that_the_html_has_no_script_no_address_and_the_strict_policy(sample):
    page = render_html(*sample)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert "<script" not in page.lower() and "http://" not in page and "https://" not in page and "url(" not in page
    assert page.count("<img ") == 2 and page.count('src="data:image/') == 2


def test_that_an_empty_case_still_gives_whole_reports():
    case = Case(title="Nothing yet", author="A")
    assert "No finding was made" in render_html(case)
    assert render_pdf(case).startswith(b"%PDF-")
    assert json.loads(to_json(case))["title"] == "Nothing yet"


def test_that_the_pdf_is_the_same_twice_and_embeds_only_the_shipped_faces(sample, tmp_path):
    first = render_pdf(*sample)
    assert first == render_pdf(*sample)
    assert b"D:20260314150926Z" in first or b"2026-03-14T15:09:26" in first
    if shutil.which("pdffonts"):
        (tmp_path / "r.pdf").write_bytes(first)
        fonts = subprocess.run(["pdffonts", tmp_path / "r.pdf"], capture_output=True, text=True, check=True).stdout
        names = {line.split()[0].partition("+")[2] for line in fonts.splitlines()[2:]}
        assert names and all(name.startswith(("Inter", "JetBrainsMono")) for name in names)


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="poppler is not installed")
def test_that_the_pdf_says_what_the_html_says(sample, tmp_path):
    (tmp_path / "r.pdf").write_bytes(render_pdf(*sample))
    out = subprocess.run(["pdftotext", "-layout", tmp_path / "r.pdf", "-"], capture_output=True, check=True).stdout
    text = re.sub(r"\s+", " ", out.decode())
    for shown in ("1.84 nats", "[1.52, 2.17]", "mean difference: 1.21", "speaks against", "Missing for “controlled”"):
        assert shown in text
    for shown in ("What was not tested", "Dead ends", "Jonas Weil", "5 of 5: replicated", sample[0].mark):
        assert shown in text


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="poppler is not installed")
def test_that_characters_without_a_shipped_face_are_told_and_not_boxes(tmp_path):
    assert ord("é") in characters() and ord("東") not in characters()
    (tmp_path / "r.pdf").write_bytes(render_pdf(Case(title="Audit 東京", author="A")))
    out = subprocess.run(["pdftotext", tmp_path / "r.pdf", "-"], capture_output=True, check=True).stdout.decode()
    assert "U+6771" in out and "東京" in render_html(Case(title="Audit 東京", author="A"))


def test_that_a_missing_figure_is_named(sample):
    case, figures = sample
    with pytest.raises(AuditorError, match=r"E1\.png"):
        render_html(case, {name: data for name, data in figures.items() if name != "E1.png"})


SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{}</svg>'


@pytest.mark.parametrize(
    "body",
    [
        "<script>1</script>", "<image href='file:///etc/hostname'/>", "<use href='other.svg#a'/>", "<foreignObject/>",
        "<rect onclick='x'/>", "<rect style='fill:url(http://x)'/>", "<use xlink:href='http://x'/>", "<style>a{}</style>",
        "<a href='#x'/>", "<rect fill='url( \"x\")'/>", "<animate/>", "<text><b xmlns='http://www.w3.org/1999/xhtml'/></text>",
    ],
)  # fmt: skip
def test_that_an_svg_that_does_more_than_draw_is_refused(body):
    with pytest.raises(AuditorError):
        figure_kind(SVG.format(body).encode())


def test_that_pictures_that_draw_are_taken_and_broken_ones_refused():
    assert figure_kind(curve()) == "svg" and figure_kind(histogram([1, 3], (9, 9, 9))) == "png"
    sound = png(2, 2, bytes(12))
    flipped = sound[:40] + bytes([sound[40] ^ 1]) + sound[41:]
    bomb = b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'b'>]>" + curve()
    for data in (b"", b"GIF89a", sound[:-4], sound + b"x", flipped, bomb, b"<svg ", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(AuditorError):
            figure_kind(data)


def test_that_spreadsheet_formulas_come_out_as_text(sample):
    data = to_csv(sample[0].find_evidence("E1").table).decode()
    assert "\"'=HYPERLINK(" in data and "18.2" in data


def test_that_sarif_locates_each_finding_and_gives_levels_only_to_what_is_present(sample):
    log = json.loads(to_sarif(sample[0]))
    results = log["runs"][0]["results"]
    assert log["version"] == "2.1.0" and [r["ruleId"] for r in results] == ["F1", "F2", "F3"]
    assert [(r["kind"], r["level"]) for r in results] == [("fail", "error"), ("pass", "none"), ("review", "none")]
    place = results[0]["locations"][0]["logicalLocations"][0]
    assert place["fullyQualifiedName"] == "paired / blocks.14.resid_post / topk 8192 / 1412"
    assert results[0]["properties"]["rung"] == "replicated"
