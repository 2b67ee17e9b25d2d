"""RAVEL: do a few features of an attribute, taken from another entity, change that attribute and leave the others?

Huang et al. 2024, “RAVEL: Evaluating Interpretability Methods on Disentangling Language Model Representations”, §3;
SAEBench (Karvonen et al. 2025), “RAVEL”. The k features that carry most of an attribute A are exchanged, at the last
token of the entity, for those of another entity: x' = x + Σ_f (a_f of the other − a_f) W_dec[f].

    Cause(A)       share of prompts that ask for A whose answer becomes that of the other entity
    Isolate(A, B)  share of prompts that ask for B whose answer stays as it was
    Disentangle(A) = ½ (Cause(A) + mean over B ≠ A of Isolate(A, B)); the figure is its mean over the attributes.

Features are ranked on entities that are not tested, in one of two ways or both: by the variance between an attribute's
values of what they write (the variance component of a one-way analysis, times |W_dec[f]|²); or by how much a linear
probe of the attribute with an L1 penalty weighs them, as in RAVEL's own baseline of dictionaries, so that it also says
how many are needed.

Where this differs: no ranking is a mask that is trained through the network, as SAEBench's is; answers are compared
among the values that the attribute takes; in an isolation test the other entity's answer always differs, so that
nothing is kept by chance alone; and the whole row of the other entity, and all features of the dictionary at once, are
shown as the ends to which exchanging leads: they cause what can be caused here, and isolate nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f as f_test

from auditor.analysis.evaluation.figures import Array, Figure, Rows, Split, figure
from auditor.analysis.evaluation.pooled import Pooled, Representation
from auditor.analysis.evaluation.probes import fit_sparse
from auditor.analysis.nulls import benjamini_hochberg
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter

WHOLE, ALL = "whole row", "all its features"
FEWEST_KNOWN = 8
_Q = 0.05
DISENTANGLED, CAUSE, ISOLATION = "disentanglement", "cause", "isolation"


class Answers(Protocol):
    """Runs the network with other rows at the last tokens of entities."""

    def __call__(self, ask: int, bases: Rows, rows: NDArray[np.float32]) -> Rows:
        """The value (a number) of the attribute `ask` that the network gives for each of the entities `bases` [n] where
        its row is one of `rows` [n, d]."""


@dataclass(frozen=True)
class Entities:
    """Entities with the values of their attributes, and where the network knows them.

    `values` [entities, attributes]; `known` bool of the same shape; `attributes` names them. Sample a · entities + e of
    what is pooled is entity e in the prompt that asks for attribute a.
    """

    attributes: tuple[str, ...]
    values: Rows
    known: NDArray[np.bool_]

    def row(self, ask: int, entities: Rows) -> Rows:
        """The samples of these entities in the prompt that asks for an attribute."""
        return ask * len(self.values) + entities


@dataclass(frozen=True)
class _Tests:
    """Pairs of one split: the attribute `ask` [n], the entity `base` [n] asked about, the `other` [n]."""

    ask: Rows
    base: Rows
    other: Rows


@dataclass(frozen=True)
class _Outcome:
    """What the network said in the split `number` with what `of` has exchanged, [attributes, tests]."""

    number: int
    ranking: str
    of: str
    said: Rows


def ravel(
    pooled: Pooled, entities: Entities, answers: Answers, *, k: int = 100, pairs: int = 40, seeds: int = 5,
    seed: int = 0, rankings: Sequence[str] = ("variance",), reporter: Reporter | None = None,
) -> list[Figure]:  # fmt: skip
    """Disentanglement, cause and isolation of the dictionary and of what stands beside it, by each of `rankings`
    (RANKINGS), which all that stands beside it follows, too.

    `pairs` for each attribute are spread over the splits, each of which learns from half of the entities and tests
    pairs of the others. AuditorError where the network knows too little of an attribute.
    """
    reporter = reporter or Reporter()
    for at, name in enumerate(entities.attributes):
        _must_know(entities, at, name)
    each = max(2, -(-pairs // seeds))
    tests: list[_Tests] = []
    outcomes: list[_Outcome] = []
    reporter.started("Exchanging features", seeds, "splits")
    for number in range(seeds):
        learn, test = _sides(entities, seed + number)
        drawn = _tests(entities, test, each, seed + number)
        tests.append(drawn)
        learned = np.concatenate([entities.row(ask, learn) for ask in range(len(entities.attributes))])
        for held in pooled.representations(learned):
            # One row an entity, the mean over the prompts: rows of one entity are not independent.
            each_learned = held.codes[learned].reshape(len(entities.attributes), len(learn), -1).mean(0)
            one = replace(held, codes=each_learned)
            for ranking in rankings:
                chosen = [RANKINGS[ranking](one, np.arange(len(learn)), entities.values[learn, at], k)
                          for at in range(len(entities.attributes))]  # fmt: skip
                said = _exchanged(held, pooled.mean, entities, drawn, chosen, answers)
                outcomes.append(_Outcome(number, ranking, held.name, said))
                reporter.check()
        for name, of in ((WHOLE, None), (ALL, pooled.features)):
            said = _whole(pooled.mean, entities, drawn, answers, of)
            outcomes += [_Outcome(number, ranking, name, said) for ranking in rankings]
        reporter.step(number + 1, seeds, unit="splits")
    return _figures(entities, tests, outcomes, seed)


def carriers(held: Representation, rows: Rows, values: Rows, k: int) -> Rows:
    """The k numbers of a representation that carry most of an attribute with `values` [rows] in the samples `rows`:
    variance between the values beyond what the variance within them would give, times the square of what each writes;
    of those alone whose variance between is beyond chance (F test, Benjamini-Hochberg, q < 0.05)."""
    codes = held.codes[rows].astype(np.float64)
    names, member = np.unique(values, return_inverse=True)
    sizes = np.bincount(member)
    means = np.stack([codes[member == at].mean(0) for at in range(len(names))])
    between = (sizes[:, None] * (means - codes.mean(0)) ** 2).sum(0) / max(len(names) - 1, 1)
    within = ((codes - means[member]) ** 2).sum(0) / max(len(codes) - len(names), 1)
    ratio = np.divide(between, within, out=np.where(between > 0, np.inf, 0.0), where=within > 0)
    beyond = f_test.sf(ratio, max(len(names) - 1, 1), max(len(codes) - len(names), 1))
    written = (held.directions.astype(np.float64) ** 2).sum(1)
    return _best(np.where(benjamini_hochberg(beyond) < _Q, np.maximum(between - within, 0) * written, 0), k)


def weighed(held: Representation, rows: Rows, values: Rows, k: int) -> Rows:
    """The k numbers that a sparse logistic probe of the attribute weighs most: root of the sum over its values of the
    squared weights; of those alone that have any."""
    weights = fit_sparse(held.codes[rows], values[:, None] == np.unique(values))
    return _best(np.linalg.norm(weights, axis=1), k)


def _best(score: Array, k: int) -> Rows:
    """The k of largest score above 0, fewer where there are fewer."""
    order = np.argsort(-score, kind="stable")[:k]
    found: Rows = order[score[order] > 0]
    return found


RANKINGS: dict[str, Callable[[Representation, Rows, Rows, int], Rows]] = {"variance": carriers, "probe": weighed}
# What a figure's name says of the ranking.
_RANKED = {"variance": "", "probe": " (probe's features)"}


def _exchanged(
    held: Representation, x: NDArray[np.float32], entities: Entities, tests: _Tests, chosen: Sequence[Rows],
    answers: Answers,
) -> Rows:  # fmt: skip
    """The answers [attributes, tests] with each attribute's features exchanged."""
    found = np.empty((len(chosen), len(tests.ask)), dtype=np.int64)
    for ask in range(len(chosen)):
        at = np.flatnonzero(tests.ask == ask)
        base, other = entities.row(ask, tests.base[at]), entities.row(ask, tests.other[at])
        for patched, features in enumerate(chosen):
            if not len(features):  # nothing is exchanged: the network gives what it knows
                found[patched, at] = entities.values[tests.base[at], ask]
                continue
            away = held.codes[np.ix_(other, features)] - held.codes[np.ix_(base, features)]
            rows = (x[base] + away @ held.directions[features]).astype(np.float32)
            found[patched, at] = answers(ask, tests.base[at], rows)
    return found


