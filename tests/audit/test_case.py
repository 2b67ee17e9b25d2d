# ruff: noqa: E501 (hostile strings and tables of cases read best in one piece)
"""What a case holds, keeps and refuses."""

from __future__ import annotations

import json
import random

import pytest

from auditor.audit.case import Case, Finding, Plan, Question
from auditor.audit.collect import add_evidence
from auditor.audit.evidence import Evidence, Metric
from auditor.audit.history import CaseFile
from auditor.audit.protocols import load_protocol, protocol_names
from auditor.audit.text import given, number, size, visible
from auditor.base.errors import AuditorError
from tests.audit.sample import WHEN, histogram, sample_case


def test_that_a_case_comes_back_from_disk_as_it_was_with_sorted_keys(tmp_path):
    case, _ = sample_case()
    case.save(tmp_path / "case.json")
    assert Case.load(tmp_path / "case.json") == case
    text = (tmp_path / "case.json").read_text("utf-8")
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def test_that_hidden_and_bidi_characters_become_visible_and_stay_so():
    hostile = "a\u202eb\u200bc\u0000d\x1b[31m\u2066\ufeff\U000e0041\ud800\ue000\u3164\ufe0f"
    shown = visible(hostile)
    assert shown == visible(shown)
    assert shown.isprintable() and "⟨U+202E⟩" in shown and "⟨U+D800⟩" in shown and "⟨U+FE0F⟩" in shown
    finding = Finding(id="F1", title=hostile, claim=f"{hostile}\nsecond line", status="present", severity="info")
    assert finding.title == shown and finding.claim == f"{shown}\nsecond line"
    assert visible("Zürich 東京 naïve — “quoted”\n x") == "Zürich 東京 naïve — “quoted”\n x"


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0.12345, "0.123"), (18.249, "18.2"), (300_000, "300\u2009000"), (-0.08, "−0.0800"), (0.0, "0"), (1234.5, "1230"),
        (12345.6, "12\u2009300"), (1.5e-7, "1.50×10⁻⁷"), (float("nan"), "not finite"), (None, "–"), (0.9996, "1.00"),
    ],
)  # fmt: skip
def test_that_numbers_are_printed_to_three_figures(value, printed):
    assert number(value) == printed


def test_that_numbers_a_person_set_stay_short_and_sizes_carry_units():
    assert (given(0.05), given(95.0), given(-2.0)) == ("0.05", "95", "−2")
    assert (size(812), size(4210), size(1_070_000_000)) == ("812 B", "4.21 kB", "1.07 GB")


def test_that_a_sealed_question_cannot_change_neither_in_the_program_nor_by_hand(tmp_path):
    case, _ = sample_case()
    sealed = case.questions[0]
    with pytest.raises(AuditorError, match="sealed"):
        case.put(sealed.model_copy(update={"hypothesis": "Something easier."}))
    with pytest.raises(AuditorError, match="sealed"):
        case.without(sealed)
    changed = case.to_bytes().replace(b'"threshold": 0.5', b'"threshold": 0.1')
    with pytest.raises(AuditorError, match="changed after it was sealed"):
        Case.from_bytes(changed)


def test_that_evidence_without_a_sealed_plan_is_exploratory_whatever_is_asked():
    case, _ = sample_case()
    recipe = {"verb": "search", "config": {}}
    _, open_question = add_evidence(case, kind="search", title="t", recipe=recipe, question="Q3", exploratory=False)
    _, no_question = add_evidence(case, kind="search", title="t", recipe=recipe)
    _, sealed = add_evidence(case, kind="search", title="t", recipe=recipe, question="Q1")
    assert [open_question.exploratory, no_question.exploratory, sealed.exploratory] == [True, True, False]


def test_that_a_figure_gets_a_name_and_is_bound_by_its_digest():
    case, _ = sample_case()
    _, piece = add_evidence(case, kind="other", title="t", recipe={"verb": "x"}, figure=histogram([1, 2], (0, 0, 0)))
    assert piece.figure == f"{piece.id}.png" and len(piece.figure_digest or "") == 64


