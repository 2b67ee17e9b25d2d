"""Each rung asks for what its rule says: taking one thing away takes the rung away, and the report says which thing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from auditor.audit.case import Case, Question
from auditor.audit.evidence import Evidence
from auditor.audit.ladder import Rung, ladder, objections
from tests.audit.sample import sample_case


def edited(case: Case, kind: str, change: Callable[[Evidence], Evidence], finding: str = "F1") -> Case:
    """`case` with each piece of that kind under the finding changed."""
    ids = case.find_finding(finding).evidence
    return case.changed(evidence=tuple(change(p) if p.kind == kind and p.id in ids else p for p in case.evidence))


def metric(**fields: object) -> Callable[[Evidence], Evidence]:
    return lambda piece: piece.model_copy(update={"metric": piece.metric.model_copy(update=fields)})


def null(**fields: object) -> Callable[[Evidence], Evidence]:
    return lambda piece: metric(null=piece.metric.null.model_copy(update=fields))(piece)


def unplanned(piece: Evidence) -> Evidence:
    return piece.model_copy(update={"exploratory": True})


def rung(case: Case, finding: str = "F1") -> Rung:
    return ladder(case, case.find_finding(finding)).rung


def test_that_the_sample_findings_stand_where_the_rules_put_them():
    case, _ = sample_case()
    assert [rung(case, f"F{i}") for i in (1, 2, 3)] == [Rung.REPLICATED, Rung.INTERVENED, Rung.OBSERVED]
    assert ladder(case, case.findings[0]).missing == ()
    assert "seeds" in " ".join(ladder(case, case.findings[1]).missing)


@pytest.mark.parametrize(
    ("kind", "change", "left", "told"),
    [
        ("held_out", unplanned, Rung.OBSERVED, "sealed plan"),
        ("held_out", metric(interval=(0.4, 0.95)), Rung.OBSERVED, "wholly above"),
        ("held_out", metric(n=119), Rung.OBSERVED, "at least 120"),
        ("held_out", metric(interval=None), Rung.OBSERVED, "wholly above"),
        ("held_out", lambda p: p.model_copy(update={"further": ()}), Rung.OBSERVED, "both precision and recall"),
        ("intervention", unplanned, Rung.HELD_OUT, "sealed plan"),
        ("intervention", metric(interval=(-0.1, 2.0)), Rung.HELD_OUT, "excludes 0"),
        ("intervention", metric(null=None), Rung.HELD_OUT, "null distribution"),
        ("intervention", metric(estimate=0.4, interval=(0.1, 0.6), baseline={}), Rung.HELD_OUT, "planned 0.5"),
        ("intervention", null(n=99), Rung.HELD_OUT, "100 null draws"),
        ("intervention", null(p_adjusted=0.051), Rung.HELD_OUT, "corrected p"),
        ("intervention", null(p_adjusted=None, p=0.002, family=40), Rung.HELD_OUT, "corrected p"),
        ("intervention", metric(baseline={}), Rung.INTERVENED, "simple baselines"),
        ("intervention", metric(baseline={"mean difference": 1.6}), Rung.INTERVENED, "mean difference"),
        ("stability", metric(seeds=(1, 2, 2)), Rung.INTERVENED, "different seeds"),
        ("stability", metric(estimate=0.5), Rung.INTERVENED, "two thirds"),
    ],
)
def test_that_one_thing_taken_away_takes_the_rung_away_and_is_named(kind, change, left, told):
    case = edited(sample_case()[0], kind, change)
    assert rung(case) == left
    assert told in " ".join(ladder(case, case.findings[0]).missing)


def test_that_a_metric_for_which_less_is_more_is_read_the_other_way():
    down = metric(estimate=-1.8, interval=(-2.1, -1.5), baseline={"neuron": -0.3}, higher_is_more=False, name="change")
    assert rung(edited(sample_case()[0], "intervention", down)) == Rung.REPLICATED


def test_that_replication_needs_another_person_who_reran_the_decisive_test_and_agrees():
    case, _ = sample_case()
    review = case.reviews[0]
    for change in (
        {"reviewer": "ada brandt"}, {"reruns": ()}, {"verdict": "inconclusive"}, {"findings": ("F2",)},
        {"reruns": (review.reruns[0].model_copy(update={"agrees": False}),)},
        {"reruns": (review.reruns[0].model_copy(update={"evidence": "E1"}),)},
    ):  # fmt: skip
        assert rung(case.changed(reviews=(review.model_copy(update=change),))) == Rung.CONTROLLED
    against = review.model_copy(update={"id": "R2", "verdict": "not confirmed", "reviewer": "Third person"})
    refuted = case.changed(reviews=(review, against))
    assert rung(refuted) == Rung.CONTROLLED and "Third person" in ladder(refuted, refuted.findings[0]).missing[0]


def test_that_contrary_evidence_left_among_the_evidence_holds_a_finding_down():
    case, _ = sample_case()
    finding = case.findings[0]
    hidden = finding.model_copy(update={"evidence": (*finding.evidence, "E5"), "counter_evidence": ()})
    assert ladder(case, hidden).rung == Rung.OBSERVED and "speaks against" in ladder(case, hidden).missing[0]


def test_that_evidence_made_before_the_plan_was_sealed_is_exploratory():
    early = edited(
        sample_case()[0], "held_out", lambda p: p.model_copy(update={"claimed_time": "2026-03-14T15:09:25Z"})
    )
    assert rung(early) == Rung.OBSERVED and "sealed plan" in ladder(early, early.findings[0]).missing[0]


def test_that_an_unsealed_question_makes_its_evidence_exploratory():
    case, _ = sample_case()
    opened = [q.model_copy(update={"sealed": None}) if isinstance(q, Question) else q for q in case.questions]
    assert rung(case.changed(questions=tuple(opened))) == Rung.OBSERVED


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (metric(interval=(0.79, 0.99)), "at or above 0.8"),
        (metric(interval=None), "at or above 0.8"),
        (lambda p: p.model_copy(update={"settings_of": None}), "whose settings"),
        (
            lambda p: p.model_copy(
                update={"recipe": p.recipe.model_copy(update={"config": {**p.recipe.config, "steps": 9000}})}
            ),
            "same settings",
        ),
    ],
)
def test_that_absence_without_power_is_only_observed_and_cannot_be_signed(change, told):
    case = edited(sample_case()[0], "planted", change, "F2")
    assert rung(case, "F2") == Rung.OBSERVED
    assert told in " ".join(ladder(case, case.findings[1]).missing)
    assert told in " ".join(objections(case))


@pytest.mark.parametrize("severity", ["high", "critical"])
@pytest.mark.parametrize(
    ("field", "told"), [("counter_evidence", "counter-evidence"), ("limits", "limits"), ("recipe", "recipe")]
)
def test_that_a_grave_finding_needs_counter_evidence_limits_and_a_recipe(severity, field, told):
    case, _ = sample_case()
    empty = () if field == "counter_evidence" else ""
    grave = case.findings[0].model_copy(update={"severity": severity})
    assert objections(case.put(grave)) == []
    assert told in objections(case.put(grave.model_copy(update={field: empty})))[0]
    assert objections(case.put(grave.model_copy(update={field: empty, "severity": "medium"}))) == []
