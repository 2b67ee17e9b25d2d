"""Which samples are of which class, and halves that share no group."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.analysis.evaluation.labelled import Facts, cells_of, classes_of, halves, left_out
from auditor.base.errors import AuditorError


def samples(n: int = 240) -> list[Facts]:
    return [
        Facts(str(at), f"thing {at // 4}", {"kind": "abc"[at % 3], "drawing": "xy"[at % 2], "rare": "r" * (at < 5)})
        for at in range(n)
    ]


def test_that_the_first_label_that_will_do_is_taken_and_groups_stay_whole() -> None:
    found = classes_of(samples(), "", (), 50, 0)
    assert found.label == "kind" and found.names == ("a", "b", "c") and np.bincount(found.of).tolist() == [50] * 3
    learn, test = halves(found.groups, found.of, 0)
    assert not {found.groups[at] for at in learn} & {found.groups[at] for at in test}
    assert len(learn) + len(test) == 150 and min(len(learn), len(test)) > 50
    again = halves(found.groups, found.of, 1)[0]
    assert not np.array_equal(learn, again) and np.array_equal(learn, halves(found.groups, found.of, 0)[0])


def test_that_a_group_that_is_the_class_is_not_kept_whole() -> None:
    facts = [Facts(str(at), "prose" if at % 2 else "code", {}) for at in range(100)]
    found = classes_of(facts, "group", (), 50, 0)
    assert len(set(found.groups)) == 100 and found.truths.shape == (100, 1)


@pytest.mark.parametrize(
    ("label", "wanted", "said"),
    [
        ("colour", (), "The samples have no label “colour”"),
        ("rare", (), "“rare” has 0 values with 20 samples"),
        ("kind", ("a", "z"), "Only 0 samples have the kind “z”"),
    ],
)
def test_that_too_few_classes_are_told_with_what_there_is(label: str, wanted: tuple[str, ...], said: str) -> None:
    with pytest.raises(AuditorError, match=said) as raised:
        classes_of(samples(), label, wanted, 50, 0)
    assert "kind (3 values)" in raised.value.hint and "rare (1 value)" in raised.value.hint


def test_that_a_class_that_is_named_twice_is_one() -> None:
    found = classes_of(samples(), "kind", ("a", "b", "a"), 50, 0)
    assert found.names == ("a", "b") and len(set(found.numbers.tolist())) == len(found.numbers) == 100


def test_that_samples_without_labels_are_told_what_to_do() -> None:
    with pytest.raises(AuditorError, match="No label has 2 values") as raised:
        classes_of([Facts(str(at), "", {}) for at in range(50)], "", (), 50, 0)
    assert "whose other columns are kept as labels" in raised.value.hint


def test_that_the_four_kinds_of_two_labels_are_equally_common() -> None:
    kept, other = cells_of(samples(), "kind", "drawing", (), 30, 0)
    assert np.bincount(2 * kept.of + other.of).tolist() == [30] * 4 and np.array_equal(kept.numbers, other.numbers)
    facts = samples()
    for at, number in enumerate(kept.numbers):
        assert facts[number].labels["kind"] == kept.names[kept.of[at]]
        assert facts[number].labels["drawing"] == other.names[other.of[at]]
    assert cells_of(samples(), "kind", "drawing", ("b", "c", "x", "y"), 30, 0)[0].names == ("b", "c")
    with pytest.raises(AuditorError, match="No two values of “kind”"):
        cells_of(samples(), "kind", "rare", (), 30, 0)
    with pytest.raises(AuditorError, match="two of each label"):
        cells_of(samples(), "kind", "drawing", ("a", "a", "x", "y"), 30, 0)
    with pytest.raises(AuditorError, match="3 values are named"):
        cells_of(samples(), "kind", "drawing", ("a", "b", "x"), 30, 0)


def test_that_samples_of_no_class_are_counted() -> None:
    facts = [*samples(60), Facts("a", "", {}), Facts("b", "g", {"kind": "a"}, read=False)]
    assert left_out(facts, ["kind"]) == "Left out of 62 samples: 1 without “kind”, 1 without a position that is read."
    assert (
        left_out(samples(60), ["kind", "drawing"]) == "" and facts[-1].value("kind") == facts[-1].value("group") == ""
    )
