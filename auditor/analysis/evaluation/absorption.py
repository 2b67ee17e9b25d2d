"""Feature absorption: the feature of a letter stays silent where a feature of a certain word speaks for it.

Chanin et al. 2024, “A is for Absorption”, §5; SAEBench (Karvonen et al. 2025), “absorption”. A logistic probe of each
first letter is the truth. A letter's main features are those that tell it best; another one counts as split off it,
and so as main, where it raises the F1 of a probe of them by more than 0.03. Of the held-out words whose letter the
probe reads rightly, one is *absorbed* where all main features are silent, and the feature that writes most along the
probe's direction has a cosine of at least 0.025 with it and writes at least 0.4 of what the row holds along it. The
*absorption fraction* also counts words of which up to three other features (cosine ≥ 0.1) take over a part.

Where this differs from SAEBench: what a row holds along the probe is counted from the decoder's bias, from which the
features' parts add up; rates are shares of words, not means over letters; main features are found on the half that
learns; and beside the dictionary stand random directions and the dictionary with its decoder rows exchanged at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from auditor.analysis.evaluation.figures import Array, Figure, Rows, Split, Truth, figure
from auditor.analysis.evaluation.labelled import halves
from auditor.analysis.evaluation.pooled import Pooled, Representation
from auditor.analysis.evaluation.probes import Probes, fit, fit_dense, telling
from auditor.base.errors import AuditorError
from auditor.base.reporter import Reporter

PROBE, EXCHANGED = "dense probe", "its decoder rows, exchanged"
FULL, FRACTION, MAIN = "words absorbed", "absorption fraction", "F1 of the main features"
FEWEST_WORDS = 20
_MOST_MAIN, _JUMP = 10, 0.03
_COSINE, _FRACTION_COSINE, _PART, _ABSORBERS = 0.025, 0.1, 0.4, 3
_PROBE_F1 = 0.6
_MOST_EXAMPLES = 50  # of a split


@dataclass(frozen=True)
class Absorption:
    """The figures, the letters that were tested in some split, and a few absorbed words: (word, letter, feature that
    spoke for it, main features)."""

    figures: list[Figure]
    letters: str
    examples: list[tuple[str, str, int, tuple[int, ...]]]


def absorption(
    pooled: Pooled, words: Sequence[str], *, seeds: int = 5, seed: int = 0, hook: str = "",
    reporter: Reporter | None = None,
) -> Absorption:  # fmt: skip
    """Of the rows and features of words, one sample a word. AuditorError where no first letter can be read."""
    reporter, search = reporter or Reporter(), _Search(pooled, words)
    reporter.started("Looking for absorption", seeds, "splits")
    for number in range(seeds):
        search.split(seed + number)
        reporter.step(number + 1, seeds, unit="splits")
    if not search.tested:
        raise AuditorError(
            f"No first letter of a word can be read from “{hook}”: no probe reaches an F1 of {_PROBE_F1}.",
            "Choose a dictionary of an earlier layer, or leave absorption out.",
        )
    found = search.found
    figures = [
        figure("absorption", name, of, found[name, of], search.names, "words", higher_is_better=name == MAIN, seed=seed)
        for name, of in sorted(found, key=lambda key: (FULL, FRACTION, MAIN).index(key[0]))
    ]
    letters = "".join(search.letter(at) for at in sorted(search.tested))
    return Absorption([one for one in figures if one is not None], letters, list(search.examples.values()))


class _Search:
    """Words whose first letters are common enough, and what the splits so far have `found` of each contestant by the
    figure's name; letters that were `tested`, and `examples` of absorbed words. AuditorError for too few letters."""

    def __init__(self, pooled: Pooled, words: Sequence[str]) -> None:
        first = np.array([ord(word[0].lower()) - ord("a") for word in words])
        self._common = [letter for letter in range(26) if (first == letter).sum() >= FEWEST_WORDS]
        if len(self._common) < 2:
            raise AuditorError(
                f"Only {len(self._common)} first letters have {FEWEST_WORDS} words of one token.", "Ask for more words."
            )
        kept = np.flatnonzero(np.isin(first, self._common))
        self._held, self.names = pooled.part(kept), [words[at] for at in kept.tolist()]
        self._of = np.searchsorted(self._common, first[kept])
        self._truths = self._of[:, None] == np.arange(len(self._common))
        self.found: dict[tuple[str, str], list[Split]] = {}
        self.tested: set[int] = set()
        self.examples: dict[str, tuple[str, str, int, tuple[int, ...]]] = {}

    def letter(self, number: int) -> str:
        """The letter of that number among the common ones."""
        return chr(ord("a") + self._common[number])

    def split(self, seed: int) -> None:
        """One reseeded split: the letters that a dense probe can read, and what becomes of them in each contestant."""
        held, truths = self._held, self._truths
        learn, test = halves(self.names, self._of, seed)
        probe = fit_dense(held.mean[learn], truths[learn], seed, balanced=False)
        said = probe.logits(held.mean[test]) > 0
        good = np.flatnonzero(f1(said, truths[test]) >= _PROBE_F1)
        self.tested |= set(good.tolist())
        if not len(good):
            return
        self._add(MAIN, PROBE, _f1_split(said[:, good], truths[np.ix_(test, good)], test))
        order = np.random.default_rng([seed, 29]).permutation(len(held.features.directions))
        exchanged = replace(held.features, name=EXCHANGED, directions=held.features.directions[order])
        # Exchanged rows change what features write, not when they fire: the main features are the same.
        own, others = (_mains(one, truths, learn, good) for one in (held.features, held.control))
        for one, mains in ((held.features, own), (held.control, others), (exchanged, own)):
            if one is not exchanged:
                read = [_said(one, main, truths[:, letter], learn, test)
                        for letter, main in zip(good, mains, strict=True)]  # fmt: skip
                self._add(MAIN, one.name, _f1_split(np.stack(read, 1), truths[np.ix_(test, good)], test))
            rows, full, part, by = _absorbed(one, held.mean, probe, good, mains, self._of, said, test)
            self._add(FULL, one.name, _share(rows, full))
            self._add(FRACTION, one.name, _share(rows, part))
            if one is held.features:
                self._keep(rows[full > 0], by[full > 0], dict(zip(good.tolist(), mains, strict=True)))

    def _add(self, name: str, of: str, split: Split) -> None:
        self.found.setdefault((name, of), []).append(split)

    def _keep(self, rows: Rows, by: Rows, mains: Mapping[int, Rows]) -> None:
        """Absorbed words as examples: `by` which feature, in place of the main ones of each letter."""
        ids = self._held.features.ids
        for row, feature in zip(rows[:_MOST_EXAMPLES].tolist(), by.tolist(), strict=False):
            name, letter = self.names[row], int(self._of[row])
            told = name, self.letter(letter), int(ids[feature]), tuple(map(int, ids[mains[letter]]))
            self.examples.setdefault(name, told)


