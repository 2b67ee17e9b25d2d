"""The rules by which the sample audit's findings follow from its results, on made-up figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch

from auditor.audit.case import Plan
from auditor.audit.evidence import Metric, Null, Recipe
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.data import text_sample
from auditor.data.halves import half_of
from auditor.features.index import Index
from auditor.models import Model
from auditor.sae import Sae
from auditor.tasks.result import Result
from auditor.tasks.sample_choice import FIRST, SECOND, Candidate, screen, shared_words
from auditor.tasks.sample_claims import _against

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


# which features the questions are about


@dataclass
class _Example:
    kind: str
    sample_id: str
    sample_group: str
    tokens: tuple[str, ...] = ()
    caption: str | None = None


def name(half: str, number: int) -> str:
    """The `number`-th name that falls into this half."""
    return [name for name in map(str, range(1000)) if half_of(name) == half][number]


@dataclass
class _Feature:
    texts: list[str]
    captions: list[str]
    half: str = FIRST

    def examples_of(self, kind: str, which: str) -> list[_Example]:
        assert which == "top"
        if kind == "text":
            rows = [(name(self.half, n), text) for n, text in enumerate(self.texts)]
            return [_Example("text", id, "one source", tokens=(text[:3], text[3:])) for id, text in rows]
        shown = [(name(self.half, n), caption) for n, caption in enumerate(self.captions)]
        return [_Example("image", "any", concept, caption=caption) for concept, caption in shown]


class _Index:
    """What `shared_words` asks of an index."""

    def __init__(self, *features: _Feature, **columns: list[float]) -> None:
        held: dict[str, list[float]] = {"density": [0.01] * len(features), "fires_image": [500] * len(features)}
        self.table = {name: np.array(values) for name, values in (held | columns).items()}
        self.features = features

    def search(self, query: str) -> np.ndarray:
        assert query == "modality:both"
        return np.arange(len(self.features))

    def feature(self, number: int) -> _Feature:
        return self.features[number]


def shared(*features: _Feature, **columns: list[float]) -> list[tuple[int, str]]:
    return [(c.feature, c.word) for c in shared_words(cast("Index", _Index(*features, **columns)))]


LOCKS = _Feature(["an old padlock", "the padlock was shut"], ["padlock", "red padlock", "a key"])
HORSES = _Feature(["Horse and rider", "the horse ran", "a horse"], ["horse", "horse face", "a horse"])


def test_that_features_are_ranked_by_how_many_texts_and_images_share_their_word() -> None:
    assert shared(LOCKS, HORSES) == [(1, "horse"), (0, "padlock")]


def test_that_frequent_features_and_those_of_few_image_tokens_are_left_out() -> None:
    assert shared(LOCKS, HORSES, density=[0.01, 0.03]) == [(0, "padlock")]
    assert shared(LOCKS, HORSES, fires_image=[200, 199]) == [(0, "padlock")]


def test_that_examples_of_the_other_half_count_for_nothing() -> None:
    unseen = _Feature(HORSES.texts, HORSES.captions, half=SECOND)
    assert shared(LOCKS, unseen) == [(0, "padlock")]


def test_that_one_chance_meeting_a_repeated_word_or_one_without_meaning_is_no_concept() -> None:
    for feature in (
        _Feature(["the horse", "the barn"], ["the cow", "the horse with the hat"]),
        _Feature(["horse, horse, horse"], ["the horse", "HORSE"]),
    ):
        with pytest.raises(AuditorError, match="with the same words"):
            shared(feature)


def test_that_the_candidate_that_stands_out_most_from_its_null_comes_first(smollm2: Model) -> None:
    """Of three planted directions one writes the target into the logits, one writes noise, one never fires."""
    hook, word = "blocks.22.resid_post", "Paris"
    sae = planted(smollm2, hook, word)
    samples = [text_sample(text) for text in ("The capital of France is", "The Louvre is a museum in the city of")]
    candidates = [Candidate(number, word) for number in (1, 0, 2)]
    found = screen(smollm2, sae, candidates, {word: samples}, Reporter())
    assert [c.feature for c in found] == [0, 1]
    assert found[0].drop > found[0].null and found[0].drop > found[1].drop and found[0].n == 2


def planted(model: Model, hook: str, word: str) -> Sae:
    """Features 0 and 1 fire at every position, 2 never, the rest are small and random."""
    draw = torch.Generator().manual_seed(0)
    rows = model.run(model.encode([text_sample("The capital of France is")]), record=[hook], logits=False).rows(hook)
    towards = model.unembed[:, model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0]].float()
    decoder = torch.nn.functional.normalize(torch.randn(64, rows.shape[-1], generator=draw), dim=1)
    decoder[0] = towards / towards.norm()
    bias = torch.full((64,), float(rows[0, 1:].norm(dim=1).mean()) * 0.05)
    bias[0] = bias[1] = float(rows[0, 1:].norm(dim=1).mean())
    bias[2] = -1e6
    return Sae("topk", torch.zeros(rows.shape[-1], 64), decoder, bias, torch.zeros(rows.shape[-1]), k=32, hook=hook)