def _whole(
    x: NDArray[np.float32], entities: Entities, tests: _Tests, answers: Answers, held: Representation | None = None
) -> Rows:
    """The answers with the whole row exchanged, or with all that a representation has of it, the same whichever
    attribute is meant, [attributes, tests]."""
    found = np.empty(len(tests.ask), dtype=np.int64)
    for ask in range(len(entities.attributes)):
        at = np.flatnonzero(tests.ask == ask)
        base, other = entities.row(ask, tests.base[at]), entities.row(ask, tests.other[at])
        rows = x[other]
        if held is not None:
            rows = (x[base] + (held.codes[other] - held.codes[base]) @ held.directions).astype(np.float32)
        found[at] = answers(ask, tests.base[at], rows)
    return np.tile(found, (len(entities.attributes), 1))


def _figures(entities: Entities, tests: list[_Tests], outcomes: list[_Outcome], seed: int) -> list[Figure]:
    starts = np.concatenate([[0], np.cumsum([len(one.ask) for one in tests])])
    groups = [f"{base}" for one in tests for base in one.base]
    by_place: dict[tuple[str, str], list[Split]] = {}
    for one in outcomes:
        rows = np.arange(starts[one.number], starts[one.number + 1])
        made = _split(rows, entities, tests[one.number], one.said)
        by_place.setdefault((one.ranking, one.of), []).append(made)
    found = [
        figure("ravel", f"{name}{_RANKED[ranking]}", of, splits, groups, "pairs", combine=combine, seed=seed)
        for name, combine in _COMBINED.items()
        for (ranking, of), splits in by_place.items()
    ]
    return [one for one in found if one is not None]