def f1(said: NDArray[np.bool_], truths: NDArray[np.bool_]) -> Array:
    """F1 of each column [n, tasks]; 0 where nothing is said."""
    right, wrong = (said & truths).sum(0), (said != truths).sum(0)
    return np.asarray(2 * right / np.maximum(2 * right + wrong, 1), dtype=np.float64)


def _mains(held: Representation, truths: NDArray[np.bool_], learn: Rows, good: Rows) -> list[Rows]:
    """The main features of each letter in `good`, best first."""
    scores = telling(held.codes[learn], truths[np.ix_(learn, good)])
    found = []
    for letter, score in zip(good, scores, strict=True):
        order = np.argsort(-score, kind="stable")[:_MOST_MAIN]
        order = order[score[order] > 0]
        truth, size, before = truths[learn, letter], 1, 0.0
        for k in range(1, len(order) + 1):
            codes = held.codes[np.ix_(learn, order[:k])]
            said = fit(codes, truth[:, None], balanced=False).logits(codes) > 0
            now = float(f1(said, truth[:, None])[0])
            if k > 1 and now - before <= _JUMP:
                break
            size, before = k, now
        found.append(order[:size])
    return found


def _said(held: Representation, main: Rows, truth: Truth, learn: Rows, test: Rows) -> Truth:
    """Which of the words `test` a probe of the main features alone takes for the letter's."""
    probe = fit(held.codes[np.ix_(learn, main)], truth[learn, None], balanced=False)
    return np.asarray(probe.logits(held.codes[np.ix_(test, main)])[:, 0] > 0)


def _absorbed(
    held: Representation, x: NDArray[np.float32], probe: Probes, good: Rows, mains: list[Rows], of: Rows,
    said: NDArray[np.bool_], test: Rows,
) -> tuple[Rows, Array, Array, Rows]:  # fmt: skip
    """Of the words whose letter the probe reads rightly: their rows, whether each is absorbed, its absorption fraction,
    and the feature that writes most along the probe."""
    rows, full, parts, by = [], [], [], []
    for letter, main in zip(good, mains, strict=True):
        direction = probe.weights[:, letter] / np.linalg.norm(probe.weights[:, letter])
        along = held.directions @ direction
        cosine = along / np.maximum(np.linalg.norm(held.directions, axis=1), 1e-12)
        for at in np.flatnonzero((of[test] == letter) & said[:, letter]):
            row = test[at]
            whole = float((x[row] - held.base) @ direction)
            written = held.codes[row] * along
            top = int(written.argmax()) if len(written) else -1  # none fires on any word: none speaks for another
            silent = top >= 0 and not (held.codes[row, main] > 0).any()
            rows.append(row)
            by.append(top)
            full.append(silent and whole > 0 and cosine[top] >= _COSINE and written[top] >= _PART * whole)
            parts.append(_fraction(written, cosine, main, whole))
    return np.array(rows, np.int64), np.array(full, float), np.array(parts, float), np.array(by, np.int64)


def _fraction(written: Array, cosine: Array, main: Rows, whole: float) -> float:
    """How much of what a row holds along the probe (`whole`) other features write in place of the main ones."""
    own = float(written[main].sum())
    others = np.where((cosine >= _FRACTION_COSINE) & (written > 0), written, 0)
    others[main] = 0
    taken = float(np.sort(others)[-_ABSORBERS:].sum())
    if whole <= 0 or own >= whole or taken < _PART * whole:
        return 0.0
    if own <= 0:
        return 1.0
    taken = min(taken, whole - own)
    return taken / (taken + own)


def _share(rows: Rows, held: Array) -> Split:
    return Split(rows, lambda counts: (counts @ held / counts.sum(1))[:, None])


def _f1_split(said: NDArray[np.bool_], truths: NDArray[np.bool_], test: Rows) -> Split:
    """Mean F1 over the letters."""

    def statistic(counts: Array) -> Array:
        right, wrong = counts @ (said & truths).astype(float), counts @ (said != truths).astype(float)
        return np.asarray((2 * right / np.maximum(2 * right + wrong, 1)).mean(1, keepdims=True))

    return Split(test, statistic)
