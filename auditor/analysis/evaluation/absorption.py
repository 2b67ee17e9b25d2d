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

from collections.abc import Sequence
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
    reporter = reporter or Reporter()
    letters = np.array([ord(word[0].lower()) - ord("a") for word in words])
    common = [letter for letter in range(26) if (letters == letter).sum() >= FEWEST_WORDS]
    kept = np.flatnonzero(np.isin(letters, common))
    if len(common) < 2:
        raise AuditorError(
            f"Only {len(common)} first letters have {FEWEST_WORDS} words of one token.", "Ask for more words."
        )
    of = np.searchsorted(common, letters[kept])
    held, names = pooled.part(kept), [words[at] for at in kept.tolist()]
    truths = of[:, None] == np.arange(len(common))
    found: dict[tuple[str, str], list[Split]] = {}
    tested: set[int] = set()
    examples: dict[str, tuple[str, str, int, tuple[int, ...]]] = {}
    reporter.started("Looking for absorption", seeds, "splits")
    for number in range(seeds):
        learn, test = halves(names, of, seed + number)
        probe = fit_dense(held.mean[learn], truths[learn], seed + number, balanced=False)
        said = probe.logits(held.mean[test]) > 0
        good = np.flatnonzero(f1(said, truths[test]) >= _PROBE_F1)
        tested |= set(good.tolist())
        if not len(good):
            reporter.step(number + 1, seeds, unit="splits")
            continue
        found.setdefault((MAIN, PROBE), []).append(_f1_split(said[:, good], truths[np.ix_(test, good)], test))
        order = np.random.default_rng([seed + number, 29]).permutation(len(held.features.directions))
        exchanged = replace(held.features, name=EXCHANGED, directions=held.features.directions[order])
        own = _mains(held.features, truths, learn, good)
        # Exchanged rows change what features write, not when they fire: the main features are the same.
        pairs = ((held.features, own), (held.control, _mains(held.control, truths, learn, good)), (exchanged, own))
        for one, mains in pairs:
            read = np.stack([_said(one, main, truths[:, letter], learn, test)
                             for letter, main in zip(good, mains, strict=True)], 1)  # fmt: skip
            if one is not exchanged:
                found.setdefault((MAIN, one.name), []).append(_f1_split(read, truths[np.ix_(test, good)], test))
            rows, full, part, by = _absorbed(one, held.mean, probe, good, mains, of, said, test)
            found.setdefault((FULL, one.name), []).append(_share(rows, full))
            found.setdefault((FRACTION, one.name), []).append(_share(rows, part))
            if one is held.features:
                for at in np.flatnonzero(full)[:50]:
                    row, main = rows[at], mains[int(np.flatnonzero(good == of[rows[at]])[0])]
                    letter = chr(ord("a") + common[of[row]])
                    examples.setdefault(
                        names[row], (names[row], letter, int(one.ids[by[at]]), tuple(map(int, one.ids[main])))
                    )
        reporter.step(number + 1, seeds, unit="splits")
    if not tested:
        raise AuditorError(
            f"No first letter of a word can be read from “{hook}”: no probe reaches an F1 of {_PROBE_F1}.",
            "Choose a dictionary of an earlier layer, or leave absorption out.",
        )
    figures = [
        figure("absorption", name, of_, found[name, of_], names, "words", higher_is_better=name == MAIN, seed=seed)
        for name, of_ in sorted(found, key=lambda key: (FULL, FRACTION, MAIN).index(key[0]))
    ]
    return Absorption(
        [one for one in figures if one is not None], "".join(chr(ord("a") + common[at]) for at in sorted(tested)),
        list(examples.values()),
    )  # fmt: skip


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
