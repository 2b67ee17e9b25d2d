"""The rules by which the sample audit's findings follow from its results, on made-up figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest

from auditor.audit.case import Plan
from auditor.audit.evidence import Metric, Null, Recipe
from auditor.base.errors import AuditorError
from auditor.features.index import Index
from auditor.tasks.result import Result
from auditor.tasks.sample_claims import _against, choose_shared_feature

PLAN = Plan(metric="AUROC", threshold=0.6, n=30)


def result(*, p: float | None = 0.01, **fields: Any) -> Result:
    """A good result for PLAN, with `fields` of its metric put otherwise."""
    null = None if p is None else Null(n=99, mean=0.5, p=p, description="features that fire as often")
    held: dict[str, Any] = {"name": "AUROC", "estimate": 0.8, "interval": (0.7, 0.9), "n": 60, "no_effect": 0.5}
    metric = Metric(**(held | {"null": null} | fields))
    return Result(kind="held_out", title="A test", recipe=Recipe(verb="experiment"), metric=metric)


def test_that_nothing_speaks_against_a_result_that_keeps_to_its_plan() -> None:
    assert _against(result(), PLAN, baselines=False) == []
    assert _against(result(p=None), PLAN, baselines=False) == []
    assert _against(result(baseline={"probe": 0.79}), PLAN, baselines=True) == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"interval": (0.5, 0.9)}, "does not exclude 0.500"),
        ({"interval": (0.45, 0.9)}, "does not exclude 0.500"),
        ({"interval": None}, "does not exclude 0.500"),
        ({"p": 0.051}, "does not beat its null (p = 0.0510)"),
        ({"estimate": 0.59, "interval": (0.55, 0.65)}, "below the planned 0.600"),
        ({"n": 29}, "only 29 cases where 30 were planned"),
    ],
)
def test_that_each_fault_is_one_reason(fields: dict[str, Any], reason: str) -> None:
    (told,) = _against(result(**fields), PLAN, baselines=False)
    assert reason in told


def test_that_the_bounds_themselves_are_kept() -> None:
    assert _against(result(p=0.05, n=30, estimate=0.6, interval=(0.51, 0.7)), PLAN, baselines=False) == []


def test_that_a_baseline_counts_only_where_the_claim_is_to_beat_it() -> None:
    measured = result(baseline={"neuron": 0.7, "probe": 0.8, "length": 0.95})
    assert _against(measured, PLAN, baselines=False) == []
    told = _against(measured, PLAN, baselines=True)
    assert told == ["length does as well (0.950)", "probe does as well (0.800)"]


def test_that_threshold_and_size_bind_only_the_planned_metric() -> None:
    other = result(name="rise of the next-token loss", estimate=0.02, interval=(0.01, 0.03), n=5, no_effect=0.0)
    assert _against(other, PLAN, baselines=False) == []
    (told,) = _against(
        result(name="rise of the next-token loss", estimate=0.02, interval=(-0.01, 0.03), no_effect=0.0), PLAN, False
    )
    assert "rise of the next-token loss" in told


def test_that_all_reasons_are_told_together() -> None:
    bad = result(p=0.4, estimate=0.52, interval=(0.4, 0.64), n=10, baseline={"probe": 0.9})
    assert len(_against(bad, PLAN, baselines=True)) == 5


# which feature the first question is about


@dataclass
class _Example:
    tokens: tuple[str, ...] = ()
    caption: str | None = None


@dataclass
class _Feature:
    texts: list[str]
    captions: list[str]

    def examples_of(self, kind: str, which: str) -> list[_Example]:
        assert which == "top"
        if kind == "text":
            return [_Example(tokens=(text[:3], text[3:])) for text in self.texts]
        return [_Example(caption=caption) for caption in self.captions]


class _Index:
    """What `choose_shared_feature` asks of an index."""

    def __init__(self, **columns: list[float]) -> None:
        self.table = {name: np.array(values) for name, values in columns.items()}
        self.features: dict[int, _Feature] = {}

    def search(self, query: str) -> np.ndarray:
        assert query == "modality:both"
        return np.array(sorted(self.features))

    def feature(self, number: int) -> _Feature:
        return self.features[number]


def choose(index: _Index) -> tuple[int, str]:
    return choose_shared_feature(cast("Index", index))


LOCKS = _Feature(
    ["an old padlock", "the padlock was shut", "one padlock"], ["padlock", "red padlock", "a padlock", "a key"]
)
HORSES = _Feature(["Horse and rider", "the horse ran", "a horse"], ["horse", "horse face", "a horse"])


def fitting(n: int = 3) -> _Index:
    return _Index(density=[0.01] * n, agreement_p=[0.001] * n, agreement_low=[0.1, 0.3, 0.2][:n], fires_image=[500] * n)


def test_that_the_feature_with_the_surest_agreement_is_chosen_and_its_commonest_shared_word() -> None:
    index = fitting()
    index.features = {0: LOCKS, 1: HORSES, 2: LOCKS}
    assert choose(index) == (1, "horse")
    index.features = {0: LOCKS, 2: LOCKS}
    assert choose(index) == (2, "padlock")


def test_that_frequent_features_and_chance_agreement_are_left_out() -> None:
    index = fitting()
    index.features = {0: LOCKS, 1: HORSES}
    index.table["density"][1] = 0.03
    assert choose(index) == (0, "padlock")
    index.table["agreement_p"][0] = 0.05
    with pytest.raises(AuditorError, match="with the same words"):
        choose(index)


def test_that_one_chance_meeting_or_a_word_without_meaning_is_no_concept() -> None:
    index = fitting(1)
    index.features = {0: _Feature(["the horse", "the barn"], ["the cow", "the horse with the hat"])}
    with pytest.raises(AuditorError, match="with the same words"):
        choose(index)
    index.features = {0: _Feature(["the horse", "one horse"], ["the horse", "HORSE"])}
    with pytest.raises(AuditorError, match="with the same words"):
        choose(index)
    index.features = {0: _Feature(["the horse", "one horse", "horse"], ["the horse", "HORSE", "a horse"])}
    assert choose(index) == (0, "horse")


def test_that_a_feature_of_few_image_tokens_is_left_out() -> None:
    index = fitting()
    index.features = {0: LOCKS, 1: HORSES, 2: LOCKS}
    index.table["fires_image"][1] = 199
    assert choose(index) == (2, "padlock")
