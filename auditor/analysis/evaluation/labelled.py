"""Samples with labels, as classes: which label, which of its values, and halves that keep groups whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from auditor.base.errors import AuditorError

Rows = NDArray[np.int64]

GROUP = "group"
FEWEST = 20
"""Samples that a class needs."""
_MOST_CLASSES = 6
_TOLD = 8
_LOOKED_AT = 12


@dataclass(frozen=True)
class Facts:
    """What a store or a file keeps of one sample; `read`: whether a dictionary reads a position of it. One that is not
    read keeps its number and belongs to no class."""

    id: str
    group: str
    labels: Mapping[str, str]
    read: bool = True

    def value(self, label: str) -> str:
        """Its value of a label; the group counts as one. Empty where it has none."""
        if not self.read:
            return ""
        return self.group if label == GROUP else self.labels.get(label, "")


@dataclass(frozen=True)
class Classes:
    """Samples of some classes: `numbers` [n] of the samples, `of` [n] the class of each (a number in `names`),
    `groups` [n] what must stay on one side of a split."""

    label: str
    names: tuple[str, ...]
    numbers: Rows
    of: Rows
    groups: tuple[str, ...]

    @property
    def truths(self) -> NDArray[np.bool_]:
        """One task a class, against the rest, [n, tasks]; one task where there are two classes."""
        found: NDArray[np.bool_] = self.of[:, None] == np.arange(len(self.names))
        return found[:, :1] if len(self.names) == 2 else found


def classes_of(
    facts: Sequence[Facts], label: str, wanted: Sequence[str], n: int, seed: int, fewest: int = 2
) -> Classes:
    """At most `n` samples of each class of `label` ("": the group, else the first label that will do): the values
    `wanted`, else the six commonest. AuditorError where fewer than `fewest` classes have 20 samples."""
    chosen = label or _first(facts, fewest)
    if chosen != GROUP and not any(chosen in fact.labels for fact in facts):
        raise AuditorError(f"The samples have no label “{chosen}”.", told(facts))
    counts = Counter(fact.value(chosen) for fact in facts)
    counts.pop("", None)
    named = [value for value in dict.fromkeys(wanted) if value]
    names = named or [value for value, _ in counts.most_common(_MOST_CLASSES)]
    for value in wanted:
        if counts[value] < FEWEST:
            raise AuditorError(
                f"Only {counts[value]} samples have the {chosen} “{value}”, and a class needs {FEWEST}.", told(facts)
            )
    names = [value for value in names if counts[value] >= FEWEST]
    if len(names) < fewest:
        raise AuditorError(
            f"“{chosen}” has {len(names)} value{'' if len(names) == 1 else 's'} with {FEWEST} samples or more, and "
            f"{fewest} are needed.", told(facts),
        )  # fmt: skip
    generator = np.random.default_rng([seed, 11])
    numbers, of = [], []
    for at, name in enumerate(names):
        held = np.array([number for number, fact in enumerate(facts) if fact.value(chosen) == name])
        drawn = np.sort(generator.permutation(held)[:n])
        numbers += drawn.tolist()
        of += [at] * len(drawn)
    groups = groups_of([facts[number] for number in numbers], (chosen,), of)
    return Classes(chosen, tuple(names), np.array(numbers), np.array(of), groups)


def cells_of(
    facts: Sequence[Facts], label: str, spurious: str, values: Sequence[str], n: int, seed: int
) -> tuple[Classes, Classes]:
    """The same samples by two labels of two values each, as many of each of the four kinds; AuditorError where a kind
    has too few. `values` name two of the label, then two of the other; else the commonest that occur together."""
    for name in (label, spurious):
        if name != GROUP and not any(name in fact.labels for fact in facts):
            raise AuditorError(f"The samples have no label “{name}”.", told(facts))
    if len(values) not in (0, 4) or len({*values[:2]}) + len({*values[2:]}) != len(values):
        raise AuditorError(
            f"{len(values)} values are named, and spurious correlation removal needs two of each label.",
            f"Name two of “{label}”, then two of “{spurious}”, or none.",
        )
    pairs = Counter((fact.value(label), fact.value(spurious)) for fact in facts)
    four = tuple(values) if values else _commonest(pairs)
    if four is None or min(pairs[a, b] for a in four[:2] for b in four[2:]) < FEWEST:
        raise AuditorError(
            f"No two values of “{label}” each occur {FEWEST} times with two values of “{spurious}”.", told(facts)
        )
    kinds = [(a, b) for a in four[:2] for b in four[2:]]
    each = min(n, *(pairs[kind] for kind in kinds))
    generator = np.random.default_rng([seed, 13])
    numbers: list[int] = []
    for kind in kinds:
        held = [at for at, fact in enumerate(facts) if (fact.value(label), fact.value(spurious)) == kind]
        numbers += np.sort(generator.permutation(held)[:each]).tolist()
    of = np.repeat(np.arange(4), each)
    groups = groups_of([facts[number] for number in numbers], (label, spurious), of.tolist())
    held_at = np.array(numbers)
    return (Classes(label, (four[0], four[1]), held_at, of // 2, groups),
            Classes(spurious, (four[2], four[3]), held_at, of % 2, groups))  # fmt: skip


def groups_of(facts: Sequence[Facts], labels: Sequence[str], of: Sequence[int]) -> tuple[str, ...]:
    """What stays on one side: the samples' groups; each sample for itself where the groups are the classes, or where a
    class has too few of them to be split."""
    own = tuple(f"{number} {fact.id}" for number, fact in enumerate(facts))
    if GROUP in labels:
        return own
    named = tuple(fact.group or own[number] for number, fact in enumerate(facts))
    held = {at: {name for name, one in zip(named, of, strict=True) if one == at} for at in set(of)}
    return named if min(map(len, held.values())) >= FEWEST // 2 else own


def halves(groups: Sequence[str], of: Rows, seed: int) -> tuple[Rows, Rows]:
    """Rows to learn from and rows to test on: no group in both, each class dealt out evenly by its groups.
    AuditorError where a half lacks a class."""
    names, first, member = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    order = np.random.default_rng([seed, 17]).permutation(len(names))
    order = order[np.argsort(of[first][order], kind="stable")]
    side = np.empty(len(names), dtype=np.int64)
    side[order] = np.arange(len(names)) % 2
    parts = [np.flatnonzero(side[member] == half) for half in (0, 1)]
    if any(len(np.unique(of[part])) < len(np.unique(of)) for part in parts):
        raise AuditorError("A half of the samples lacks a class.", "Give more samples, or more groups of them.")
    return parts[0], parts[1]


def left_out(facts: Sequence[Facts], labels: Sequence[str]) -> str:
    """A sentence on samples that belong to no class; empty where all do."""
    unread = sum(not fact.read for fact in facts)
    without = {label: sum(fact.read and not fact.value(label) for fact in facts) for label in labels}
    told = [f"{count:,} without “{label}”" for label, count in without.items() if count]
    told += [f"{unread:,} without a position that is read"] if unread else []
    return f"Left out of {len(facts):,} samples: {', '.join(told)}." if told else ""


def told(facts: Sequence[Facts]) -> str:
    """What labels there are, and what to do where that is not enough."""
    names = list(dict.fromkeys([GROUP, *(name for fact in facts for name in fact.labels)]))
    kinds = [(name, len({fact.value(name) for fact in facts} - {""})) for name in names]
    listed = ", ".join(f"{name} ({count} value{'' if count == 1 else 's'})" for name, count in kinds[:_TOLD])
    return f"There are: {listed}. Record samples of a table, whose other columns are kept as labels, or name one."


def _first(facts: Sequence[Facts], fewest: int) -> str:
    """The group, or the first label, that has enough classes."""
    for name in dict.fromkeys([GROUP, *(name for fact in facts for name in fact.labels)]):
        counts = Counter(fact.value(name) for fact in facts)
        counts.pop("", None)
        if sum(count >= FEWEST for count in counts.values()) >= fewest:
            return name
    raise AuditorError(f"No label has {fewest} values with {FEWEST} samples or more.", told(facts))


def _commonest(pairs: Mapping[tuple[str, str], int]) -> tuple[str, str, str, str] | None:
    """Two values of each label whose rarest pair is as common as can be."""
    best, most = None, 0
    first, second = Counter[str](), Counter[str]()
    for (a, b), count in pairs.items():
        if a and b:
            first[a] += count
            second[b] += count
    one, two = ([value for value, _ in side.most_common(_LOOKED_AT)] for side in (first, second))
    for i, a in enumerate(one):
        for other in one[i + 1 :]:
            for j, b in enumerate(two):
                for last in two[j + 1 :]:
                    rarest = min(pairs.get((x, y), 0) for x in (a, other) for y in (b, last))
                    if rarest > most:
                        best, most = (a, other, b, last), rarest
    return best
