# ruff: noqa: E501 (hostile strings and tables of cases read best in one piece)
"""Hostile strings in every field of a case: the report's parse tree stays the template's, and the PDF stays data."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest

from auditor.audit.case import Case
from auditor.audit.report import render_html, render_pdf
from auditor.audit.report.view import view
from auditor.audit.sarif import to_sarif
from tests.audit.sample import sample_case

ROUNDS = int(os.environ.get("AUDITOR_HOSTILE_ROUNDS", "15"))
MARKUP = [
    "<script>alert(1)</script>", "</title><script src=//evil.example/x.js>", "<img src=x onerror=alert(1)>", "--><svg onload=1>",
    "\"><iframe src=javascript:alert(1)>", "' onmouseover='alert(1)", "{{ 7 * 7 }}", "{% include '/etc/passwd' %}",
    "{{ self.__init__.__globals__ }}", "</style><style>*{background:url(http://evil.example)}", "<!--", "]]>", "<![CDATA[",
    "<base href=//evil.example>", "<meta http-equiv=refresh content=0;url=//evil.example>", "&lt;b&gt;", "&#x3c;script&#x3e;",
    "#import \"@preview/x:1.0.0\"", "#read(\"/etc/passwd\")", "#image(\"/etc/passwd\")", "$ sum $", "*bold* _it_ `raw` @ref <label>",
    "#eval(\"1\")", "= Heading", "\\u{41}", "#panic()", "=cmd|' /C calc'!A0", "+1", "@SUM(1)", "\u202egnp.exe", "\x00\x07\x1b[2J",
    "<\x00script>", "java\tscript:", "\ud800\udfff", "\ufeff", "Z\u0363a\u0489", "𝕊𝕔𝕣𝕚𝕡𝕥", "＜script＞", "x" * 900, "\n" * 40, "",
]  # fmt: skip
SKELETON = {
    "script",
    "iframe",
    "object",
    "embed",
    "link",
    "base",
    "form",
    "input",
    "button",
    "audio",
    "video",
    "canvas",
}


class Tree(HTMLParser):
    """Tags with their attributes' names and the values that could reach out."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.comments = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag, tuple(sorted(name for name, _ in attrs))] += 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]

    def handle_comment(self, data: str) -> None:
        self.comments += 1

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> Tree:
    tree = Tree()
    tree.feed(page)
    tree.close()
    return tree


FREE = {
    "title", "author", "organisation", "mark", "summary", "hypothesis", "null_hypothesis", "claim", "limits", "recipe",
    "note", "rule", "unit", "name", "reviewer", "dissent", "blind_labels", "verb", "command", "description", "figure_alt",
    "key_fingerprint", "claimed_start", "protocol", "columns", "rows", "not_tested", "dead_ends",
}  # fmt: skip
MAPS = {"environment", "location", "versions", "config", "baseline", "quantiles", "inputs", "files"}


def poisoned(value: Any, rng: random.Random, key: str = "") -> Any:
    """`value` (a dumped case) with hostile strings in each free field, key and cell."""
    if isinstance(value, dict) and key in MAPS:
        inner = "" if key in ("inputs", "files") else "name"
        return {evil(rng) + str(n): poisoned(item, rng, inner) for n, item in enumerate(value.values())}
    if isinstance(value, dict):
        return {name: poisoned(item, rng, name) for name, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, rng, key) for item in value]
    return evil(rng) if isinstance(value, str) and key in FREE else value


def evil(rng: random.Random) -> str:
    return rng.choice(MARKUP) + rng.choice(("", rng.choice(MARKUP)))


def hostile_case(rng: random.Random) -> Case:
    dumped = sample_case()[0].model_dump(mode="json")
    for question in dumped["questions"]:
        question["sealed"] = None  # the seal binds the friendly words
    return Case.model_validate(poisoned(dumped, rng))


@pytest.fixture(scope="module")
def figures():
    return sample_case()[1]


def test_that_hostile_strings_leave_only_the_templates_tags(figures):
    rng = random.Random(23)
    known = {tag for tag, _ in parsed(render_html(*sample_case())).tags} | {"br"}
    attributes = {name for (_, names) in parsed(render_html(*sample_case())).tags for name in names}
    strings = 0
    for _ in range(ROUNDS):
        page = render_html(hostile_case(rng), figures)
        tree = parsed(page)
        assert {tag for tag, _ in tree.tags} <= known and not {tag for tag, _ in tree.tags} & SKELETON
        assert {name for (_, names) in tree.tags for name in names} <= attributes
        assert tree.tags["meta", ("content", "http-equiv")] == 1 and tree.comments == 0
        assert all(
            a.startswith(("#finding-F", "#evidence-E", "data:image/png;base64,", "data:image/svg+xml;base64,"))
            for a in tree.addresses
        )
        assert not any(c in page for c in "\x00\x1b\u202e\ufeff")
        strings += page.count("⟨U+")
    assert strings > ROUNDS


def test_that_each_hostile_string_stands_in_the_report_as_text(figures):
    case, _ = sample_case()
    told = [f"before {string} after" for string in MARKUP]
    hostile = Case.model_validate({**case.model_dump(mode="json"), "not_tested": told})
    text = "".join(parsed(render_html(hostile, figures)).text)
    for shown in hostile.not_tested:
        assert shown in text


def test_that_the_view_holds_only_plain_values_without_hidden_characters():
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                walk(name)
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)
        elif isinstance(value, str):
            assert all(c == "\n" or c.isprintable() or c.isspace() for c in value)
        else:
            assert value is None or isinstance(value, int | float | bool)

    walk(view(hostile_case(random.Random(5))))


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="poppler is not installed")
def test_that_the_pdf_prints_hostile_strings_and_runs_none_of_them(figures, tmp_path):
    case, _ = sample_case()
    lines = [
        '#read("/etc/passwd")',
        '#image("x.png")',
        "$x$ *b* _i_ `r` @ref <label>",
        "= Heading",
        "#panic()",
        "\\ ~ // c",
    ]
    hostile = case.changed(not_tested=tuple(lines), title=lines[0], summary="\n".join(lines))
    (tmp_path / "r.pdf").write_bytes(render_pdf(hostile, figures))
    out = subprocess.run(
        ["pdftotext", "-raw", tmp_path / "r.pdf", "-"], capture_output=True, check=True
    ).stdout.decode()
    for line in lines:
        assert line in out
    assert "root:" not in out


def test_that_the_pdf_is_made_from_a_case_that_is_hostile_throughout(figures):
    for seed in range(3):
        assert render_pdf(hostile_case(random.Random(seed)), figures).startswith(b"%PDF-")


def test_that_sarif_of_a_hostile_case_is_still_json(figures):
    assert json.loads(to_sarif(hostile_case(random.Random(9))))["version"] == "2.1.0"
