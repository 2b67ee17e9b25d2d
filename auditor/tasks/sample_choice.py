"""Which features the sample audit's questions are about: chosen on the first half of the samples and prompts alone.

The halves are those of `open_samples`' option `half`. What is chosen here is tested on the second half and on texts
that were never recorded, after the question is sealed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from auditor.audit.evidence import Choice, Metric, Recipe, Table
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter
from auditor.tasks.result import Result

if TYPE_CHECKING:
    from auditor.data.sample import Sample
    from auditor.features.examples import Example
    from auditor.features.index import Index
    from auditor.models.model import Model
    from auditor.sae.sae import Sae

FIRST, SECOND = "first", "second"
# Words without a picture of their own; shorter ones are never looked at.
_STOP = frozenset(
    {"the", "and", "with", "for", "from", "that", "this", "are", "not", "one", "two", "three", "four", "five", "six"}
)
_MOST = 12
_SCREENED = 16


@dataclass(frozen=True)
class Candidate:
    """A feature, the word that it may stand for, and what ablating it does to that word on the first half: mean drop in
    log probability (nats), the largest size of drop of features that fire as often, samples."""

    feature: int
    word: str
    drop: float = 0.0
    null: float = 0.0
    n: int = 0


def shared_words(index: Index) -> list[Candidate]:
    """Features whose strongest texts and images of the first half hold the same word, the most often shared first.

    Only features that fire on both kinds, on at least 200 image tokens and in at most 3 % of positions, and words that
    are in two of the texts and two of the images; AuditorError where there is none.
    """
    table = index.table
    both = index.search("modality:both")
    fit = both[(table["density"][both] < 0.03) & (table["fires_image"][both] >= 200)]
    found: list[tuple[int, int, Candidate]] = []
    for feature in fit.tolist():
        one = index.feature(feature)
        texts = _counts("".join(e.tokens) for e in one.examples_of("text", "top") if _first(e))
        images = _counts(e.caption or "" for e in one.examples_of("image", "top") if _first(e))
        shared = [(min(texts[w], images[w]), images[w], w) for w in texts.keys() & images.keys()]
        count, shown, word = max(shared, default=(0, 0, ""))
        if count >= 2:
            found.append((-count, -shown, Candidate(int(feature), word)))
    if not found:
        raise AuditorError(
            "No feature of this index fires on texts and images with the same words.", "Record more of both."
        )
    return [candidate for *_, candidate in sorted(found, key=lambda item: (*item[:2], item[2].feature))]


def _first(example: Example) -> bool:
    from auditor.data.halves import half_of

    return half_of(example.sample_id, example.sample_group if example.kind == "image" else "") == FIRST


def _counts(texts: Iterable[str]) -> Counter[str]:
    """In how many of the texts each word is."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update({w for w in re.findall(r"[a-z]{3,}", text.lower()) if w not in _STOP})
    return counts


def screen(
    model: Model, sae: Sae, candidates: Sequence[Candidate], samples: Mapping[str, Sequence[Sample]], reporter: Reporter
) -> list[Candidate]:
    """The candidates with their drops, the one that stands out most from its null first.

    `samples` are those of the first half for each word; of them 16 at most are used. Words that the tokenizer does not
    hold as one token are left out. AuditorError where none is left.
    """
    from auditor.analysis.interventions import feature_effect

    measured = []
    for candidate in [c for c in candidates if samples.get(c.word) and one_token(model, c.word)][:_MOST]:
        few = [samples[candidate.word][at] for at in _drawn(len(samples[candidate.word]))]
        try:
            effect = feature_effect(
                model, sae, candidate.feature, few, measure="target", targets=[f" {candidate.word}"] * len(few),
                n_null=20, n_random=5, reporter=reporter,
            )  # fmt: skip
        except AuditorError:  # it fires on none of them
            continue
        null = float(np.abs(effect.null).max()) if effect.null else 0.0
        measured.append(Candidate(candidate.feature, candidate.word, -effect.estimate, null, effect.n))
    if not measured:
        raise AuditorError("None of the candidates can be tested.", "Record more samples of the words in question.")
    return sorted(measured, key=lambda c: c.null - c.drop)


def one_token(model: Model, word: str) -> bool:
    """Whether the model's tokenizer holds the word, with its leading space, as one token."""
    from auditor.models.tokens import following

    return len(following(model.tokenizer, f" {word}")) == 1


def _drawn(count: int) -> list[int]:
    return [int(at) for at in np.random.default_rng(0).permutation(count)[:_SCREENED]]


def told(title: str, screened: Sequence[Candidate], looked_at: int, inputs: dict[str, str]) -> Result:
    """The search as evidence: every candidate that was measured, and how many were looked at."""
    first = screened[0]
    metric = Metric(
        name="drop in log probability on the half that chose it", estimate=first.drop, n=first.n, unit="nats",
        baseline={"largest of 20 features that fire as often": first.null},
    )  # fmt: skip
    rows = tuple((c.feature, c.word, c.drop, c.null, c.n) for c in screened)
    return Result(
        kind="search", title=title,
        note="Chosen on the first half; this figure is a choice, not a test. The tests use the second half.",
        recipe=Recipe(verb="demo", config={"from_scratch": True}), inputs=inputs, metric=metric,
        choice=Choice(rule="largest drop above its null", seen=looked_at, shown=len(screened)),
        table=Table(columns=("feature", "word", "drop, nats", "largest null", "n"), rows=rows),
    )  # fmt: skip