# Of cause and isolation [draws, 2].
_COMBINED: dict[str, Callable[[Array], Array]] = {
    DISENTANGLED: lambda parts: np.asarray(parts.mean(1)), CAUSE: lambda parts: parts[:, 0],
    ISOLATION: lambda parts: parts[:, 1],
}  # fmt: skip


def _split(rows: Rows, entities: Entities, tests: _Tests, said: Rows) -> Split:
    """Cause and isolation, [draws, 2]: means over the attributes of shares of tests."""
    at = np.arange(len(tests.ask))
    became = said == entities.values[tests.other, tests.ask]
    stayed = said == entities.values[tests.base, tests.ask]
    asks = [np.flatnonzero(tests.ask == ask) for ask in range(len(entities.attributes))]

    def statistic(counts: Array) -> Array:
        cause: list[Array] = []
        isolation: list[Array] = []
        for patched in range(len(asks)):
            for ask, held in enumerate(asks):
                right = (became if ask == patched else stayed)[patched, at[held]]
                share = counts[:, held] @ right / counts[:, held].sum(1)
                (cause if ask == patched else isolation).append(share)
        return np.stack([np.mean(cause, 0), np.mean(isolation, 0)], 1)

    return Split(rows, statistic)


def _sides(entities: Entities, seed: int) -> tuple[Rows, Rows]:
    """Entities to learn from and to test on, of those of which something is known."""
    held = np.flatnonzero(entities.known.any(1))
    order = np.random.default_rng([seed, 31]).permutation(held)
    return np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])


def _tests(entities: Entities, test: Rows, each: int, seed: int) -> _Tests:
    """For each attribute `each` pairs of entities of which the network knows it, and that differ in it."""
    generator = np.random.default_rng([seed, 37])
    asks, bases, others = [], [], []
    for ask, name in enumerate(entities.attributes):
        known = test[entities.known[test, ask]]
        value = entities.values[known, ask]
        first, second = np.nonzero(value[:, None] != value[None, :])
        if not len(first):
            raise AuditorError(
                f"A half of the entities is known to have one {name} only.",
                "Choose a larger model, or leave RAVEL out.",
            )
        drawn = generator.permutation(len(first))[:each]
        asks += [ask] * len(drawn)
        bases += known[first[drawn]].tolist()
        others += known[second[drawn]].tolist()
    return _Tests(np.array(asks), np.array(bases), np.array(others))


def _must_know(entities: Entities, at: int, name: str) -> None:
    known = entities.known[:, at]
    if known.sum() < FEWEST_KNOWN or len(np.unique(entities.values[known, at])) < 2:
        raise AuditorError(
            f"The model knows the {name} of {int(known.sum())} of {len(known)} entities, and {FEWEST_KNOWN} with two "
            "values are needed.", "RAVEL needs a model that knows the facts; choose a larger one, or leave it out.",
        )  # fmt: skip