def test_that_what_a_case_cannot_hold_is_told_in_one_sentence():
    case, _ = sample_case()
    with pytest.raises(AuditorError, match="which the case does not hold"):
        case.put(Finding(id="F9", title="t", claim="c", status="present", severity="low", evidence=("E99",)))
    with pytest.raises(AuditorError, match="which the case does not hold"):
        case.without(case.find_evidence("E1"))
    with pytest.raises(AuditorError, match="swapped"):
        add_evidence(case, kind="other", title="t", recipe={"verb": "x"},
                     metric={"name": "m", "estimate": 1, "interval": (2, 1), "n": 3})  # fmt: skip
    with pytest.raises(AuditorError, match="not a case"):
        Case.from_bytes(b'{"title": "x", "author": "y", "surprise": 1}')
    with pytest.raises(ValueError):
        Metric(name="m", estimate=float("nan"), n=1)
    with pytest.raises(ValueError, match="more examples are shown"):
        Evidence(id="E1", kind="examples", title="t", recipe={"verb": "x"}, choice={"rule": "r", "seen": 3, "shown": 4})


def test_that_damaged_case_files_are_refused_and_never_crash():
    rng, data = random.Random(5), sample_case()[0].to_bytes()
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        try:
            Case.from_bytes(bytes(broken))
        except AuditorError as error:
            assert error.message.isprintable()
    with pytest.raises(AuditorError):
        Case.from_bytes(b"[" * 100_000)


def test_that_every_edit_is_on_disk_and_can_be_undone_and_redone(tmp_path):
    case, _ = sample_case()
    opened = CaseFile.create(tmp_path / "case.json", case)
    opened.apply("Rename", opened.case.changed(title="Another title"), WHEN)
    opened.apply("Remove finding", opened.case.changed(reviews=()), WHEN)
    assert Case.load(opened.path) == opened.case and opened.case.title == "Another title"
    assert opened.undo() == "Remove finding" and opened.undo() == "Rename" and opened.undo() is None
    assert Case.load(opened.path) == case
    assert opened.redo() == "Rename" and Case.load(opened.path).title == "Another title"


def test_that_an_edit_never_overwrites_what_another_program_wrote(tmp_path):
    case, _ = sample_case()
    CaseFile.create(tmp_path / "case.json", case)
    first, second = CaseFile.open(tmp_path / "case.json"), CaseFile.open(tmp_path / "case.json")
    first.apply("Rename", case.changed(title="First"), WHEN)
    with pytest.raises(AuditorError, match="another program"):
        second.apply("Rename", case.changed(title="Second"), WHEN)
    assert Case.load(tmp_path / "case.json").title == "First"


@pytest.mark.parametrize("name", protocol_names())
def test_that_each_shipped_protocol_gives_questions_that_can_be_sealed(name):
    protocol = load_protocol(name)
    case = protocol.put_into(Case(title="t", author="a"))
    assert len(case.questions) == len(protocol.questions) >= 3
    assert all(question.seal(WHEN).sealed == question.digest for question in case.questions)
    assert all(c.positive and c.negative and c.near_miss for c in protocol.concepts.values())
    assert all(asked.analyses for asked in protocol.questions) and protocol.id == name


def test_that_a_protocol_that_does_not_fit_is_told(tmp_path):
    (tmp_path / "mine.toml").write_text('id = "x"\ntitle = "t"\nquestions = [{id = "Q1"}]\n')
    with pytest.raises(AuditorError, match="not a protocol"):
        load_protocol(tmp_path / "mine.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff = 1")
    with pytest.raises(AuditorError, match="not TOML"):
        load_protocol(tmp_path / "bad.toml")
    with pytest.raises(AuditorError, match="no protocol"):
        load_protocol("none-such")


def test_that_a_seal_covers_hypothesis_null_and_every_field_of_the_plan():
    question = Question(id="Q1", hypothesis="h", null_hypothesis="n", plan=Plan(metric="m", threshold=1, n=5)).seal(
        WHEN
    )
    for field, value in {
        "metric": "o",
        "threshold": 2,
        "n": 6,
        "alpha": 0.1,
        "correction": "none",
        "family": 2,
    }.items():
        other = question.model_copy(update={"plan": question.plan.model_copy(update={field: value})})
        assert other.digest != question.sealed
